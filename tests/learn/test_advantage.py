"""Advantages by hand-made tables: who is compared with whom, what adds up to nothing, what is not learnt from."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.learn.advantage import gae, grouped, places
from optima_lite.records import Dialogue, Turn
from optima_lite.settings.teams import shipped
from optima_lite.team.talks import exchange

ALICE, BOB = ("Alice", "first", 0), ("Bob", "second", 0)
AGAIN = ("Alice", "first", 1)


def test_a_message_is_compared_with_those_at_its_own_place() -> None:
    where = [[ALICE, BOB], [ALICE, BOB], [ALICE, BOB]]
    found = grouped(where, [[1.0, 0.2], [0.0, 0.2], [0.5, 0.8]])
    alice, bob = zip(*found.advantages, strict=True)
    assert alice == pytest.approx((0.5 / 0.5001, -0.5 / 0.5001, 0.0)), "mean 0.5, standard deviation 0.5"
    spread = math.sqrt(0.12)
    assert bob == pytest.approx((-0.2 / (spread + 1e-4), -0.2 / (spread + 1e-4), 0.4 / (spread + 1e-4)))
    assert (found.groups, found.flat) == (2, 0)


def test_a_talk_that_stops_early_is_missing_from_later_groups() -> None:
    """The second run ends after a turn; the third alone comes to a second round."""
    where = [[ALICE, BOB], [ALICE], [ALICE, BOB, AGAIN]]
    found = grouped(where, [[1.0, 1.0], [0.0], [1.0, 0.0, 7.0]])
    assert found.advantages[1] == (pytest.approx(-(2 / 3) / (math.sqrt(1 / 3) + 1e-4)),)
    assert found.advantages[0][1] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4)), "of two, not of three"
    assert found.advantages[2][2] == 0.0, "who is alone has nothing to compare with"
    assert (found.groups, found.flat) == (3, 1)


def test_groups_without_spread_teach_nothing_and_are_counted() -> None:
    found = grouped([[ALICE], [ALICE], [ALICE]], [[0.1 + 0.2], [0.3], [0.3]])
    assert found.advantages == ((0.0,), (0.0,), (0.0,)), "a difference of rounding is none"
    assert (found.groups, found.flat) == (1, 1)


def test_a_tool_is_paid_nothing_and_compared_with_nobody() -> None:
    tool = ("retrieve", "retrieve", 0)
    found = grouped([[ALICE, tool, BOB], [ALICE, tool, BOB]], [[1.0, None, 1.0], [0.0, None, 1.0]])
    assert [run[1] for run in found.advantages] == [None, None]
    assert (found.groups, found.flat) == (2, 1)


runs = st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=1, max_size=6)


@given(runs)
def test_the_advantages_of_a_group_add_up_to_nothing(rewards: list[list[float]]) -> None:
    where = [[(f"role {k % 2}", "step", k) for k in range(len(run))] for run in rewards]
    found = grouped(where, rewards)
    for k in range(4):
        group = [run[k] for run in found.advantages if len(run) > k]
        assert sum(one for one in group if one is not None) == pytest.approx(0, abs=1e-6)
        assert all(one is not None and abs(one) <= len(group) for one in group)


def test_places_are_told_by_role_step_and_round() -> None:
    said = [Turn(k % 2, (1, 2), "so") for k in range(3)]
    talk = exchange(("Alice", "Bob"), 6)
    first, second, third = places(Dialogue("q", 0, tuple(said)), talk)
    assert (first[0], second[0]) == ("Alice", "Bob")
    assert third == (first[0], first[1], 1) and first[2] == 0
    team = shipped("decompose_retrieve_answer")
    turns = (Turn(0, (1,), "1. who?"), Turn(2, (), "facts"), Turn(1, (1,), "<A>x</A>", "x"))
    assert [place[0] for place in places(Dialogue("q", 0, turns), team)] == ["Decomposer", "retrieve", "Answerer"]


def test_with_discount_and_lambda_of_one_every_token_gets_the_reward_less_what_was_expected() -> None:
    values = [0.1, 0.4, -0.2]
    assert gae(1.0, values, discount=1, gae_lambda=1) == pytest.approx([1 - value for value in values])


def test_without_lambda_only_the_next_value_counts() -> None:
    found = gae(1.0, [0.1, 0.4, -0.2], discount=0.5, gae_lambda=0)
    assert found == pytest.approx([0.5 * 0.4 - 0.1, 0.5 * -0.2 - 0.4, 1.0 + 0.2])


def test_generalised_advantage_estimation_by_hand() -> None:
    """Two tokens: the last one's surprise is 1 - 0.5; the first one's 0.9 * 0.5 - 0.2, and 0.9 * 0.8 of the last's."""
    assert gae(1.0, [0.2, 0.5], discount=0.9, gae_lambda=0.8) == pytest.approx([0.25 + 0.72 * 0.5, 0.5])
