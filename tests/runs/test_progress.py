"""Events, the state folded from them, the time left, and the observers."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console

from optima_lite.model.meter import Meter
from optima_lite.records import EvalRow, Reward
from optima_lite.runs.progress import (
    Evaluated,
    Event,
    JsonObserver,
    LiveObserver,
    Note,
    PhaseAdvanced,
    PhaseFinished,
    PhaseStarted,
    PlainObserver,
    Ranked,
    RunStarted,
    State,
    Timing,
    Timings,
    duration,
    fan_out,
    fold,
    live_view,
    neither,
    phase,
    phase_left,
    profile,
    run_left,
    silent,
)

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


def done(start: float, end: float, name: str, iteration: int | None, total: int, *, stored: int = 0) -> list:
    """A phase that did everything."""
    return [
        (start, PhaseStarted(name, iteration, total, "questions")),
        (start, PhaseAdvanced(stored, stored=True)),
        (end, PhaseAdvanced(total - stored)),
        (end, PhaseFinished()),
    ]


# --- The phase context and the fold ---------------------------------------------------------------


def test_a_phase_tells_its_beginning_its_advance_and_its_end() -> None:
    seen: list[Event] = []
    with phase(seen.append, "generate", iteration=1, total=150, unit="questions") as advance:
        advance(8, tokens=1234)
        advance(16, stored=True)
    assert seen == [
        PhaseStarted("generate", 1, 150, "questions"),
        PhaseAdvanced(8, 1234),
        PhaseAdvanced(16, 0, stored=True),
        PhaseFinished(),
    ]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_phase_ends_on_errors_and_interrupts_too(error: type[BaseException]) -> None:
    seen: list[Event] = []
    with pytest.raises(error), phase(seen.append, "train", iteration=0, total=1, unit="steps"):
        raise error
    assert seen[-1] == PhaseFinished()


def test_fan_out_hands_every_event_to_all_in_order() -> None:
    seen: list[str] = []
    observe = fan_out(lambda event: seen.append("a"), silent, lambda event: seen.append("b"))
    observe(Note("x"))
    assert seen == ["a", "b"]


def test_the_fold_counts_stored_units_apart() -> None:
    state = folded(
        (1.0, PhaseStarted("generate", 0, 10, "questions")),
        (1.0, PhaseAdvanced(4, stored=True)),
        (3.0, PhaseAdvanced(2, tokens=50)),
    )
    assert state.current
    assert (state.current.done, state.current.worked, state.current.tokens) == (6, 2, 50)
    assert state.current.seconds_per_unit(3.0) == 1.0
    assert state.finished == ()


def test_advances_and_ends_without_a_phase_change_nothing() -> None:
    assert folded((1.0, PhaseAdvanced(1)), (2.0, PhaseFinished())) == State(0.0)


# --- Time left ------------------------------------------------------------------------------------

RUN = RunStarted("quickstart", "runs/x", 3, False)


def test_nothing_is_known_before_anything_is_done() -> None:
    state = folded((0.0, RUN), (0.0, PhaseStarted("generate", 0, 10, "questions")))
    assert (phase_left(state, 5.0), run_left(state, 5.0)) == (None, None)
    assert (phase_left(State(0.0), 1.0), run_left(State(0.0), 1.0)) == (None, None)


def test_in_the_first_iteration_only_the_phase_is_known() -> None:
    state = folded((0.0, RUN), (0.0, PhaseStarted("generate", 0, 10, "questions")), (2.0, PhaseAdvanced(2)))
    assert (phase_left(state, 4.0), run_left(state, 4.0)) == (16.0, None)


def first_iteration(*, stored: int = 0) -> list:
    return [(0.0, RUN), *done(0.0, 20.0, "generate", 0, 10, stored=stored), *done(20.0, 50.0, "train", 0, 6)]


def test_from_the_second_iteration_on_the_run_is_reckoned_from_the_one_before() -> None:
    begun = [*first_iteration(), (50.0, PhaseStarted("generate", 1, 10, "questions"))]
    state = folded(*begun)
    assert phase_left(state, 55.0) == 15.0  # nothing done yet: 20 seconds by the previous iteration, 5 are over
    assert run_left(state, 55.0) == 15.0 + 30.0 + 50.0
    state = folded(*begun, (60.0, PhaseAdvanced(5)))
    assert phase_left(state, 60.0) == 10.0
    assert run_left(state, 60.0) == 10.0 + 30.0 + 50.0
    state = folded(
        *begun, (70.0, PhaseFinished()), (70.0, PhaseStarted("train", 1, 6, "steps")), (75.0, PhaseAdvanced(3))
    )
    assert run_left(state, 75.0) == 5.0 + 50.0


def test_units_found_in_the_folder_do_not_make_the_forecast_rosy() -> None:
    begun = (50.0, PhaseStarted("generate", 1, 10, "questions"))
    state = folded(*first_iteration(stored=5), begun, (54.0, PhaseAdvanced(1)))
    assert run_left(state, 54.0) == 36.0 + 30.0 + (40.0 + 30.0)  # 4 seconds a unit, in the previous iteration too
    state = folded(*first_iteration(stored=10), begun, (54.0, PhaseAdvanced(1)))
    assert run_left(state, 54.0) is None  # the previous iteration was only read
    assert phase_left(state, 54.0) == 36.0


def test_a_phase_that_the_previous_iteration_did_not_have_makes_the_rest_unknown() -> None:
    state = folded(*first_iteration(), (50.0, PhaseStarted("search", 1, 10, "trees")), (51.0, PhaseAdvanced(1)))
    assert (phase_left(state, 51.0), run_left(state, 51.0)) == (9.0, None)


def test_phases_outside_of_iterations_do_not_count() -> None:
    state = folded(
        *first_iteration(), (50.0, PhaseStarted("evaluate", None, 10, "questions")), (51.0, PhaseAdvanced(1))
    )
    assert (phase_left(state, 51.0), run_left(state, 51.0)) == (9.0, None)


# --- Timings and profile --------------------------------------------------------------------------


def test_timings_are_kept_and_handed_on_as_phases_end() -> None:
    clock, written = Clock(), list[Timing]()
    timings = Timings(sink=written.append, clock=clock)
    with phase(timings, "generate", iteration=0, total=4, unit="questions") as advance:
        advance(1, stored=True)
        clock.now += 2.5
        advance(3, tokens=90)
    assert written == [Timing(0, "generate", 2.5, 90, 3)]
    with pytest.raises(KeyboardInterrupt), phase(timings, "train", iteration=0, total=4, unit="steps"):
        clock.now += 1.0
        raise KeyboardInterrupt
    assert timings.rows() == written == [Timing(0, "generate", 2.5, 90, 3), Timing(0, "train", 1.0, 0, 0)]


def drawn(drawing: object, *, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(drawing)
    return stream.getvalue()


def test_the_profile_adds_up_iterations() -> None:
    rows = [
        Timing(0, "generate", 30.0, 600, 4, {"generate": 24.0, "arrange": 4.0}),
        Timing(1, "generate", 30.0, 300, 4, {"generate": 26.0}),
        Timing(1, "train", 20.0, 0, 4, {"train": 20.5}),  # two clocks never agree quite
    ]
    lines = [line.split() for line in drawn(profile(rows)).splitlines()]
    #                    all     share    generate loss train   arrange rest
    assert ["generate", "60.0", "75.0%", "50.0", "-", "-", "4.0", "6.0", "900", "15"] in lines
    assert ["train", "20.0", "25.0%", "-", "-", "20.5", "-", "-", "-", "-"] in lines
    assert ["all", "80.0", "100.0%", "50.0", "-", "20.5", "4.0", "6.0", "900", "11"] in lines
    assert ["share", "62.5%", "0.0%", "25.6%", "5.0%", "7.5%"] in lines
    assert ["all", "0.0", "0.0%", *["-"] * 7] in [line.split() for line in drawn(profile([])).splitlines()]


def test_a_phase_tells_what_was_done_in_it() -> None:
    clock, rows = Clock(), list[Timing]()
    meter, timings = Meter(clock), Timings(sink=rows.append, clock=clock)
    with meter("generate"):
        clock.now += 8.0  # before the phase
    meter.count(reused=1000)
    with phase(timings, "rank", iteration=0, total=1, unit="questions", meter=meter):
        clock.now += 1.0
        with meter("loss"):
            clock.now += 2.0
            with meter("arrange"):
                clock.now += 0.5
            clock.now += 3.0
        meter.count(computed=30, sampled=5)
        meter.count(computed=10, reused=70)
    assert rows[0].counts == {"computed": 40, "reused": 70, "sampled": 5}
    assert rows[0].activities == {"generate": 0.0, "loss": 5.0, "arrange": 0.5}
    assert neither(rows[0]) == 1.0


# --- Observers that write -------------------------------------------------------------------------


def a_short_run() -> Iterable[tuple[float, Event]]:
    yield 0.0, RunStarted("quickstart", "runs/x", 2, True)
    yield 0.0, PhaseStarted("generate", 0, 1500, "dialogues")
    yield 4.0, PhaseAdvanced(100, tokens=1000)
    yield 7.0, PhaseAdvanced(100, tokens=1000)
    yield 10.0, PhaseAdvanced(100, tokens=1000)
    yield 15.0, PhaseAdvanced(100, tokens=1000)
    yield 75.0, PhaseAdvanced(1100, tokens=11000)
    yield 75.0, PhaseFinished()
    yield 75.0, Ranked(0, REWARD)
    yield 75.0, PhaseStarted("evaluate", None, 4, "questions")
    yield 76.0, PhaseFinished()
    yield 76.0, Evaluated(ROW)
    yield 76.0, Note("3 of 4 [questions] were shortened")


def test_plain_lines_are_few_and_whole() -> None:
    clock, stream = Clock(), io.StringIO()
    observe = PlainObserver(stream, clock)
    for now, event in a_short_run():
        clock.now = 100.0 + now
        observe(event)
    assert stream.getvalue().splitlines() == [
        "run folder runs/x, resumed",
        "iteration 0 generate: 1,500 dialogues",
        "iteration 0 generate: 300 of 1,500 dialogues, 300 tokens/s, about 0:40 left in this phase",
        "iteration 0 generate: finished after 1:15, 1,500 of 1,500 dialogues, 200 tokens/s",
        "iteration 0 reward: mean 0.500 (task 0.600, token share 0.700, readability 0.800)",
        "evaluate: 4 questions",
        "evaluate: stopped after 0:01, 0 of 4 questions",
        "evaluation untrained sampled: score 0.500 [0.400, 0.600], 101.5 tokens [97.0, 105.0]",
        "3 of 4 [questions] were shortened",
    ]


def test_json_lines_hold_every_event_with_its_time() -> None:
    clock, stream = Clock(), io.StringIO()
    observe = JsonObserver(stream, clock)
    for now, event in a_short_run():
        clock.now = 100.0 + now
        observe(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines[:3]] == ["run_started", "phase_started", "phase_advanced"]
    assert len(lines) == len(list(a_short_run()))
    assert lines[2] == {"event": "phase_advanced", "seconds": 4.0, "done": 100, "tokens": 1000, "stored": False}
    assert lines[8]["event"] == "ranked" and lines[8]["reward"]["task"] == 0.6
    assert lines[11]["row"]["name"] == "untrained"


def test_the_live_view_shows_where_the_run_is() -> None:
    state = folded(
        *first_iteration(),
        (50.0, Ranked(0, REWARD)),
        (50.0, Evaluated(ROW)),
        (50.0, PhaseStarted("generate", 1, 10, "questions")),
        (60.0, PhaseAdvanced(5, tokens=2500)),
    )
    lines = [line.rstrip() for line in drawn(live_view(state, 60.0)).splitlines()]
    assert lines == [
        "iteration 1 generate (number 2 of 3): 5 of 10 questions, 250 tokens/s",
        "iteration  reward   task  token share  readability",
        "0           0.500  0.600        0.700        0.800",
        "evaluation  decoding  score  tokens",
        "untrained   sampled   0.500   101.5",
        "elapsed 1:00, about 1:30 left",
    ]


def test_the_live_view_says_that_it_is_starting_and_fits_a_narrow_terminal() -> None:
    assert drawn(live_view(State(0.0), 3.0)).splitlines() == ["starting", "elapsed 0:03"]
    state = folded((0.0, PhaseStarted("evaluate single_agent sampled", 11, 2000, "questions")))
    assert len(drawn(live_view(state, 3.0), width=40).splitlines()) == 2


def test_a_long_run_keeps_to_one_screen_and_to_its_baseline() -> None:
    state = folded(*((1.0, Ranked(i, REWARD)) for i in range(30)), *((1.0, Evaluated(ROW)) for _ in range(30)))
    lines = drawn(live_view(state, 1.0)).splitlines()
    assert len(lines) == 1 + 6 + 1 + 7 + 1
    assert "29 " in "\n".join(lines) and "\n23 " not in "\n".join(lines)


def test_notes_appear_above_the_live_view_as_they_are() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with LiveObserver(console, Clock()) as observe:
        observe(RUN)
        observe(Note("a [bold]note[/bold] [/]"))
    assert "a [bold]note[/bold] [/]\n" in stream.getvalue()
    assert stream.getvalue().count("run folder runs/x\n") == 1
    assert stream.getvalue().endswith("elapsed 0:00\n\x1b[?25h")


@pytest.mark.parametrize("ending", ["raise ValueError('broken')", "os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"])
def test_the_terminal_is_left_clean_after_errors_and_interrupts(ending: str) -> None:
    """On a real terminal: the cursor comes back, and what follows starts on a line of its own."""
    script = f"""
import os, signal, sys, time
from rich.console import Console
from optima_lite.runs.progress import *
try:
    with LiveObserver(Console(force_terminal=True)) as observe:
        with phase(observe, "generate", iteration=0, total=4, unit="questions") as advance:
            advance(1)
            {ending}
except (ValueError, KeyboardInterrupt) as error:
    print("after", type(error).__name__)
"""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    output = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux says EIO when the other side is closed
            break
        if not piece:
            break
        output += piece
    os.close(leader)
    assert process.wait() == 0, output.decode()
    assert output.count(b"\x1b[?25l") == output.count(b"\x1b[?25h") == 1
    assert output.rindex(b"\x1b[?25h") < output.rindex(b"after ")
    before = output[: output.rindex(b"after ")]
    assert before.replace(b"\x1b[?25h", b"").endswith(b"\r\n")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
