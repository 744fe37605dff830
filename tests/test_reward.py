"""The reward's arithmetic, equation 1 of the paper, and its monotony."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.config import RewardSettings
from optima_lite.records import Dialogue, Turn
from optima_lite.reward import mean, normaliser, rank, readability


def dialogue(tokens: int) -> Dialogue:
    return Dialogue("q", 0, (Turn(0, (1,) * tokens, ""),))


def test_by_hand() -> None:
    settings = RewardSettings(token_weight=0.6, readability_weight=0.5)
    short, long = rank([dialogue(10), dialogue(40)], scores=[1.0, 0.5], losses=[2.0, 4.0], settings=settings)
    assert (short.token_share, short.readability, short.worst_loss) == (0.25, 0.5, 2.0)
    assert short.total == pytest.approx(1 - 0.6 * 0.25 + 0.5 * 0.5)
    assert long.total == pytest.approx(0.5 - 0.6 + 0.5 * 0.25)


def test_an_only_child_pays_the_whole_token_weight() -> None:
    (only,) = rank([dialogue(3)], scores=[1.0], losses=[1.0], settings=RewardSettings())
    assert only.token_share == 1.0


def test_a_loss_of_nothing_is_held_by_the_floor() -> None:
    (r,) = rank([dialogue(1)], scores=[0.0], losses=[0.0], settings=RewardSettings(loss_floor=0.1))
    assert (r.readability, r.worst_loss) == (10.0, 0.0)


def test_the_three_forms_of_the_readability_term() -> None:
    losses = [0.5, 1.0, 2.0]
    assert readability(losses, form="inverse") == [2.0, 1.0, 0.5]
    assert readability(losses, form="capped") == [1.0, 1.0, 0.5]
    assert readability(losses, form="relative") == [1.0, 0.5, 0.25]


siblings = st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1), st.floats(0.01, 10)), min_size=1, max_size=8)
forms = st.sampled_from(["inverse", "capped", "relative"])


def totals(rows: list[tuple[int, float, float]], settings: RewardSettings) -> list[float]:
    ranked = rank(
        [dialogue(t) for t, _, _ in rows],
        scores=[s for _, s, _ in rows],
        losses=[x for _, _, x in rows],
        settings=settings,
    )
    return [r.total for r in ranked]


@given(siblings, forms, st.floats(0.01, 1))
def test_a_better_answer_never_costs(rows: list[tuple[int, float, float]], form: str, more: float) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    tokens, score, loss = rows[0]
    assert totals([(tokens, score + more, loss), *rows[1:]], settings)[0] > totals(rows, settings)[0]


@given(siblings, forms, st.integers(1, 100))
def test_more_tokens_never_pay(rows: list[tuple[int, float, float]], form: str, more: int) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    tokens, score, loss = rows[0]
    assert totals([(tokens + more, score, loss), *rows[1:]], settings)[0] <= totals(rows, settings)[0] + 1e-9


@given(siblings, forms, st.floats(0.01, 5))
def test_a_worse_message_never_pays(rows: list[tuple[int, float, float]], form: str, more: float) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    tokens, score, loss = rows[0]
    assert totals([(tokens, score, loss + more), *rows[1:]], settings)[0] <= totals(rows, settings)[0] + 1e-9


def test_mean_is_taken_part_by_part() -> None:
    ranked = rank([dialogue(10), dialogue(20)], scores=[1, 0], losses=[1.0, 2.0], settings=RewardSettings())
    average = mean(ranked)
    assert (average.task, average.token_share, average.readability, average.worst_loss) == (0.5, 0.75, 0.75, 1.5)
    assert average.total == pytest.approx(sum(r.total for r in ranked) / 2)


def test_a_fixed_normaliser_makes_rewards_comparable_across_groups() -> None:
    settings = RewardSettings(token_weight=0.5)
    alone = rank([dialogue(30)], scores=[1.0], losses=[1.0], settings=settings, normaliser=20)
    beside = rank([dialogue(30), dialogue(90)], scores=[1.0, 0.0], losses=[1.0, 3.0], settings=settings, normaliser=20)
    assert alone[0] == beside[0]
    assert (alone[0].token_share, alone[0].total) == (1.5, 1 - 0.5 * 1.5 + 1)


def test_the_normaliser_is_a_percentile_of_a_probe_plus_one() -> None:
    assert normaliser([10], 85) == 11
    assert normaliser([30, 10, 20], 50) == 21
    assert normaliser(range(1, 101), 85) == 86  # 85.15 between the 85th and the 86th, cut to whole tokens
    assert normaliser([1, 2, 3], 100) == 4
    with pytest.raises(ValueError, match="a percentile of no dialogues"):
        normaliser([], 85)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=50), st.integers(1, 100))
def test_the_normaliser_lies_within_the_probe(tokens: list[int], percentile: int) -> None:
    assert min(tokens) < normaliser(tokens, percentile) <= max(tokens) + 1
    share = sum(count < normaliser(tokens, percentile) for count in tokens) / len(tokens)
    assert share >= percentile / 100 - 1 / len(tokens)


def test_relative_readability_can_compare_with_a_fixed_loss() -> None:
    settings = RewardSettings(readability="relative")
    rewards = rank([dialogue(1)] * 2, scores=[0, 0], losses=[2.0, 0.5], settings=settings, best_loss=1.0)
    assert [one.readability for one in rewards] == [0.5, 1.0], "never above 1"
