"""Observers that show a run: the live picture, plain lines, JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from optima_lite.runs.live import JsonObserver, LiveObserver, PlainObserver, duration, live_view
from optima_lite.runs.progress import (
    Evaluated,
    Event,
    Note,
    PhaseAdvanced,
    PhaseFinished,
    PhaseStarted,
    Planned,
    Ranked,
    RunStarted,
    State,
)
from progress_events import REWARD, ROW, Clock, done, drawn, folded

RUN = RunStarted("quickstart", "runs/x", 3, False)


def a_short_run() -> Iterable[tuple[float, Event]]:
    yield 0.0, RunStarted("quickstart", "runs/x", 2, True)
    yield 0.0, PhaseStarted("generate", 0, 1500, "dialogues")
    yield 4.0, PhaseAdvanced(100, tokens=1000)
    yield 7.0, PhaseAdvanced(100, tokens=1000)
    yield 10.0, PhaseAdvanced(100, tokens=1000)
    yield 15.0, PhaseAdvanced(100, tokens=1000)
    yield 75.0, PhaseAdvanced(1100, tokens=11000)
    yield 75.0, PhaseFinished()
    yield 75.0, Ranked(0, REWARD, 88.25)
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
        "iteration 0 generate: 300 of 1,500 dialogues, 300 tokens/s; about 0:40 left in this phase",
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
    told = {"done": 100, "tokens": 1000, "stored": False, "part": None, "loss": None}
    assert lines[2] == {"event": "phase_advanced", "seconds": 4.0, **told}
    assert lines[8]["event"] == "ranked" and lines[8]["reward"]["task"] == 0.6
    assert lines[11]["row"]["name"] == "untrained"


def in_the_second_iteration() -> State:
    plan = [PhaseStarted("generate", i, 10, "questions", ("sample",)) for i in range(3)]
    return folded(
        (0.0, RUN),
        (0.0, Planned(tuple(plan))),
        *done(0.0, 20.0, "generate", 0, 10),
        (50.0, Ranked(0, REWARD, 88.25)),
        (50.0, Evaluated(ROW)),
        (50.0, Evaluated(replace(ROW, name="iteration_0"), "prefer undone")),
        (50.0, plan[1]),
        (60.0, PhaseAdvanced(5, tokens=2500)),
    )


def test_the_live_view_shows_where_the_run_is() -> None:
    lines = [line.rstrip() for line in drawn(live_view(in_the_second_iteration(), 60.0)).splitlines()]
    assert lines == [
        "training dialogues  task score  tokens  readability",
        "iteration 0              0.600    88.2        0.800",
        "evaluation   decoding  score  tokens",
        "untrained    sampled   0.500   101.5",
        "iteration_0  sampled   0.500   101.5  prefer undone",
        "iteration 1 generate (number 2 of 3): 5 of 10 questions, 250 tokens/s",
        "━━━━━━━━━━━━              50% elapsed 1:00, about 0:30 left",
    ]


def test_reading_after_the_questions_are_asked_does_not_look_like_standing_still() -> None:
    begun = (0.0, PhaseStarted("evaluate", None, 200, "questions", ("sample", "read")))
    asked = folded(begun, (10.0, PhaseAdvanced(200, tokens=900, part="sample")))
    assert drawn(live_view(asked, 12.0)).startswith("evaluate: 200 questions asked, 0 read for the reward\n")
    assert "about 0:05 left in this phase" in drawn(live_view(asked, 12.0))  # 0.7 of the time to ask, less 2 seconds


def test_the_training_loss_is_shown_while_it_trains() -> None:
    begun = (0.0, PhaseStarted("train", 0, 12, "steps", ("train",)))
    state = folded(begun, (1.0, PhaseAdvanced(3)), (1.0, PhaseAdvanced(0, loss=0.41234)))
    assert "iteration 0 train (number 1): 3 of 12 steps, loss 0.412\n" in drawn(live_view(state, 1.0))


def test_the_live_view_says_that_it_is_starting_and_fits_a_narrow_terminal() -> None:
    assert drawn(live_view(State(0.0), 3.0)).splitlines() == ["starting", "elapsed 0:03"]
    state = folded((0.0, PhaseStarted("evaluate single_agent sampled", 11, 2000, "questions")))
    assert len(drawn(live_view(state, 3.0), width=40).splitlines()) == 2


def test_a_long_run_keeps_to_one_screen_and_to_its_baselines() -> None:
    names = ["untrained", "single_agent"] * 2 + [f"iteration_{i}" for i in range(30)]
    state = folded(
        *((1.0, Ranked(i, REWARD, 9.0)) for i in range(30)),
        *((1.0, Evaluated(replace(ROW, name=name))) for name in names),
        (1.0, PhaseStarted("evaluate", None, 9, "questions")),
    )
    text = drawn(live_view(state, 1.0))
    assert len(text.splitlines()) == 1 + 6 + 1 + 4 + 6 + 1 + 1 < 24
    assert text.count("single_agent") == 2 and "iteration_29" in text and "iteration_23" not in text


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
from optima_lite.runs.live import *
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
