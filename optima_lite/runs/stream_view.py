"""A stream for people: the picture of its timeline, and the table of what streaming is worth against other ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from ..records import EvalRow, TransferRow
from ..settings.workflow import Workflow
from ..team.stream import Beat
from ..team.timeline import ticks
from .dialogue_view import printable

_SHADES = ("cyan", "green", "magenta", "yellow", "blue", "red")
_WIDEST = 40  # ticks that a picture shows


@dataclass(frozen=True)
class TimelineView:
    """A timeline for `rich`: an agent a row, a tick a column, in each cell the number of the agent's step. title: over
    it."""

    beats: Sequence[Beat]
    workflow: Workflow
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        last = ticks(list(self.beats))
        shown = min(last, _WIDEST, max(1, (options.max_width - 20) // 3))
        yield Text(f"{self.title}: {last} tick{'s' * (last != 1)}" + f", the first {shown} shown" * (shown < last))
        table = Table(box=None, padding=0, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, min_width=12, max_width=18, overflow="ellipsis")
        for _ in range(shown):
            table.add_column(width=3, no_wrap=True)
        for number, step in enumerate(self.workflow.steps):
            own = [beat for beat in self.beats if beat.name == step.name]
            cells = {beat.tick: Text(f"{k:>2} ", f"reverse {_SHADES[number % 6]}") for k, beat in enumerate(own, 1)}
            if own:
                table.add_row(
                    Text(step.speaker, "bold"), *(cells.get(k, Text(" · ", "dim")) for k in range(1, shown + 1))
                )
        yield table


def transfer_table(rows: Sequence[TransferRow]) -> Table:
    """What the ways to hand messages on are worth."""
    table = _table("way", "score", "tokens", "ticks", "reused")
    for one in rows:
        row, ticks = one.row, "-" if one.ticks is None else f"{one.ticks:.1f}"
        table.add_row(row.name, _score(row), f"{row.tokens:.1f}", ticks, f"{one.reused:.0%}")
    return table


def times_table(rows: Sequence[TransferRow], *, against: str) -> Table:
    """How long they take, in seconds; and how many times shorter than the way named `against`."""
    table = _table("seconds", "a dialogue alone", "until its answer begins", "a dialogue of all at once")
    base = next(one for one in rows if one.row.name == against)
    for one in rows:
        times = [(one.seconds, base.seconds), (one.first, base.first), (one.together, base.together)]
        shown = [f"{own:.2f} (x{other / own:.2f})" if own else "-" for own, other in times]
        table.add_row(one.row.name, *shown)
    return table


def probe_table(rows: Sequence[EvalRow]) -> Table:
    """What is left of the score where others read only a part of what was said first."""
    table = _table("handed on", "score", "tokens")
    for row in rows:
        table.add_row(row.name, _score(row), f"{row.tokens:.1f}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, padding=(0, 2, 0, 0))
    for name in others:
        table.add_column(name, justify="right")
    return table


def _score(row: EvalRow) -> str:
    return f"{row.score:.3f} \\[{row.score_low:.2f}, {row.score_high:.2f}]"


class SideBySide:
    """A talk as it goes on, for `rich`: a tick a row, an agent a column."""

    def __init__(self, workflow: Workflow) -> None:
        self._names = workflow.names
        self._rows: dict[int, dict[str, str]] = {}

    def add(self, tick: int, name: str, text: str) -> None:
        """One more thing that was said."""
        row = self._rows.setdefault(tick, {})
        row[name] = f"{row[name]}\n{text}" if name in row else text

    def __rich__(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        table.add_column("tick", width=4, justify="right", style="dim")
        for name in self._names:
            table.add_column(name, ratio=1, overflow="fold")
        for tick, said in self._rows.items():
            table.add_row(str(tick), *(Text(printable(said.get(name, ""))) for name in self._names))
        return table
