"""What a run says about itself while it works: events, and the observers that show or keep them.

Work emits events; an observer is any callable that takes one. `fold` turns the stream of events into a frozen `State`,
and whatever is shown (live view, plain lines, time left, the profile) is computed from it. Only this module and `cli`
write to the terminal.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..model.meter import Meter
from ..records import EvalRow, Reward, to_json

PLAIN_INTERVAL = 10.0  # seconds between two plain lines about the same phase
SHOWN_ITERATIONS = 6  # the live view keeps to one screen


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

    iteration: counted from 0, None outside of iterations. total: the work ahead, in `unit`s (plural: questions).
    """

    phase: str
    iteration: int | None
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class PhaseAdvanced:
    """`done` more units are complete. stored: they were found in the run folder, so they say nothing about speed."""

    done: int
    tokens: int = 0
    stored: bool = False


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    """The phase is over, complete or not. activities: seconds of it by what the model or the trainer did."""

    activities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ranked:
    """An iteration's dialogues have their rewards. reward: the mean of each part."""

    iteration: int
    reward: Reward


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A line of the final table is known."""

    row: EvalRow


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence that the user should read."""

    text: str


Event = RunStarted | PhaseStarted | PhaseAdvanced | PhaseFinished | Ranked | Evaluated | Note
Observer = Callable[[Event], None]
Clock = Callable[[], float]


class Advance(Protocol):
    """What `phase` hands out: call it with the number of units that are newly done and the tokens they took."""

    def __call__(self, done: int, *, tokens: int = 0, stored: bool = False) -> None: ...


@contextmanager
def phase(
    observe: Observer, name: str, *, iteration: int | None, total: int, unit: str, meter: Meter | None = None
) -> Iterator[Advance]:
    """Announce a phase around the work in the `with` block; its end is announced on errors and Ctrl-C too.

    meter: what measures the phase's activities.
    """

    def advance(done: int, *, tokens: int = 0, stored: bool = False) -> None:
        observe(PhaseAdvanced(done, tokens, stored))

    observe(PhaseStarted(name, iteration, total, unit))
    before = meter.read() if meter else {}
    try:
        yield advance
    finally:
        after = meter.read() if meter else {}
        observe(PhaseFinished({name: after[name] - before.get(name, 0.0) for name in after}))


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
class PhaseState:
    """One phase, under way or over. done: units complete, `stored` of them found in the run folder. Times in s."""

    phase: str
    iteration: int | None
    total: int
    unit: str
    started: float
    done: int = 0
    stored: int = 0
    tokens: int = 0
    ended: float | None = None
    activities: Mapping[str, float] = field(default_factory=dict)

    @property
    def worked(self) -> int:
        """Units computed in this phase by this process."""
        return self.done - self.stored

    @property
    def label(self) -> str:
        """How the phase is called on the screen."""
        return self.phase if self.iteration is None else f"iteration {self.iteration} {self.phase}"

    def seconds(self, now: float) -> float:
        """How long the phase took, or has taken until `now`."""
        return (now if self.ended is None else self.ended) - self.started

    def seconds_per_unit(self, now: float) -> float | None:
        """Measured on the units worked for; None as long as there are none."""
        return self.seconds(now) / self.worked if self.worked else None


@dataclass(frozen=True, slots=True)
class State:
    """Everything the events have told so far."""

    started: float
    run: RunStarted | None = None
    current: PhaseState | None = None
    finished: tuple[PhaseState, ...] = ()
    rewards: tuple[Ranked, ...] = ()
    rows: tuple[EvalRow, ...] = ()


def fold(state: State, event: Event, now: float) -> State:
    """The state after `event`, which happened at `now`."""
    match event:
        case RunStarted():
            return dataclasses.replace(state, run=event)
        case PhaseStarted(name, iteration, total, unit):
            return dataclasses.replace(state, current=PhaseState(name, iteration, total, unit, started=now))
        case PhaseAdvanced(done, tokens, stored) if state.current:
            current = dataclasses.replace(
                state.current,
                done=state.current.done + done,
                stored=state.current.stored + (done if stored else 0),
                tokens=state.current.tokens + tokens,
            )
            return dataclasses.replace(state, current=current)
        case PhaseFinished(activities) if state.current:
            ended = dataclasses.replace(state.current, ended=now, activities=activities)
            return dataclasses.replace(state, current=None, finished=(*state.finished, ended))
        case Ranked():
            return dataclasses.replace(state, rewards=(*state.rewards, event))
        case Evaluated(row):
            return dataclasses.replace(state, rows=(*state.rows, row))
    return state


