"""Searches for prompts replayed on combinations that were all evaluated once: how far from the best, and how soon.

    python scripts/prompt_table.py prompts_quickstart --questions 30 --out table.json
    python scripts/prompt_replay.py table.json --seeds 5

The first command evaluates every combination, the second runs each search on that table, without a model. Told is the
regret after 10, 20 and 50 evaluations: by how much the best so far is worse than the best of the table, the mean over
the seeds and the range. Beside the searches of `method: prompts` stand random search and the grid that people try by
hand: one role's prompts after the other, the best kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import fmean

import torch

from optima_lite.methods.prompts.acquisition import along
from optima_lite.methods.prompts.search import search
from optima_lite.methods.prompts.space import Combination, Space
from optima_lite.records import Trial
from optima_lite.settings.prompt_search import PromptSearchSettings

AFTER = (10, 20, 50)
Table = dict[Combination, Trial]
Way = Callable[[Space, Table, int, int], list[Combination]]
"""A space, its table, a budget and a seed to what is looked up, in order."""


def guided(**changed: object) -> Way:
    """A search as `method: prompts` makes it, with some settings changed."""

    def way(space: Space, table: Table, budget: int, seed: int) -> list[Combination]:
        settings = PromptSearchSettings.model_validate({"evaluations": budget, **changed})
        found = search(space, evaluate=table.__getitem__, history=[], settings=settings, seed=seed)
        return [one.combination for one in found]

    return way


def without_edges(space: Space, table: Table, budget: int, seed: int) -> list[Combination]:
    """The kernel of single roles."""
    return guided()(Space(space.features, ()), table, budget, seed)


def at_random(space: Space, table: Table, budget: int, seed: int) -> list[Combination]:
    """Nothing but the warm-up."""
    return guided(warm_up=budget)(space, table, budget, seed)


def grid(space: Space, table: Table, budget: int, seed: int) -> list[Combination]:
    """Role by role in an order of the seed, each role's prompts in an order of the seed, the best one kept."""
    rng, best = Random(seed), (0,) * len(space.sizes)
    asked = [best]
    for role in rng.sample(range(len(space.sizes)), len(space.sizes)):
        ways = [way for way in along(best, role, space.sizes) if way not in asked]
        asked += rng.sample(ways, len(ways))
        best = max(asked, key=lambda one: table[one].value)
    return asked[:budget]


WAYS: dict[str, Way] = {
    "random": at_random,
    "grid, role by role": grid,
    "greedy": guided(exploration=0.0, repeated="count"),
    "kernel without edges": without_edges,
    "kernel": guided(),
    "attention": guided(surrogate="attention"),
}


def main() -> None:
    """Print a line for every search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--evaluations", type=int, default=AFTER[-1])
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--objective", choices=("reward", "score"), default="reward")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", default=";".join(WAYS), help="names, with ; between")
    given = parser.parse_args()
    torch.set_num_threads(1)
    space, table = read(given.table, given.objective)
    values = sorted((one.value for one in table.values()), reverse=True)
    own = table[(0,) * len(space.sizes)].value
    told = f"best {values[0]:.3f}, tenth {values[9]:.3f}, mean {fmean(values):.3f}, everybody's own {own:.3f}"
    print(f"{len(table)} combinations: {told}")
    print(f"{'regret after':<24} {'  '.join(f'{n:>20}' for n in AFTER)}")
    for name in given.ways.split(";"):
        seeds = range(given.first, given.first + given.seeds)
        runs = [WAYS[name](space, table, given.evaluations, seed) for seed in seeds]
        found = [[*regret(asked, table)] for asked in runs]
        cells = (f"{fmean(one):.3f} ({min(one):.3f}-{max(one):.3f})" for one in zip(*found, strict=True))
        print(f"{name:<24} {'  '.join(f'{cell:>20}' for cell in cells)}", flush=True)
        chosen = (max(asked, key=lambda one: table[one].value) for asked in runs)
        print("  chosen by each seed: " + ", ".join("-".join(map(str, one)) for one in chosen), flush=True)


def read(path: Path, objective: str) -> tuple[Space, Table]:
    """The space of a table's prompts, and all its evaluations. Of a table that is not finished the first role's prompts
    that met all of the others' are kept. Raises SystemExit for one without any."""
    stored = json.loads(path.read_text())
    first, *others = (torch.tensor(own, dtype=torch.float64) for own in stored["features"])
    beside = ["-".join(map(str, one)) for one in itertools.product(*(range(len(own)) for own in others))]
    whole = [k for k in range(len(first)) if all(f"{k}-{rest}" in stored["rows"] for rest in beside)]
    if not whole:
        raise SystemExit(f"{path} holds too little: scripts/prompt_table.py goes on with it")
    space = Space((first[whole], *others), tuple(map(tuple, stored["edges"])))
    print("first role: " + ", ".join(stored["origins"][0][k] for k in whole))
    weight = stored["token_weight"] / stored["normaliser"] if objective == "reward" else 0.0
    table = {}
    for name, row in stored["rows"].items():
        place, *rest = map(int, name.split("-"))
        if place not in whole:
            continue
        one, value = (whole.index(place), *rest), fmean(row["score"]) - weight * fmean(row["tokens"])
        table[one] = Trial(one, value, tuple(row["score"]), tuple(row["tokens"]), round(sum(row["tokens"])))
    return space, table


def regret(asked: Sequence[Combination], table: Table) -> Iterator[float]:
    """How much worse than the table's best the best of the first 10, 20, 50 is."""
    best = max(one.value for one in table.values())
    for count in AFTER:
        yield best - max(table[one].value for one in asked[:count])


if __name__ == "__main__":
    main()
