"""Searches in a box whose best combination is known: no model, no questions, so that only the search is measured.

    python scripts/prompt_box.py --seeds 20
    python scripts/prompt_box.py --seeds 5 --first 10 --ways attention --evaluations 20   # the slow one, in parts

Four roles, four edges (one writes for two, who write for the last), twelve prompts each with an embedding at random. A
combination's worth is a linear effect of every prompt plus a bilinear one for every edge, over all 20,736 put on [0,
1]; an evaluation adds noise. Told is the true worth of the combination that each search ends with, its mean over the
seeds with a 95 % interval, its difference to random, and how many different combinations it has evaluated.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

import torch

from optima_lite.methods.prompts import search as searching
from optima_lite.methods.prompts.acquisition import bound
from optima_lite.methods.prompts.search import best, expectation, search
from optima_lite.methods.prompts.space import Combination, Space, space
from optima_lite.settings.prompt_search import PromptSearchSettings
from optima_lite.statistics import of_mean

ROLES, PROMPTS, WIDTH, NOISE = 4, 12, 8, 0.01
EDGES = ((0, 1), (0, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class Trial:
    """What an evaluation has shown of a combination."""

    combination: Combination
    value: float


class Box:
    """Every combination's true worth, and as many evaluations of it with noise as the budget allows."""

    def __init__(self, seed: int, budget: int) -> None:
        self.budget = budget
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.space = space([draw(PROMPTS, WIDTH) for _ in range(ROLES)], EDGES)
        width = self.space.features[0].shape[1]
        alone, pairs = draw(ROLES, width), draw(len(EDGES), width, width)
        self.all = list(itertools.product(range(PROMPTS), repeat=ROLES))
        prompts = self.space.stacked(self.all)
        worth = torch.einsum("crw,rw->c", prompts, alone)
        for (one, other), pair in zip(EDGES, pairs, strict=True):
            worth += torch.einsum("cw,wv,cv->c", prompts[:, one], pair, prompts[:, other])
        self.worth = dict(zip(self.all, ((worth - worth.min()) / (worth.max() - worth.min())).tolist(), strict=True))
        self._noise = Random(seed)

    def evaluate(self, combination: Combination) -> Trial:
        """One noisy look."""
        return Trial(combination, self.worth[combination] + self._noise.gauss(0, NOISE))


def settings(box: Box, **changed: object) -> PromptSearchSettings:
    """The defaults, five evaluations being the warm-up, with the budget of the box."""
    return PromptSearchSettings.model_validate({"evaluations": box.budget, **changed})


def guided(box: Box, seed: int, *, within: Space | None = None, **changed: object) -> list[Trial]:
    """A search as `method: prompts` makes it, with some settings changed."""
    how = settings(box, **changed)
    return [*search(within or box.space, evaluate=box.evaluate, history=[], settings=how, seed=seed)]


def without_edges(box: Box, seed: int) -> list[Trial]:
    """The kernel of single roles."""
    return guided(box, seed, within=Space(box.space.features, ()))


def at_random(box: Box, seed: int) -> list[Trial]:
    """Nothing but the warm-up."""
    return guided(box, seed, warm_up=box.budget)


def exhaustive(box: Box, seed: int) -> list[Trial]:
    """The bound looked up for every combination, in place of the ascent."""
    how, trials = settings(box), [box.evaluate(box.all[0])]
    while len(trials) < how.evaluations:
        seen = [one.combination for one in trials]
        if len(trials) < how.warm_up:
            found = searching.propose(box.space, trials, settings=how, seed=seed)
        else:
            expected = expectation(box.space, trials, settings=how, seed=seed)
            score = bound(box.space, expected, seen, exploration=how.exploration, information=how.information)
            order = score(box.all).argsort(descending=True)
            found = next(box.all[int(k)] for k in order if box.all[int(k)] not in seen)
        trials.append(box.evaluate(found))
    return trials


WAYS: dict[str, Callable[[Box, int], list[Trial]]] = {
    "random": at_random,
    "greedy": lambda box, seed: guided(box, seed, exploration=0.0, repeated="count"),
    "greedy, never the same twice": lambda box, seed: guided(box, seed, exploration=0.0),
    "kernel without edges": without_edges,
    "kernel": lambda box, seed: guided(box, seed),
    "kernel, every combination looked at": exhaustive,
    "attention": lambda box, seed: guided(box, seed, surrogate="attention"),
    "attention without edges": lambda box, seed: guided(
        box, seed, within=Space(box.space.features, ()), surrogate="attention"
    ),
    "attention, official": lambda box, seed: guided(
        box, seed, surrogate="attention", information=10.0, start="last", repeated="count"
    ),
}


def main() -> None:
    """Print a line for every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--ways", default=",".join(way for way in WAYS if "," not in way), help="names, with ; between")
    parser.add_argument("--evaluations", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.ways.split(";") if ";" in given.ways or given.ways in WAYS else [*WAYS]
    seeds = range(given.first, given.first + given.seeds)
    boxes = {seed: Box(seed, given.evaluations) for seed in seeds}
    lucky = [reached(boxes[seed], at_random(Box(seed, given.evaluations), seed)) for seed in seeds]
    print(f"{'search':<38} {'worth':>22} {'over random':>26} {'different':>9}")
    for name in names:
        runs = [WAYS[name](Box(seed, given.evaluations), seed) for seed in seeds]
        worth = [reached(boxes[seed], trials) for seed, trials in zip(seeds, runs, strict=True)]
        gained = [one - other for one, other in zip(worth, lucky, strict=True)]
        different = fmean(len({one.combination for one in trials}) for trials in runs)
        print(f"{name:<38} {shown(worth)} {shown(gained, sign='+')} {different:>9.1f}", flush=True)
        print(" ".join(f"{one:.3f}" for one in worth), flush=True)


def reached(box: Box, trials: Sequence[Trial]) -> float:
    """The true worth of what looked best."""
    return box.worth[best(trials).combination]


def shown(values: Sequence[float], *, sign: str = "") -> str:
    """Mean and interval."""
    low, high = of_mean(values) or (float("nan"), float("nan"))
    form = f"{sign}.3f"
    return f"{fmean(values):{form}} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
