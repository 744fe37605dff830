"""Best-of-N selection: ties, thresholds, the kept share, what is never selected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.learn.selection import Candidate, demonstrations, diverse, worth_learning
from optima_lite.records import Dialogue, Ending, Question, Reward, Rollouts, Turn
from optima_lite.settings.sections import RewardSettings, SelectionSettings


def rollouts(name: str, *totals: float, cut: tuple[int, ...] = ()) -> Rollouts:
    question = Question(name, "?", ("a",), ((), ()))
    endings = [Ending.TRUNCATED if k in cut else Ending.AGREED for k in range(len(totals))]
    dialogues = tuple(Dialogue(name, k, (Turn(0, (1,), ""),), ending) for k, ending in enumerate(endings))
    return Rollouts(question, dialogues, tuple(Reward(total, 0, 0, 0, 0) for total in totals))


def chosen(*groups: Rollouts, min_reward: float = 0.0, keep_fraction: float = 1.0) -> list[tuple[str, int]]:
    settings = SelectionSettings(min_reward=min_reward, keep_fraction=keep_fraction)
    return [(d.question.id, d.dialogue.rollout) for d in demonstrations(groups, settings=settings)]


def test_the_best_of_each_question_best_question_first() -> None:
    assert chosen(rollouts("a", 0.1, 0.6, 0.2), rollouts("b", 0.9, 0.8)) == [("b", 0), ("a", 1)]


def test_the_first_wins_a_tie() -> None:
    assert chosen(rollouts("a", 0.5, 0.7, 0.7)) == [("a", 1)]


def test_the_threshold_is_strict_and_comes_before_the_share() -> None:
    groups = [rollouts("a", 0.5), rollouts("b", 0.9), rollouts("c", 0.8), rollouts("d", 0.1)]
    assert chosen(*groups, min_reward=0.5) == [("b", 0), ("c", 0)]
    assert chosen(*groups, min_reward=0.5, keep_fraction=0.5) == [("b", 0)]


def test_one_is_kept_if_any_survived() -> None:
    assert chosen(rollouts("a", 0.9), keep_fraction=0.1) == [("a", 0)]
    assert chosen(rollouts("a", 0.9), min_reward=1.0) == []


def test_the_share_can_be_of_all_questions_and_leave_out_the_easiest() -> None:
    groups = [rollouts(str(k), 1 - k / 10) for k in range(10)]

    def kept(**options: Any) -> str:
        settings = SelectionSettings(min_reward=0.45, **options)
        return "".join(d.question.id for d in demonstrations(groups, settings=settings))

    assert kept() == "0123", "seven tenths of the six over the threshold"
    assert kept(order="share_first") == "012345", "those of the best seven that are over it"
    assert kept(drop_easiest=0.2) == "1234"
    assert kept(order="share_first", drop_easiest=0.1) == "12345"


def test_a_truncated_dialogue_is_never_selected() -> None:
    assert chosen(rollouts("a", 0.9, 0.2, cut=(0,))) == [("a", 1)]
    assert chosen(rollouts("a", 0.9, cut=(0,))) == []


@given(st.lists(st.lists(st.floats(-1, 2), min_size=1, max_size=5), max_size=10), st.floats(-1, 2), st.floats(0.01, 1))
def test_share_threshold_and_order_hold_for_any_rewards(
    totals: list[list[float]], min_reward: float, keep_fraction: float
) -> None:
    groups = [rollouts(str(i), *values) for i, values in enumerate(totals)]
    settings = SelectionSettings(min_reward=min_reward, keep_fraction=keep_fraction)
    kept = [d.reward.total for d in demonstrations(groups, settings=settings)]
    passing = sorted((best for values in totals if (best := max(values)) > min_reward), reverse=True)
    assert kept == passing[: max(1, int(keep_fraction * len(passing)))]


@pytest.mark.parametrize(
    ("reward", "selection", "learnt"),
    [
        ({"credit": "difference"}, {}, {0, 1, 4}),
        ({"credit": "difference"}, {"min_credit": 0.1}, {0, 4}),
        ({"credit": "own_step"}, {}, {4}),
        ({"credit": "own_step"}, {"min_credit": 0.0}, {0, 1, 4}),
    ],
)
def test_messages_that_took_something_away_or_were_wrong_are_not_learnt(
    reward: dict[str, Any], selection: dict[str, Any], learnt: set[int]
) -> None:
    """The third is a tool's, which nobody learns whatever it has found."""
    credit = (0.25, 0.0, None, -0.5, 1.0)
    settings = SelectionSettings(**selection)
    assert worth_learning(credit, reward=RewardSettings(**reward), settings=settings) == learnt


# --- Demonstrations that are unlike one another ---------------------------------------------------

# A table by hand: the way through the workflow, the tokens, the score of the answer. The thirds of the lengths begin at
# 13 and at 40, so that the strata are: ab short 0 1 2, ab middle 3 4 8, abab long 6 7, ab long 5.
TABLE = [
    Candidate(("a", "b"), 10, 0.0),
    Candidate(("a", "b"), 12, 1.0),
    Candidate(("a", "b"), 11, 1.0),
    Candidate(("a", "b"), 20, 1.0),
    Candidate(("a", "b"), 30, 1.0),
    Candidate(("a", "b"), 90, 0.5),
    Candidate(("a", "b", "a", "b"), 50, 1.0),
    Candidate(("a", "b", "a", "b"), 40, 1.0),
    Candidate(("a", "b"), 13, 1.0),
]


@pytest.mark.parametrize(
    ("count", "places"),
    [
        (1, [2]),  # one of the largest strata, and of that a right one, the shortest
        (2, [2, 8]),
        (3, [2, 7, 8]),
        (4, [2, 5, 7, 8]),  # every stratum has given one, the last one an answer that is half right
        (5, [1, 2, 5, 7, 8]),
        (7, [1, 2, 3, 5, 6, 7, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),  # and not 0, whose turn it is: its answer is wrong
        (9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (99, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_every_way_and_every_length_comes_in_turn(count: int, places: list[int]) -> None:
    assert diverse(TABLE, count) == places


def test_more_of_one_kind_do_not_push_out_another() -> None:
    many = [Candidate(("a",), 5, 1.0)] * 500 + [Candidate(("a", "b"), 60, 1.0)] * 10
    chosen = diverse(many, 20)
    assert sum(place >= 500 for place in chosen) == 10 and len(chosen) == 20
