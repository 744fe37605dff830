"""What the tests of a run's progress share: a clock that stands still, and states folded from timed events."""

from __future__ import annotations

import io

from rich.console import Console

from optima_lite.records import EvalRow, Reward
from optima_lite.runs.progress import Event, PhaseAdvanced, PhaseFinished, PhaseStarted, State, fold

ROW = EvalRow("untrained", "sampled", 4, 0.5, 0.4, 0.6, 101.5, 97.0, 105.0, 3.0, 0.75, 203.0, 2.3)
REWARD = Reward(total=0.5, task=0.6, token_share=0.7, readability=0.8, worst_loss=2.0)


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def folded(*timed: tuple[float, Event]) -> State:
    """The state after events at given times, on a clock that starts at 0."""
    state = State(0.0)
    for now, event in timed:
        state = fold(state, event, now)
    return state


def done(start: float, end: float, name: str, iteration: int | None, total: int, *, kind: str = "sample") -> list:
    """A phase of one kind of work that did everything."""
    return [
        (start, PhaseStarted(name, iteration, total, "questions", (kind,))),
        (end, PhaseAdvanced(total)),
        (end, PhaseFinished()),
    ]


def drawn(drawing: object, *, width: int = 80) -> str:
    """What a terminal of that width shows."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(drawing)
    return stream.getvalue()
