"""The time left: there from the first work on, whole, and without jumps."""

from __future__ import annotations

from itertools import pairwise

import pytest

from optima_lite.runs.forecast import WEIGHTS, phase_left, run_left, share_done
from optima_lite.runs.progress import (
    Event,
    PhaseAdvanced,
    PhaseFinished,
    PhaseStarted,
    Planned,
    RunStarted,
    State,
    fold,
)
from progress_events import done, folded

RUN = RunStarted("quickstart", "runs/x", 2, False)


def planned(name: str, iteration: int | None, total: int, *kinds: str) -> PhaseStarted:
    return PhaseStarted(name, iteration, total, "questions", kinds)


PLAN = Planned(
    (
        planned("evaluate untrained", None, 10, "sample", "read"),
        planned("generate", 0, 20, "sample"),
        planned("rank", 0, 20, "read"),
        planned("generate", 1, 20, "sample"),
        planned("rank", 1, 20, "read"),
    )
)
BEGUN: list[tuple[float, Event]] = [(0.0, RUN), (0.0, PLAN), (0.0, PLAN.phases[0])]
EVALUATED = [
    *BEGUN,
    (10.0, PhaseAdvanced(10, part="sample")),
    (15.0, PhaseAdvanced(10, part="read")),
    (15.0, PhaseFinished()),
]


def test_nothing_is_known_before_anything_is_done() -> None:
    state = folded(*BEGUN)
    assert (phase_left(state, 5.0), run_left(state, 5.0), share_done(state, 5.0)) == (None, None, None)
    assert (phase_left(State(0.0), 1.0), run_left(State(0.0), 1.0)) == (None, None)


def test_the_first_work_foretells_the_whole_run() -> None:
    state = folded(*BEGUN, (2.0, PhaseAdvanced(2, part="sample")))
    read = WEIGHTS["read"]
    assert phase_left(state, 2.0) == pytest.approx(8.0 + 10 * read)
    assert run_left(state, 2.0) == pytest.approx(8.0 + 10 * read + 40.0 + 40 * read)


def test_reading_for_the_reward_is_work_with_time_of_its_own() -> None:
    state = folded(*BEGUN, (10.0, PhaseAdvanced(10, part="sample")))
    assert phase_left(state, 10.0) == pytest.approx(10 * WEIGHTS["read"])
    assert phase_left(state, 12.0) == pytest.approx(10 * WEIGHTS["read"] - 2.0)


def test_measured_kinds_of_work_take_the_place_of_the_rough_weights() -> None:
    assert run_left(folded(*EVALUATED), 15.0) == pytest.approx(2 * (20 * 1.0 + 20 * 0.5))


def test_a_phase_of_the_same_name_foretells_better_than_one_of_the_same_kind() -> None:
    first = [*done(15.0, 75.0, "generate", 0, 20), *done(75.0, 85.0, "rank", 0, 20, kind="read")]
    assert run_left(folded(*EVALUATED, *first), 85.0) == pytest.approx(60.0 + 10.0)
    shorter = done(85.0, 91.0, "evaluate", None, 10)  # unplanned, and quick
    assert run_left(folded(*EVALUATED, *first, *shorter), 91.0) == pytest.approx(60.0 + 10.0)


def test_a_phase_is_expected_to_be_as_large_as_in_the_iteration_before() -> None:
    first = [*done(15.0, 25.0, "generate", 0, 10), *done(25.0, 30.0, "rank", 0, 10, kind="read")]
    assert run_left(folded(*EVALUATED, *first), 30.0) == pytest.approx(10.0 + 5.0)


def test_the_expectation_gives_way_to_what_is_measured_unit_by_unit() -> None:
    begun = [*EVALUATED, (15.0, PLAN.phases[1])]
    assert phase_left(folded(*begun), 15.0) == pytest.approx(20.0)
    assert phase_left(folded(*begun), 18.0) == pytest.approx(17.0)  # it ticks while a batch is under way
    slow = folded(*begun, (19.0, PhaseAdvanced(1)))  # 4 seconds instead of 1
    assert phase_left(slow, 19.0) == pytest.approx(19 * (4.0 + 19.0) / 20)
    assert phase_left(folded(*begun, (95.0, PhaseAdvanced(20))), 95.0) == 0.0


def test_units_found_in_the_folder_say_nothing_about_speed_and_count_as_done() -> None:
    stored = [(0.0, RUN), (0.0, PLAN), (0.0, PLAN.phases[0]), (0.1, PhaseAdvanced(10, stored=True))]
    state = folded(*stored, (0.1, PhaseFinished()), (0.1, PLAN.phases[1]))
    assert run_left(state, 0.1) is None
    state = fold(state, PhaseAdvanced(10), 10.1)
    left = run_left(state, 10.1)
    assert left == pytest.approx(10.0 + 20.0 + 40 * WEIGHTS["read"])
    found = 10 * 1.0 + 10 * WEIGHTS["read"]
    assert share_done(state, 10.1) == pytest.approx((10.1 + found) / (10.1 + found + left))


def test_without_a_plan_only_the_phase_is_known() -> None:
    state = folded((0.0, planned("sample", None, 10, "sample")), (2.0, PhaseAdvanced(2)))
    assert (phase_left(state, 4.0), run_left(state, 4.0)) == (6.0, None)


def test_the_time_left_does_not_jump_where_work_costs_something_else_than_thought() -> None:
    """Evaluations cost half as much again as thought, training dialogues a third less: what is told, after every batch,
    never rises by a tenth of the run above what was told before."""
    state, now, told = folded((0.0, RUN), (0.0, PLAN)), 0.0, list[tuple[float, float]]()
    for begun, pace in zip(PLAN.phases, (1.5, 1.0, 0.5, 0.8, 0.4), strict=True):
        state = fold(state, begun, now)
        for kind in begun.parts:
            for _ in range(5):
                now += pace * begun.total / 5 * WEIGHTS[kind]
                state = fold(state, PhaseAdvanced(begun.total // 5, part=kind), now)
                left = run_left(state, now)
                assert left is not None, "there from the first batch on"
                told.append((now, left))
        state = fold(state, PhaseFinished(), now)
    rises = [later + after - (left + at) for (at, left), (after, later) in pairwise(told)]
    assert max(rises) < 0.1 * now
