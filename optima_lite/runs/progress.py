"""What a run says about itself while it works: events, the state they add up to, and the times of its phases.

Work emits events; an observer is any callable that takes one. `fold` turns the stream of events into a frozen `State`,
and whatever is shown is computed from it: the time left in `forecast`, the screen in `live`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Protocol

from rich.table import Table

from ..model.meter import Meter
from ..records import EvalRow, Reward


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins, or goes on where it stopped (`resumed`). iterations: how many it will have when it is finished."""

    recipe: str
    folder: str
    iterations: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A phase begins; phases do not nest, and each name occurs once in an iteration.

    iteration: counted from 0, None outside of iterations. total: the work ahead, in `unit`s (plural: questions). parts:
    the kinds of work that every unit goes through, in order; what one kind has cost foretells what it will cost.
    """

    phase: str
    iteration: int | None
    total: int
    unit: str
    parts: tuple[str, ...] = ("work",)


@dataclass(frozen=True, slots=True)
class Planned:
    """The phases that a run will have, in order; a total that only shows on the way is a guess."""

    phases: tuple[PhaseStarted, ...]


@dataclass(frozen=True, slots=True)
class PhaseAdvanced:
    """`done` more units have gone through a part of the phase, the first unless it is named.

    stored: they were found in the run folder, so all their parts are done, and they say nothing about speed. loss: of
    the training step that ended.
    """

    done: int
    tokens: int = 0
    stored: bool = False
    part: str | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    """The phase is over, complete or not. activities: seconds of it by what the model or the trainer did. counts: its
    tokens by what became of them, see `meter.Counts`."""

    activities: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ranked:
    """An iteration's dialogues have their rewards. reward: the mean of each part. tokens: the mean of a dialogue's."""

    iteration: int
    reward: Reward
    tokens: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A line of the final table is known. remark: what to know about it, such as that its training step was undone."""

    row: EvalRow
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence that the user should read."""

    text: str


Event = RunStarted | Planned | PhaseStarted | PhaseAdvanced | PhaseFinished | Ranked | Evaluated | Note
Observer = Callable[[Event], None]
Clock = Callable[[], float]


class Advance(Protocol):
    """What `phase` hands out: call it with the number of units that are newly done; see `PhaseAdvanced`."""

    def __call__(
        self, done: int, *, tokens: int = 0, stored: bool = False, part: str | None = None, loss: float | None = None
    ) -> None: ...


@contextmanager
def phase(
    observe: Observer,
    name: str,
    *,
    iteration: int | None,
    total: int,
    unit: str,
    parts: tuple[str, ...] = ("work",),
    meter: Meter | None = None,
) -> Iterator[Advance]:
    """Announce a phase around the work in the `with` block; its end is announced on errors and Ctrl-C too.

    meter: what measures the phase's activities.
    """

    def advance(
        done: int, *, tokens: int = 0, stored: bool = False, part: str | None = None, loss: float | None = None
    ) -> None:
        observe(PhaseAdvanced(done, tokens, stored, part, loss))

    observe(PhaseStarted(name, iteration, total, unit, parts))
    before, counted_before = (meter.read(), asdict(meter.counts)) if meter else ({}, {})
    try:
        yield advance
    finally:
        after, counted_after = (meter.read(), asdict(meter.counts)) if meter else ({}, {})
        activities = {name: after[name] - before.get(name, 0.0) for name in after}
        observe(PhaseFinished(activities, {name: counted_after[name] - counted_before[name] for name in counted_after}))


def silent(event: Event) -> None:
    """The observer that shows nothing."""


def fan_out(*observers: Observer) -> Observer:
    """One observer that hands each event to all of `observers`, in order."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe


# --- The state: a fold over the events ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of work in a phase. done: units, `stored` of them found in the run folder. seconds: until the last of
    them."""

    done: int = 0
    stored: int = 0
    seconds: float = 0.0

    @property
    def worked(self) -> int:
        """Units done here and now."""
        return self.done - self.stored


@dataclass(frozen=True, slots=True)
class PhaseState:
    """One phase, under way or over. marked: when it last advanced. loss: of the last training step. Times in s."""

    begun: PhaseStarted
    started: float
    marked: float
    parts: Mapping[str, Part]
    tokens: int = 0
    loss: float | None = None
    ended: float | None = None
    activities: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The phase with its iteration, if it has one."""
        return f"iteration {self.begun.iteration} {self.begun.phase}" if self.in_iteration else self.begun.phase

    @property
    def in_iteration(self) -> bool:
        """Whether the phase belongs to an iteration."""
        return self.begun.iteration is not None

    @property
    def part(self) -> str:
        """The kind of work at hand: the first that is not through, else the last."""
        return next((name for name, part in self.parts.items() if part.done < self.begun.total), self.begun.parts[-1])

    @property
    def last(self) -> Part:
        """The last kind of work, after which a unit is complete."""
        return self.parts[self.begun.parts[-1]]

    def seconds(self, now: float) -> float:
        """How long the phase has taken by `now`."""
        return (now if self.ended is None else self.ended) - self.started

    def advanced(self, event: PhaseAdvanced, now: float) -> PhaseState:
        """The phase after so much more work, which took the time since it advanced before."""
        named = self.parts if event.stored else (event.part or self.begun.parts[0],)
        parts = dict(self.parts)
        for name in named:
            before = parts[name]
            stored, seconds = (event.done, 0.0) if event.stored else (0, now - self.marked)
            parts[name] = Part(before.done + event.done, before.stored + stored, before.seconds + seconds)
        tokens, loss = self.tokens + event.tokens, self.loss if event.loss is None else event.loss
        return dataclasses.replace(self, parts=parts, tokens=tokens, loss=loss, marked=now)