def phase_left(state: State, now: float) -> float | None:
    """Seconds until the current phase ends: by its own speed, else by the previous iteration's; None when unknown."""
    current = state.current
    if current is None:
        return None
    pace = current.seconds_per_unit(now)
    if pace is None:
        before = [p for p in state.finished if p.phase == current.phase and p.iteration is not None and p.worked]
        pace = before[-1].seconds_per_unit(now) if before and current.iteration is not None else None
        return None if pace is None else max(0.0, pace * (current.total - current.done) - current.seconds(now))
    return max(0.0, pace * (current.total - current.done))


def run_left(state: State, now: float) -> float | None:
    """Seconds until the run ends, reckoned from the phases of the previous iteration.

    None when it would be a guess: no iteration was seen whole, or a phase of it was only read from the run folder.
    """
    current, left = state.current, phase_left(state, now)
    if state.run is None or current is None or current.iteration is None or left is None:
        return None
    previous = [p for p in state.finished if p.iteration == current.iteration - 1]
    paces = [p.seconds_per_unit(now) if p.total else 0.0 for p in previous]
    if not previous or None in paces or current.phase not in {p.phase for p in previous}:
        return None
    costs = {p.phase: (pace or 0.0) * p.total for p, pace in zip(previous, paces, strict=True)}
    over = {p.phase for p in state.finished if p.iteration == current.iteration} | {current.phase}
    rest_of_iteration = sum(seconds for name, seconds in costs.items() if name not in over)
    return left + rest_of_iteration + sum(costs.values()) * (state.run.iterations - 1 - current.iteration)


# --- Times and the profile ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timing:
    """One finished phase: wall-clock seconds, tokens, and units worked for (not those found in the run folder).

    activities: how many of the seconds the model or the trainer took, by what for; the rest is everything else.
    """

    iteration: int | None
    phase: str
    seconds: float
    tokens: int
    units: int
    activities: Mapping[str, float] = field(default_factory=dict)


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
            self._rows.append(Timing(ended.iteration, ended.phase, seconds, ended.tokens, ended.worked, parts))
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


# --- Observers that write -------------------------------------------------------------------------


class JsonObserver:
    """One JSON object a line: the event's name, the seconds since the observer was made, the event's fields."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock, self._started = stream, clock, clock()

    def __call__(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        line = {"event": name, "seconds": round(self._clock() - self._started, 3), **to_json(event)}
        print(json.dumps(line), file=self._stream, flush=True)


class PlainObserver:
    """Plain lines for files and pipes: one when a phase starts and ends, and at most one every ten seconds between."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._state = State(clock())
        self._spoke = clock()

    def __call__(self, event: Event) -> None:
        now = self._clock()
        before, self._state = self._state.current, fold(self._state, event, now)
        if isinstance(event, PhaseAdvanced) and (now - self._spoke < PLAIN_INTERVAL or _is_complete(self._state)):
            return
        line = self._line(event, before, now)
        if line:
            self._spoke = now
            print(line, file=self._stream, flush=True)

    def _line(self, event: Event, before: PhaseState | None, now: float) -> str | None:
        current = self._state.current
        match event:
            case RunStarted():
                return headline(event)
            case PhaseStarted(total=total, unit=unit) if current:
                return f"{current.label}: {counted(total, unit)}"
            case PhaseAdvanced() if current:
                return f"{current.label}: {progress_text(current, now)}, {left_text(self._state, now)}"
            case PhaseFinished() if before:
                verb = "finished" if before.done >= before.total else "stopped"
                return f"{before.label}: {verb} after {duration(before.seconds(now))}, {progress_text(before, now)}"
            case Ranked(iteration, reward):
                return f"iteration {iteration} reward: {reward_text(reward)}"
            case Evaluated(row):
                return f"evaluation {row.name} {row.decoding}: {evaluation_text(row)}"
            case Note(text):
                return text
        return None


