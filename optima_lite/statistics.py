"""How sure a mean is: 95 % intervals over questions, of differences, and of several seeds on the same questions. Pure.

Scores that are all or nothing get closed forms, since resampling 200 right answers shows no doubt at all: Wilson's
interval (1927) of a share, Bonett and Price's (2012) of a paired difference of shares. All else is resampled: the BCa
bootstrap (Efron 1987), from a fixed seed. One value cannot be resampled: of a score it leaves everything open, of
other values there is no interval, which is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose, sqrt
from statistics import NormalDist, fmean

Interval = tuple[float, float]

FEWEST = 20
"""Questions below which an interval should decide nothing: it is then narrower than it claims to be."""

_LEVEL = 0.95
_RESAMPLES = 4000
_AT_ONCE = 4_000_000  # resampled values held in memory


def of_scores(scores: Sequence[float]) -> Interval:
    """The interval of the mean of scores in [0, 1], one a question. Scores that are all 0 or 1 get Wilson's."""
    if not scores or not set(scores) <= {0.0, 1.0}:
        return of_mean(scores) or (0.0, 1.0)
    from scipy.stats import binomtest  # takes a second to import

    found = binomtest(round(sum(scores)), len(scores)).proportion_ci(_LEVEL, method="wilson")
    return float(found.low), float(found.high)


def of_mean(values: Sequence[float]) -> Interval | None:
    """The interval of the mean of any values, one a question; without width where all values are equal."""
    if len(values) < 2:
        return None
    if isclose(min(values), max(values), abs_tol=1e-9):  # equal but for rounding
        return float(values[0]), float(values[0])
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _AT_ONCE // len(values)),
        confidence_level=_LEVEL,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def of_score_change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """The interval of the mean of after - before, scores in [0, 1] of the same questions in the same order.

    Scores that are all 0 or 1 get Bonett and Price's: as if one question more had been won, and one more been lost.
    """
    if not before or not {*before, *after} <= {0.0, 1.0}:
        return of_change(before, after) or (-1.0, 1.0)
    changes = _changes(before, after)
    gained, lost = ((changes.count(sign) + 1) / (len(changes) + 2) for sign in (1.0, -1.0))
    middle = gained - lost
    half = NormalDist().inv_cdf((1 + _LEVEL) / 2) * sqrt((gained + lost - middle**2) / (len(changes) + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def of_change(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    """The interval of the mean of after - before, any values of the same questions in the same order."""
    return of_mean(_changes(before, after))


def _changes(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [float(new - old) for old, new in zip(before, after, strict=True)]


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A mean over several seeds of the same questions. interval: over the questions, for just these seeds. by_seed:
    the mean of each, whose spread the interval does not contain."""

    mean: float
    interval: Interval | None
    by_seed: tuple[float, ...]


def over_seeds(
    values: Sequence[Sequence[float]], *, interval: Callable[[Sequence[float]], Interval | None] = of_mean
) -> OverSeeds:
    """values: for each seed one value a question, in the same order. interval: of the questions' means; `of_scores`
    where the values are scores.

    A question's values are one cluster: they rise and fall together, so that three seeds of 200 questions are 200
    observations and not 600. Clusters are of one size, so resampling them is resampling their means. Raises
    ValueError when the seeds have different numbers of questions.
    """
    clusters = [fmean(cluster) for cluster in zip(*values, strict=True)]
    return OverSeeds(fmean(clusters), interval(clusters), tuple(fmean(one) for one in values))