@dataclass(frozen=True, slots=True)
class State:
    """Everything the events have told so far."""

    started: float
    run: RunStarted | None = None
    plan: tuple[PhaseStarted, ...] = ()
    current: PhaseState | None = None
    finished: tuple[PhaseState, ...] = ()
    rewards: tuple[Ranked, ...] = ()
    rows: tuple[Evaluated, ...] = ()


def fold(state: State, event: Event, now: float) -> State:
    """The state after `event`, which happened at `now`."""
    match event:
        case RunStarted():
            return dataclasses.replace(state, run=event)
        case Planned(phases):
            return dataclasses.replace(state, plan=phases)
        case PhaseStarted(parts=parts):
            begun = PhaseState(event, now, now, dict.fromkeys(parts, Part()))
            return dataclasses.replace(state, current=begun)
        case PhaseAdvanced() if state.current:
            return dataclasses.replace(state, current=state.current.advanced(event, now))
        case PhaseFinished(activities, counts) if state.current:
            ended = dataclasses.replace(state.current, ended=now, activities=activities, counts=counts)
            return dataclasses.replace(state, current=None, finished=(*state.finished, ended))
        case Ranked():
            return dataclasses.replace(state, rewards=(*state.rewards, event))
        case Evaluated():
            return dataclasses.replace(state, rows=(*state.rows, event))
    return state


# --- Times and the profile ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timing:
    """One finished phase: wall-clock seconds, tokens, and units worked for (not those found in the run folder).

    activities: how many of the seconds the model or the trainer took, by what for; the rest is everything else. counts:
    tokens that went through the model, were found in the prefix cache, were sampled; none in runs of before they were
    kept.
    """

    iteration: int | None
    phase: str
    seconds: float
    tokens: int
    units: int
    activities: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Timings:
    """An observer that keeps one `Timing` per finished phase and hands each to `sink` at once."""

    def __init__(self, *, sink: Callable[[Timing], None] | None = None, clock: Clock = time.monotonic) -> None:
        self._rows: list[Timing] = []
        self._sink, self._clock = sink, clock
        self._state = State(clock())

    def __call__(self, event: Event) -> None:
        now = self._clock()
        self._state = fold(self._state, event, now)
        while len(self._rows) < len(self._state.finished):
            ended = self._state.finished[len(self._rows)]
            seconds = round(ended.seconds(now), 3)
            parts = {name: round(value, 3) for name, value in ended.activities.items()}
            begun, units = ended.begun, ended.last.worked
            self._rows.append(Timing(begun.iteration, begun.phase, seconds, ended.tokens, units, parts, ended.counts))
            if self._sink:
                self._sink(self._rows[-1])

    def rows(self) -> list[Timing]:
        """The phases that have finished, in order."""
        return list(self._rows)


ACTIVITIES = ("generate", "loss", "train", "arrange")
"""What a run's meter measures: sampling, the base model's reading, training; and laying out and keeping attention
states, the price of the prefix cache."""


def profile(rows: Sequence[Timing]) -> Table:
    """Where the time went: seconds and share of each phase, all iterations together; what these seconds were spent on;
    tokens and tokens per second. rest: neither the model nor the trainer."""
    table = Table("phase", title="where the time went (seconds)", box=None, padding=(0, 1, 0, 0))
    for heading in ("all", "share", *ACTIVITIES, "rest", "tokens", "tokens/s"):
        table.add_column(heading, justify="right")
    whole = sum(row.seconds for row in rows)
    for name in dict.fromkeys(row.phase for row in rows):
        table.add_row(*_profile_line(name, [row for row in rows if row.phase == name], whole))
    table.add_section()
    table.add_row(*_profile_line("all", rows, whole))
    shares = (sum(row.activities.get(name, 0.0) for row in rows) / whole if whole else 0.0 for name in ACTIVITIES)
    parts = [f"{share:.1%}" for share in shares]
    rest = sum(map(neither, rows)) / whole if whole else 0.0
    table.add_row("share", "", "", *parts, f"{rest:.1%}", "", "")
    return table


def neither(row: Timing) -> float:
    """Seconds of a phase that neither the model nor the trainer took."""
    return max(0.0, row.seconds - sum(row.activities.values()))


def _profile_line(name: str, rows: Sequence[Timing], whole: float) -> Iterator[str]:
    seconds, tokens = sum(row.seconds for row in rows), sum(row.tokens for row in rows)
    yield name
    yield f"{seconds:,.1f}"
    yield f"{seconds / whole if whole else 0.0:.1%}"
    for part in (*(sum(row.activities.get(name, 0.0) for row in rows) for name in ACTIVITIES), sum(map(neither, rows))):
        yield f"{part:,.1f}" if part >= 0.05 else "-"
    yield f"{tokens:,}" if tokens else "-"
    yield f"{tokens / seconds:,.0f}" if tokens and seconds else "-"
