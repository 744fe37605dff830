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
from .steps import Imitation, Preference, Reinforcement, verdict_of

ITERATIONS_A_TABLE = 7  # as many as 80 columns hold
_STEPS = {
    "imitate": "imitation",
    "prefer": "preference",
    "reinforce": "reinforcement",
    "prompts": "choice of prompts",
}
_VERDICTS = {"keep": "kept", "revert": "undone", "stop": "undone"}

Step = TypeVar("Step", Imitation, Preference, Reinforcement)
Steps = Sequence[Imitation] | Sequence[Preference] | Sequence[Reinforcement]
Lines = list[tuple[str, list[str]]]
"""Rows of a table of steps: a quantity's name, and its value in each iteration."""


def imitation_table(steps: Sequence[Imitation]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns."""
    return Group(*(_columns("imitation, iteration", part, imitation_lines(part)) for part in _parts(steps)))


def imitation_lines(steps: Sequence[Imitation]) -> Lines:
    """The rows of the table of imitation steps."""
    return [*_talk_lines(steps), ("selected", [count(one.selected) for one in steps]), *_last_lines(steps)]


def _talk_lines(steps: Sequence[Imitation] | Sequence[Reinforcement]) -> Lines:
    """How the dialogues were that a step learns from."""

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
    ]


def preference_table(steps: Sequence[Preference]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns.

    Where pairs branch off, as shares of all; the shifts are of a whole message's log-probability.
    """
    return Group(*(_columns("preference, iteration", part, preference_lines(part)) for part in _parts(steps)))


def preference_lines(steps: Sequence[Preference]) -> Lines:
    """The rows of the table of preference steps."""
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


def reinforcement_table(steps: Sequence[Reinforcement]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns.

    A group is a place of the workflow at which the dialogues about a question were compared.
    """
    return Group(*(_columns("reinforcement, iteration", part, reinforcement_lines(part)) for part in _parts(steps)))


def reinforcement_lines(steps: Sequence[Reinforcement]) -> Lines:
    """The rows of the table of reinforcement steps."""
    roles = dict.fromkeys(name for one in steps for name in one.paid)
    lines: Lines = [
        *_talk_lines(steps),
        *((f"a message of {name}", [_fixed(one.paid.get(name)) for one in steps]) for name in roles),
        ("groups", [count(one.groups) for one in steps]),
        ("  all worth the same", [_of(one.flat, one.groups) for one in steps]),
        ("KL (nats a token)", [_fixed(one.kl) for one in steps]),
        ("entropy (nats a token)", [_fixed(one.entropy) for one in steps]),
        ("tokens clipped", ["-" if one.clipped is None else f"{one.clipped:.1%}" for one in steps]),
    ]
    if any(one.value_error is not None for one in steps):
        lines.append(("error of the value head", [_fixed(one.value_error) for one in steps]))
    if any(one.stopped for one in steps):
        lines.append(("stopped early", ["yes" if one.stopped else "no" for one in steps]))
    return [*lines, *_last_lines(steps)]


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _of(part: int | None, whole: int | None) -> str:
    return "-" if part is None or not whole else f"{part / whole:.0%}"


def verdict_lines(run: RunFolder) -> list[Text]:
    """What is told of the steps that were undone: by how much the reward fell, and how sure that is."""
    judged = [
        (iteration, name, verdict_of(run, name))
        for iteration in run.iterations()
        for name in (stage_name(iteration, "5_verdict"), stage_name(iteration, "9_verdict"))
    ]
    undone = [
        (i, _STEPS[run.read_json(f"{name}.json")["step"]], verdict)
        for i, name, verdict in judged
        if verdict and verdict.verdict != "keep"
    ]
    return [Text(f"iteration {i}, {step} undone: {verdict}", style="dim") for i, step, verdict in undone]


def _last_lines(steps: Steps) -> Lines:
    """What is known of every kind of step."""
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


def _columns(heading: str, steps: Steps, lines: Lines) -> Table:
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


def taught_lines(steps: Sequence[Imitation]) -> list[Text]:
    """What teachers have shown in the iterations that had any, and how much of it was learnt from."""
    lines = []
    for one in steps:
        for taught in one.taught:
            learnt = "" if taught.selected is None else f", {taught.selected} of {one.selected} selected dialogues"
            source = "" if taught.source is None else f", from {taught.source}"
            shown = f"{taught.dialogues:,} demonstrations of {taught.teacher}, {taught.tokens:,} tokens{learnt}"
            lines.append(Text(f"iteration {one.iteration}: {shown} (licence {taught.licence}{source})"))
    return lines