def _is_complete(state: State) -> bool:
    return state.current is not None and state.current.done >= state.current.total


class LiveObserver:
    """A live view at the bottom of the terminal; what is said once scrolls by above it. Use it as a context manager.

    Leaving the context stops the view and gives the cursor back, on errors and Ctrl-C too; the last picture stays. The
    view is drawn from a frozen state by the console's refresh thread, so drawing needs no lock.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._state = State(clock())
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> LiveObserver:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        self._state = fold(self._state, event, self._clock())
        if isinstance(event, Note | RunStarted):
            self._console.print(Text(event.text if isinstance(event, Note) else headline(event)))

    def _render(self) -> RenderableType:
        return live_view(self._state, self._clock())


def live_view(state: State, now: float) -> RenderableType:
    """The picture of `state` at the time `now`: the phase, rewards and evaluations so far, the times."""
    parts: list[RenderableType] = []
    if state.current:
        of = f" of {state.run.iterations}" if state.run and state.current.iteration is not None else ""
        where = "" if state.current.iteration is None else f" (number {state.current.iteration + 1}{of})"
        text = f"{state.current.label}{where}: {progress_text(state.current, now)}"
        parts.append(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"))
    elif state == State(state.started):
        parts.append(Text("starting", style="cyan"))
    if state.rewards:
        parts.append(_rewards_table(state.rewards[-SHOWN_ITERATIONS:]))
    if state.rows:
        parts.append(_rows_table(state.rows[:1] + state.rows[1:][-SHOWN_ITERATIONS:]))
    elapsed = f"elapsed {duration(now - state.started)}"
    parts.append(Text(f"{elapsed}, {left_text(state, now)}" if state.current else elapsed, style="dim"))
    return Group(*parts)


def _rewards_table(rewards: Sequence[Ranked]) -> Table:
    table = Table("iteration", box=None, pad_edge=False)
    for heading in ("reward", "task", "token share", "readability"):
        table.add_column(heading, justify="right")
    for ranked in rewards:
        reward = ranked.reward
        parts = (reward.total, reward.task, reward.token_share, reward.readability)
        table.add_row(str(ranked.iteration), *(f"{part:.3f}" for part in parts))
    return table


def _rows_table(rows: Sequence[EvalRow]) -> Table:
    table = Table("evaluation", "decoding", box=None, pad_edge=False)
    for heading in ("score", "tokens"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.name, row.decoding, f"{row.score:.3f}", f"{row.tokens:.1f}")
    return table


# --- Words ----------------------------------------------------------------------------------------


def headline(run: RunStarted) -> str:
    """Where a run is kept, and whether it began before; said once, when the folder is open."""
    return f"run folder {run.folder}{', resumed' if run.resumed else ''}"


def counted(number: int, unit: str) -> str:
    """`1,500 questions`, `1 model`. unit: the plural."""
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"


def duration(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress_text(current: PhaseState, now: float) -> str:
    """Units done and, where tokens were counted, tokens per second."""
    seconds = current.seconds(now)
    speed = f", {current.tokens / seconds:,.0f} tokens/s" if current.tokens and seconds > 0 else ""
    return f"{current.done:,} of {counted(current.total, current.unit)}{speed}"


def left_text(state: State, now: float) -> str:
    """The time left as far as it is known: of the run, else of the phase, else that it is unknown."""
    run, current = run_left(state, now), phase_left(state, now)
    if run is not None:
        return f"about {duration(run)} left"
    if current is not None:
        return f"about {duration(current)} left in this phase"
    return "time left not known yet"


def reward_text(reward: Reward) -> str:
    """The mean reward and its parts, before their weights; the form only where it was asked for."""
    parts = f"task {reward.task:.3f}, token share {reward.token_share:.3f}, readability {reward.readability:.3f}"
    parts += f", format {reward.format:.3f}" if reward.format else ""
    return f"mean {reward.total:.3f} ({parts})"


def evaluation_text(row: EvalRow) -> str:
    """Score and tokens with their intervals."""
    score = f"score {row.score:.3f} [{row.score_low:.3f}, {row.score_high:.3f}]"
    known = row.tokens_low is not None
    return f"{score}, {row.tokens:.1f} tokens" + (f" [{row.tokens_low:.1f}, {row.tokens_high:.1f}]" if known else "")
