"""Observers that show a run while it works: a live picture, plain lines, or JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..records import EvalRow, Reward, to_json
from .forecast import phase_left, run_left, share_done
from .progress import (
    Clock,
    Evaluated,
    Event,
    Note,
    PhaseAdvanced,
    PhaseFinished,
    PhaseStarted,
    PhaseState,
    Ranked,
    RunStarted,
    State,
    fold,
)

PLAIN_INTERVAL = 10.0  # seconds between two plain lines about the same phase
SHOWN_ITERATIONS = 6  # the live view keeps to one screen


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
                return f"{current.label}: {progress_text(current, now)}; {left_text(self._state, now)}"
            case PhaseFinished() if before:
                verb = "finished" if before.last.done >= before.begun.total else "stopped"
                return f"{before.label}: {verb} after {duration(before.seconds(now))}, {progress_text(before, now)}"
            case Ranked(iteration, reward):
                return f"iteration {iteration} reward: {reward_text(reward)}"
            case Evaluated(row, remark):
                return f"evaluation {row.name} {row.decoding}: {evaluation_text(row)}{remark and f'; {remark}'}"
            case Note(text):
                return text
        return None


def _is_complete(state: State) -> bool:
    return state.current is not None and state.current.last.done >= state.current.begun.total


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
    """The picture of `state` at the time `now`: iterations and evaluations so far, the phase, the bar and the times."""
    parts: list[RenderableType] = []
    if state.rewards:
        parts.append(_iterations_table(state.rewards[-SHOWN_ITERATIONS:]))
    if state.rows:
        before = [one for one in state.rows if not one.row.name.startswith("iteration_")]
        trained = [one for one in state.rows if one.row.name.startswith("iteration_")]
        parts.append(_rows_table(before[:SHOWN_ITERATIONS] + trained[-SHOWN_ITERATIONS:]))
    if state.current:
        of = f" of {state.run.iterations}" if state.run and state.current.in_iteration else ""
        number = state.current.begun.iteration
        where = "" if number is None else f" (number {number + 1}{of})"
        text = f"{state.current.label}{where}: {progress_text(state.current, now)}"
        parts.append(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"))
    elif state == State(state.started):
        parts.append(Text("starting", style="cyan"))
    return Group(*parts, _times(state, now))


def _times(state: State, now: float) -> RenderableType:
    """One line: a bar and a per cent of the whole run, where it is known, and the times."""
    elapsed = f"elapsed {duration(now - state.started)}"
    known = state.current or run_left(state, now) is not None
    times = f"{elapsed}, {left_text(state, now)}" if known else elapsed
    share = share_done(state, now)
    if share is None:
        return Text(times, style="dim")
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(1.0, share, width=24), Text(f"{share:4.0%}"), Text(times, style="dim"))
    return line


def _iterations_table(rewards: Sequence[Ranked]) -> Table:
    """What the training dialogues were like. The reward itself is not shown: within it tokens count against those of
    the same question's other dialogues, so that its mean may fall while everything improves."""
    table = Table("training dialogues", box=None, pad_edge=False)
    for heading in ("task score", "tokens", "readability"):
        table.add_column(heading, justify="right")
    for ranked in rewards:
        reward = ranked.reward
        values = (f"{reward.task:.3f}", f"{ranked.tokens:.1f}", f"{reward.readability:.3f}")
        table.add_row(f"iteration {ranked.iteration}", *values)
    return table


def _rows_table(rows: Sequence[Evaluated]) -> Table:
    table = Table("evaluation", "decoding", box=None, pad_edge=False)
    for heading in ("score", "tokens"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in rows:
        row = one.row
        table.add_row(row.name, row.decoding, f"{row.score:.3f}", f"{row.tokens:.1f}", Text(one.remark, style="yellow"))
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
    """Units done of the kind of work at hand; tokens per second, where tokens were counted, and the training loss."""
    units = counted(current.begun.total, current.begun.unit)
    done = current.parts[current.part].done
    reading = len(current.parts) > 1 and current.part == current.begun.parts[-1] and done < current.begun.total
    seconds = current.seconds(now)
    speed = f", {current.tokens / seconds:,.0f} tokens/s" if current.tokens and seconds > 0 and not reading else ""
    loss = "" if current.loss is None else f", loss {current.loss:.3f}"
    return (f"{units} asked, {done:,} read for the reward" if reading else f"{done:,} of {units}") + speed + loss


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
