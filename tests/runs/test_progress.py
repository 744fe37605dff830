"""Events, the state folded from them, and the times of phases."""

from __future__ import annotations

import pytest

from optima_lite.model.meter import Meter
from optima_lite.runs.progress import (
    Event,
    Note,
    PhaseAdvanced,
    PhaseFinished,
    PhaseStarted,
    State,
    Timing,
    Timings,
    fan_out,
    neither,
    phase,
    profile,
    silent,
)
from progress_events import Clock, drawn, folded

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
        (1.5, PhaseAdvanced(4, stored=True)),
        (3.0, PhaseAdvanced(2, tokens=50)),
    )
    assert state.current and state.finished == ()
    part = state.current.parts["work"]
    assert (part.done, part.worked, part.seconds, state.current.tokens) == (6, 2, 1.5, 50)


def test_a_unit_is_complete_when_it_has_gone_through_all_parts() -> None:
    begun = (0.0, PhaseStarted("evaluate", None, 4, "questions", ("sample", "read")))
    asked = folded(begun, (3.0, PhaseAdvanced(4, tokens=9, part="sample")))
    assert asked.current and (asked.current.part, asked.current.last.done) == ("read", 0)
    read = folded(begun, (3.0, PhaseAdvanced(4, part="sample")), (5.0, PhaseAdvanced(3, part="read")))
    assert read.current and [part.seconds for part in read.current.parts.values()] == [3.0, 2.0]
    stored = folded(begun, (0.1, PhaseAdvanced(4, stored=True)))
    assert stored.current and [(part.done, part.worked) for part in stored.current.parts.values()] == [(4, 0)] * 2


def test_a_phase_keeps_its_last_loss() -> None:
    begun = (0.0, PhaseStarted("train", 0, 4, "steps", ("train",)))
    state = folded(begun, (1.0, PhaseAdvanced(1)), (1.0, PhaseAdvanced(0, loss=0.7)), (2.0, PhaseAdvanced(1)))
    assert state.current and (state.current.loss, state.current.last.done) == (0.7, 2)


def test_advances_and_ends_without_a_phase_change_nothing() -> None:
    assert folded((1.0, PhaseAdvanced(1)), (2.0, PhaseFinished())) == State(0.0)


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
