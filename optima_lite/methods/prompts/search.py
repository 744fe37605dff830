"""The search, in the order in which it runs: warm up, fit, climb the confidence bound, evaluate once, again. Pure.

MASPOB (arXiv 2603.02630, algorithm 1). Changed: the first combination is everybody's own prompts, because all is
compared with that; no combination is evaluated twice; and values are put on [0, 1] by those seen so far, so that
`exploration` means the same whatever the unit of the objective. What is proposed depends on the history and the seed
alone, so a search that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Protocol, TypeVar

from ...settings.prompt_search import PromptSearchSettings
from . import attention, kernel
from .acquisition import Score, along, ascend, bound
from .space import Combination, Space


class Evaluated(Protocol):
    """What an evaluation gives back, whatever else it holds."""

    @property
    def combination(self) -> Combination:
        """What was evaluated."""

    @property
    def value(self) -> float:
        """Its worth; more is better."""


Trial = TypeVar("Trial", bound=Evaluated)


def search(
    space: Space,
    *,
    evaluate: Callable[[Combination], Trial],
    history: Sequence[Trial],
    settings: PromptSearchSettings,
    seed: int,
) -> Iterator[Trial]:
    """The evaluations that come after `history`, each as soon as it is made; the budget is spent exactly, unless there
    are fewer combinations.

    evaluate: is asked once for each new combination. seed: of what is drawn at random.
    """
    trials = list(history)
    while len(trials) < budget(space, settings):
        proposed = propose(space, trials, settings=settings, seed=seed)
        known = next((one for one in trials if one.combination == proposed), None)
        trials.append(known or evaluate(proposed))
        yield trials[-1]


def budget(space: Space, settings: PromptSearchSettings) -> int:
    """How many evaluations a search takes."""
    return min(settings.evaluations, space.combinations)


def best(trials: Sequence[Trial]) -> Trial:
    """The evaluation of the highest value, the first of equals."""
    return max(trials, key=lambda one: one.value)


def propose(space: Space, trials: Sequence[Evaluated], *, settings: PromptSearchSettings, seed: int) -> Combination:
    """What to evaluate next."""
    rng = Random(f"{seed}/{len(trials)}")
    seen = list(dict.fromkeys(one.combination for one in trials))
    if not seen:
        return (0,) * len(space.sizes)
    if len(trials) < settings.warm_up:
        return _drawn(space, seen, rng)
    score = bound(
        space,
        expectation(space, trials, settings=settings, seed=seed),
        [one.combination for one in trials],
        exploration=settings.exploration,
        information=settings.information,
    )
    start = trials[-1] if settings.start == "last" and len(trials) > settings.warm_up else best(trials)
    found = ascend(start.combination, space.sizes, score, sweeps=settings.sweeps)
    if settings.repeated == "count" or found not in seen:
        return found
    return _beside(found, space, seen, score) or _drawn(space, seen, rng)


def expectation(space: Space, trials: Sequence[Evaluated], *, settings: PromptSearchSettings, seed: int) -> Score:
    """What the surrogate, fitted to all evaluations, expects of combinations, 0 being the worst value seen and 1 the
    best."""
    seen, values = [one.combination for one in trials], scaled([one.value for one in trials])
    if settings.surrogate == "kernel":
        return kernel.fit(space, seen, values)
    both_ways = settings.edges == "both"
    return attention.fit(space, seen, values, both_ways=both_ways, seed=seed + len(trials))


def scaled(values: Sequence[float]) -> list[float]:
    """The values with the least at 0 and the greatest at 1; all at a half where they are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _beside(found: Combination, space: Space, seen: Sequence[Combination], score: Score) -> Combination | None:
    """The best combination that differs in one prompt and was not evaluated yet; None where all were."""
    ways = dict.fromkeys(way for role in range(len(space.sizes)) for way in along(found, role, space.sizes))
    new = [way for way in ways if way not in seen]
    return new[int(score(new).argmax())] if new else None


def _drawn(space: Space, seen: Sequence[Combination], rng: Random) -> Combination:
    """A combination at random that was not evaluated yet, of which there must be one."""
    while True:
        drawn = tuple(rng.randrange(size) for size in space.sizes)
        if drawn not in seen:
            return drawn
