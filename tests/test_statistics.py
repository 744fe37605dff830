"""Intervals: what they are where there is nothing to resample, and that they hold the truth as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optima_lite.statistics import Interval, of_change, of_mean, of_score_change, of_scores, over_seeds

DRAWS = 500
BAND = (0.92, 0.98)  # 500 draws of a true 95 % lie within .93 and .97 nineteen times in twenty


def covered(truth: float, sample: Callable[[np.random.Generator], Interval | None]) -> float:
    """The share of samples whose interval holds the truth."""
    found = [sample(np.random.default_rng(seed)) for seed in range(DRAWS)]
    return float(np.mean([one is not None and one[0] <= truth <= one[1] for one in found]))


def test_all_right_is_not_certain() -> None:
    low, high = of_scores([1.0] * 200)
    assert low == pytest.approx(0.9812, abs=1e-4) and high == 1.0, "Wilson's interval of 200 of 200"
    low, high = of_scores([0.0] * 50)
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(0.0713, abs=1e-4)
    low, high = of_scores([1.0, 0.0, 1.0, 1.0] * 25)
    assert (low, high) == (pytest.approx(0.6570, abs=1e-4), pytest.approx(0.8245, abs=1e-4))


def test_no_change_of_all_right_is_not_certain_either() -> None:
    low, high = of_score_change([1.0] * 200, [1.0] * 200)
    assert low == -high and high == pytest.approx(1.96 * np.sqrt(2 / 202 / 202), abs=1e-4)
    low, high = of_score_change([0.0] * 2, [1.0] * 2)
    assert -1 <= low < high <= 1


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_value_leaves_everything_open(values: list[float]) -> None:
    assert of_mean(values) is None and of_change(values, values) is None
    assert of_scores(values) == (0.0, 1.0) and of_score_change(values, values) == (-1.0, 1.0)


def test_one_right_answer_says_a_little() -> None:
    assert of_scores([1.0]) == (pytest.approx(0.2065, abs=1e-4), 1.0)
    low, high = of_score_change([0.0], [1.0])
    assert -1 < low < 0 < high == 1


def test_equal_values_have_no_width() -> None:
    assert of_mean([7, 7, 7]) == (7.0, 7.0)
    assert of_scores([0.5, 0.5]) == (0.5, 0.5), "F1 is no share of right answers"
    assert of_change([1, 2, 3], [3, 4, 5]) == (2.0, 2.0)
    assert of_change([k / 10 for k in range(10)], [k / 10 + 0.25 for k in range(10)]) == (0.25, 0.25), "but rounding"
    assert of_mean([1, 1, 1]) == (1.0, 1.0), "messages of one token are no right answers"


def test_an_interval_repeats_and_holds_the_mean() -> None:
    values = list(np.random.default_rng(1).exponential(size=50))
    low, high = of_mean(values) or (0, 0)
    assert (low, high) == of_mean(values) and low < np.mean(values) < high
    assert high - np.mean(values) > np.mean(values) - low, "to the side of the long tail it is longer"
    assert of_change([1, 2, 4], [1, 3, 9]) == of_mean([0, 1, 5])


def test_many_questions_are_resampled_in_parts() -> None:
    low, high = of_mean(list(range(20_000))) or (0, 0)
    assert low < 9999.5 < high and high - low == pytest.approx(2 * 1.96 * 20_000 / np.sqrt(12 * 20_000), rel=0.05)


def test_pairs_need_the_same_questions() -> None:
    with pytest.raises(ValueError):
        of_change([1, 2, 3], [1, 2])
    with pytest.raises(ValueError):
        over_seeds([[1, 2, 3], [1, 2]])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_the_interval_of_a_share_covers_it(share: float) -> None:
    found = covered(share, lambda draw: of_scores([float(hit) for hit in draw.random(200) < share]))
    assert BAND[0] <= found <= BAND[1]


def test_the_interval_of_a_skewed_mean_covers_it() -> None:
    found = covered(1.0, lambda draw: of_mean(list(draw.exponential(size=60))))
    assert 0.90 <= found <= BAND[1], "a little less than it says, at so long a tail"


def test_the_interval_of_a_paired_change_of_shares_covers_it() -> None:
    """Both sides are right on the easy questions: what is seen twice does not count twice."""

    def sample(draw: np.random.Generator) -> Interval | None:
        easy = draw.random(200) < 0.8
        before, after = (easy & (draw.random(200) < chance) for chance in (0.9, 0.95))
        return of_score_change([*map(float, before)], [*map(float, after)])

    assert BAND[0] <= covered(0.8 * 0.05, sample) <= BAND[1]


def test_the_interval_of_a_paired_change_covers_it() -> None:
    def sample(draw: np.random.Generator) -> Interval | None:
        before = draw.gamma(2.0, size=50)
        return of_change(list(before), list(before + draw.normal(0.3, 0.5, size=50)))

    assert 0.90 <= covered(0.3, sample) <= BAND[1]


def test_seeds_of_the_same_questions_are_clusters() -> None:
    """Three seeds agree on which questions are hard: taken for 600 observations they look surer than they are."""

    def seeds(draw: np.random.Generator) -> np.ndarray:
        return draw.normal(size=60) + 0.3 * draw.normal(size=(3, 60))

    found = covered(0.0, lambda draw: over_seeds([list(one) for one in seeds(draw)]).interval)
    pooled = covered(0.0, lambda draw: of_mean(list(seeds(draw).ravel())))
    assert 0.90 <= found <= BAND[1] and pooled < 0.8


def test_the_spread_of_the_seeds_is_told() -> None:
    found = over_seeds([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    assert found.by_seed == (0.5, 1.0, 0.25) and found.mean == pytest.approx(7 / 12)
    assert found.interval is not None and found.interval[0] < found.mean < found.interval[1]
    assert over_seeds([[1.0] * 9] * 3, interval=of_scores).interval == of_scores([1.0] * 9), "27 answers, 9 questions"
    assert over_seeds([[2.0, 3.0, 7.0]]).interval == of_mean([2.0, 3.0, 7.0]), "one seed is no cluster"
