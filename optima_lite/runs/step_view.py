"""Training steps for people: a column an iteration, a row a quantity, and the steps that were undone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..records import Ending
from .cells import count, signed, table_of
from .dialogue_view import ENDINGS
from .folder import RunFolder, stage_name
from .steps import Imitation, Preference, verdict_of

ITERATIONS_A_TABLE = 7  # as many as 80 columns hold
_VERDICTS = {"keep": "kept", "revert": "undone", "stop": "undone"}

Step = TypeVar("Step", Imitation, Preference)
Lines = list[tuple[str, list[str]]]
"""Rows of a table of steps: a quantity's name, and its value in each iteration."""


def imitation_table(steps: Sequence[Imitation]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns."""
    return Group(*(_columns("imitation, iteration", part, _imitation_lines(part)) for part in _parts(steps)))


def _imitation_lines(steps: Sequence[Imitation]) -> Lines:
    def parts(name: str) -> list[str]:
        return ["-" if one.reward is None else f"{getattr(one.reward, name):.3f}" for one in steps]

    forms: Lines = [("  format", parts("format"))] if any(one.formatted for one in steps) else []
    return [
        ("dialogues", [f"{one.dialogues:,}" for one in steps]),
        ("tokens per dialogue", [f"{one.tokens / one.dialogues:.1f}" for one in steps]),
        ("reward among siblings", parts("total")),
        ("  task", parts("task")),
        ("  token share", parts("token_share")),
        ("  readability", parts("readability")),
        *forms,
        *(
            (f"ended: {name}", [f"{one.endings[ending]:.0%}" for one in steps])
            for ending, name in ENDINGS.items()
            if ending is not Ending.DONE or any(one.endings[ending] for one in steps)  # talks are never just done
        ),
        ("only two messages", [f"{one.two_messages:.0%}" for one in steps]),
        ("selected", [count(one.selected) for one in steps]),
        *_last_lines(steps),
    ]


def preference_table(steps: Sequence[Preference]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns.

    Where pairs branch off, as shares of all; the shifts are of a whole message's log-probability.
    """
    return Group(*(_columns("preference, iteration", part, _preference_lines(part)) for part in _parts(steps)))


def _preference_lines(steps: Sequence[Preference]) -> Lines:
    depths = sorted({depth for one in steps for depth in one.depths})
    lines: Lines = [
        ("trees", [f"{one.trees:,}" for one in steps]),
        ("tokens per tree", [f"{one.tokens / one.trees:,.1f}" for one in steps]),
        ("pairs", [count(one.pairs) for one in steps]),
        *((f"  at message {d + 1}", [f"{one.depths.get(d, 0.0):.0%}" for one in steps]) for d in depths),
        ("mean gap", ["-" if one.gap is None else f"{one.gap:.3f}" for one in steps]),
        ("chosen shift (nats)", [signed(one.chosen_shift) for one in steps]),
        ("rejected shift (nats)", [signed(one.rejected_shift) for one in steps]),
    ]
    if any(one.stopped for one in steps):
        lines.append(("stopped early", ["yes" if one.stopped else "no" for one in steps]))
    return [*lines, *_last_lines(steps)]


def verdict_lines(run: RunFolder) -> list[Text]:
    """What is told of the steps that were undone: by how much the reward fell, and how sure that is."""
    first = "choice of prompts" if run.manifest["recipe"].get("method") == "prompts" else "imitation"
    judged = [
        (iteration, step, verdict_of(run, stage_name(iteration, stage)))
        for iteration in run.iterations()
        for step, stage in ((first, "5_verdict"), ("preference", "9_verdict"))
    ]
    undone = [(i, step, verdict) for i, step, verdict in judged if verdict and verdict.verdict != "keep"]
    return [Text(f"iteration {i}, {step} undone: {verdict}", style="dim") for i, step, verdict in undone]


def _last_lines(steps: Sequence[Imitation] | Sequence[Preference]) -> Lines:
    """What is known of both kinds of step."""
    verdicts = [one.verdict for one in steps]
    lines = [("trained tokens", [count(one.trainer_tokens) for one in steps])]
    if any(verdicts):
        lines += [
            ("validation reward", ["-" if one is None else f"{one.after:.3f}" for one in verdicts]),
            ("  change", [signed(one.change if one else None, decimals=3) for one in verdicts]),
        ]
        if any(one.interval for one in verdicts if one):
            bounds = [one.interval if one and one.interval else (None, None) for one in verdicts]
            lines += [
                ("    at least", [signed(low, decimals=3) for low, _ in bounds]),
                ("    at most", [signed(high, decimals=3) for _, high in bounds]),
            ]
        lines.append(
            ("  verdict", ["-" if one is None else _VERDICTS.get(one.verdict, one.verdict) for one in verdicts])
        )
    if any(one.shortened for one in steps):
        lines.append(("questions shortened", [count(one.shortened) for one in steps]))
    return lines


def _parts(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    return (steps[i : i + ITERATIONS_A_TABLE] for i in range(0, len(steps), ITERATIONS_A_TABLE))


def _columns(heading: str, steps: Sequence[Imitation] | Sequence[Preference], lines: Lines) -> Table:
    table = table_of(heading)
    for one in steps:
        table.add_column(str(one.iteration), justify="right", min_width=7)
    for name, cells in lines:
        table.add_row(name, *cells)
    return table


def format_lines(steps: Sequence[Imitation]) -> list[Text]:
    """Which formats of the pool won in the iterations that used it."""
    lines = []
    for one in steps:
        if one.formats:
            counts = ", ".join(f"{name} {count}" for name, count in one.formats)
            lines.append(Text(f"formats selected in iteration {one.iteration}: {counts}"))
    return lines
