"""The schedule on a clock that is made up: what more workers are worth, and when they stop being worth anything."""

from __future__ import annotations

from random import Random

import pytest

from optima_lite.stage.simulation import Circumstances, simulate


def test_equal_pieces_take_as_many_rounds_as_they_must() -> None:
    for pieces, workers, rounds in ((8, 1, 8), (8, 2, 4), (8, 3, 3), (8, 8, 1), (8, 64, 1)):
        found = simulate([10.0] * pieces, workers, Circumstances(), Random(0))
        assert found.seconds == pytest.approx(10.0 * rounds)
        assert (found.lost, found.twice) == (0, 0) and found.busy == pytest.approx(80.0)


def test_a_slow_worker_costs_less_than_it_takes_where_another_may_do_its_piece() -> None:
    sick = Circumstances(paces=((1.0, 0.8), (10.0, 0.2)))
    proud = Circumstances(paces=sick.paces, patience=1e9)
    helped, waited = (simulate([1.0] * 40, 8, how, Random(0)) for how in (sick, proud))
    assert helped.twice > 0 and waited.twice == 0
    assert helped.seconds < 0.75 * waited.seconds


def test_lost_workers_cost_time_and_no_piece() -> None:
    quiet = simulate([10.0] * 30, 3, Circumstances(), Random(0))
    rough = simulate([10.0] * 30, 3, Circumstances(lost_after=60.0, start=5.0), Random(0))
    assert rough.lost > 0 and quiet.seconds < rough.seconds < 3 * quiet.seconds


def test_the_driver_becomes_the_limit() -> None:
    many = simulate([1.0] * 1000, 1000, Circumstances(driver=0.01), Random(0))
    assert many.seconds == pytest.approx(1.0 + 1000 * 0.01)


def test_a_plan_is_shared_out_among_workers() -> None:
    """Dialogues are; training is not, and what is asked one after the other is not."""
    from optima_lite.runs.progress import PhaseStarted
    from optima_lite.settings.machine import Cluster
    from optima_lite.stage.preflight import shared_out

    plan = [
        (PhaseStarted("generate", 0, 512, "dialogues"), 800.0),
        (PhaseStarted("train", 0, 30, "steps"), 60.0),
        (PhaseStarted("evaluate sampled", 0, 64, "questions"), 10.0),
        (PhaseStarted("evaluate greedy", 0, 64, "questions"), 10.0),
        (PhaseStarted("trade", 0, 20, "episodes"), 40.0),
    ]
    told = shared_out(plan, Cluster(), workers=4, turns={})
    assert told.startswith("about 5:20 instead of 15:20, each as fast as this machine, 64 dialogues a piece: ")
    assert "generate 3:20 of 13:20, train 1:00" in told
    assert told.endswith("evaluate 0:20 of 0:20, trade 0:40 of 0:40"), "all of them have work"
    assert shared_out(plan, Cluster(), workers=9, turns={}).endswith(
        "; with a chunk of 64 no more than 8 ever have work"
    )
    assert shared_out(plan, Cluster(), workers=1, turns={}).startswith("about 15:20, as here;")
    turns = {"generate": 4}  # 128 dialogues at a time, which are two pieces
    assert "generate 6:40 of 13:20" in shared_out(plan, Cluster(), workers=4, turns=turns)
    assert "train 0:30 of 1:00" in shared_out(plan, Cluster(trainers=2), workers=4, turns={})
