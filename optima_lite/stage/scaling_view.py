"""The curves of inference scaling: as a table, as CSV, and as a picture (extra `plot`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..errors import ConfigError, RunError
from .scaling import ScalingRow


def scaling_table(rows: Sequence[ScalingRow]) -> Table:
    """A line for each number of samples, with 95 % intervals; fits 80 columns."""
    table = Table("who answers", box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("samples", "tokens", "majority", "coverage"):
        table.add_column(heading, justify="right")
    for before, row in zip([None, *rows], rows, strict=False):
        table.add_row(
            row.name if before is None or before.name != row.name else "",
            str(row.samples),
            f"{row.tokens:,.1f}",
            _with_interval(row.majority, row.majority_low, row.majority_high),
            _with_interval(row.coverage, row.coverage_low, row.coverage_high),
        )
    return table


def _with_interval(value: float, low: float, high: float) -> Text:
    return Text.assemble(f"{value:.3f} ", (f"[{low:.2f}-{high:.2f}]", "dim"))


def write_csv(rows: Sequence[ScalingRow], path: Path) -> None:
    """A line for each row, under the names of its fields. Raises RunError when the file cannot be written."""
    table = [asdict(row) for row in rows]
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror}", where=path) from error


def require_plot() -> None:
    """Raises ConfigError when the library that draws is not installed."""
    if find_spec("matplotlib") is None:
        hint = "in the clone: pip install '.[plot]', or --no-png for the table and the CSV alone"
        raise ConfigError("the picture needs the library matplotlib, which is not installed", hint=hint)


def draw(rows: Sequence[ScalingRow], path: Path) -> None:
    """Majority and coverage against the tokens of a question, side by side, a curve for everyone who answers.

    Raises RunError when the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, measure in zip(panels, ("majority", "coverage"), strict=True):
        for name in dict.fromkeys(row.name for row in rows):
            own = [row for row in rows if row.name == name]
            tokens = [row.tokens for row in own]
            panel.plot(tokens, [getattr(row, measure) for row in own], marker="o", markersize=4, label=name)
            low, high = ([getattr(row, f"{measure}_{end}") for row in own] for end in ("low", "high"))
            panel.fill_between(tokens, low, high, alpha=0.15)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("tokens per question")
        panel.set_title({"majority": "majority vote", "coverage": "coverage (any sample right)"}[measure])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("score")
    panels[0].set_ylim(0, 1.02)
    panels[1].legend(loc="lower right")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror}", where=path) from error
