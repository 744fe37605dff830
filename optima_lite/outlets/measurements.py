"""A run as curves: what its records say at each step, for programs that draw such things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..records import EvalRow
from ..runs.evaluations import evaluations, iteration_of
from ..runs.folder import RunFolder
from ..runs.steps import Imitation, Reinforcement, imitations, reinforcements, verdict_of

Values = dict[str, float]
_OF_A_ROW = [
    field.name for field in fields(EvalRow) if field.name not in ("name", "decoding", "questions", "undecided")
]


def measurements(run: RunFolder) -> dict[int, Values]:
    """What is known so far, by step: 0 before training, k + 1 after iteration k. Names are like eval/sampled/score."""
    found: dict[int, Values] = {}
    for step, values in _parts(run):
        found.setdefault(step, {}).update(values)
    return dict(sorted(found.items()))


def _parts(run: RunFolder) -> Iterator[tuple[int, Values]]:
    for row in evaluations(run):
        iteration = iteration_of(row)
        above = "single_agent" if row.name == "single_agent" else "eval"
        if iteration is not None or row.name in ("untrained", "single_agent"):
            yield 0 if iteration is None else iteration + 1, _named(f"{above}/{row.decoding}", _row(row))
    talked: list[Imitation | Reinforcement] = [*imitations(run), *reinforcements(run)]
    for step in talked:
        kind = "imitate" if isinstance(step, Imitation) else "reinforce"
        values: dict[str, Any] = {"dialogues": step.dialogues, "tokens": step.tokens / step.dialogues}
        values |= {"selected": getattr(step, "selected", None), "two_messages": step.two_messages}
        values |= {f"ended/{ending}": share for ending, share in step.endings.items()}
        if step.reward:
            values |= {f"reward/{part.name}": getattr(step.reward, part.name) for part in fields(step.reward)}
        yield step.iteration + 1, _named(kind, values)
    for iteration in run.iterations():
        yield iteration + 1, _training(run, iteration)


def _row(row: EvalRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _OF_A_ROW}


def _training(run: RunFolder, iteration: int) -> Values:
    """What each training step of an iteration stored of itself, and the verdict on it."""
    values: Values = {}
    folder = run.folder / f"iteration_{iteration:02d}"
    for path in sorted(folder.glob("*/training.json")):
        values |= _named(f"train/{path.parent.name}", run.read_json(str(path.relative_to(run.folder))))
    for path in sorted(folder.glob("*_verdict.json")):
        verdict = verdict_of(run, str(path.relative_to(run.folder).with_suffix("")))
        if verdict:
            numbers = {"before": verdict.before, "after": verdict.after, "change": verdict.change}
            values |= _named(f"validation/{path.stem}", numbers | {"kept": verdict.verdict == "keep"})
    return values


def _named(above: str, values: Mapping[str, Any]) -> Values:
    """The numbers among the values, under their names."""
    return {f"{above}/{name}": float(value) for name, value in values.items() if isinstance(value, int | float)}
