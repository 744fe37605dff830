"""A market without a model: what its rules do by themselves.

    python scripts/market_toy.py --seeds 20

Six agents take the three stages of a task, two each, and succeed with chances between .2 and .5 that nobody sees. The
score is 1 when all three stages succeed, and nothing is told before. Children are as able as their parents, give
or take .2 (standard deviation). 400 episodes under the rules of `market_cloudcast`; what is told is the share of
successes among the last hundred, its mean over the seeds with the 95 % interval, and against the market as it is, seed
by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from optima_lite import statistics
from optima_lite.methods.market.episode import Attempt, settle
from optima_lite.methods.market.evolution import Request
from optima_lite.records import Dialogue, Question
from optima_lite.settings.agents import Agent
from optima_lite.settings.market import MarketSettings
from optima_lite.settings.presets import PRESETS
from optima_lite.team.auction import hold
from optima_lite.team.episodes import Episode, Market, Trial
from optima_lite.team.ledger import Economy, Move, founded, paid, updated

STAGES = ("one", "two", "three")
QUESTION = Question("toy", "", ("",), ((), ()))
CLOUDCAST = {key.removeprefix("market."): value for key, value in PRESETS["market_cloudcast"](None, None).items()}
NO_MARKET = {"scheme": "fixed", "base_bid": 0.0, "eps": 0.0, "env_scale": 0.0, "rent": 0.0}
NO_BIRTHS = {"births": 0, "replace_by_richest": 0.0, "replace_by_repair": 0.0, "min_population": None}


@dataclass
class Toy:
    """A market whose agents each take one of three stages, and succeed with a chance that nobody sees: the number in
    their strategy. The score is 1 when all stages succeed. Children are as able as their parents, give or take."""

    rules: MarketSettings
    seed: int
    founders: int = 6

    def __post_init__(self) -> None:
        self.rng = Random(f"toy/{self.seed}")
        agents = [self._founder(k) for k in range(self.founders)]
        self.market = Market(founded(agents))
        self.start = self.market.economy.wealth

    def _founder(self, k: int) -> Agent:
        role = STAGES[k % 3]
        competence = str(self.rng.uniform(0.2, 0.5))
        return Agent(f"{role}-{k + 1}", role, strategy=competence, wealth=self.rules.initial_wealth)

    def write(self, requests: Sequence[Request]) -> list[str]:
        able = (float(request.parent.strategy) + self.rng.gauss(0, 0.2) for request in requests)
        return [str(min(0.99, max(0.01, one))) for one in able]

    def play(self, economy: Economy, attempt: int) -> Attempt:
        moves: tuple[Move, ...] = ()
        score = 1.0
        for stage in STAGES:
            auction, bidders = hold([a for a in economy.agents if a.role == stage], self.rules, self.rng)
            move = Move(auction.winner, auction.bids, moves[-1].agent if moves else None)
            economy, moves = paid(updated(economy, bidders), move), (*moves, move)
            if self.rng.random() >= float(economy.agent(auction.winner).strategy):
                score = 0.0
        return Attempt(economy, Trial(moves, moves[-1].agent, score, Dialogue("toy", attempt)))

    def episode(self) -> Episode:
        """The next episode; the market goes on from its record, as a resumed one does."""
        found = settle(
            self.market, QUESTION, play=self.play, write=self.write, rules=self.rules, rng=Random(self.rng.random())
        )
        self.market = self.market.after(found, self.rules)
        return found

    def success(self, episodes: int) -> float:
        """The share of successes among the last hundred of so many episodes."""
        return fmean([self.episode().score for _ in range(episodes)][-100:])


CASES: Mapping[str, Mapping[str, Any]] = {
    "the market": {},
    "no market: who acts is drawn, nothing is paid": NO_MARKET,
    "no births": NO_BIRTHS,
    "no rent": {"rent": 0.0},
    "rent x 5": {"rent": 0.1},
    "no exploitation: no children of the richest": {"births_of_richest": 0.0, "replace_by_richest": 0.0},
    "no exploration: children of the richest alone": {"births_of_richest": 1.0, "replace_by_repair": 0.0},
    "centred rewards": {"centred": True},
    "rewards x 0.2": {"env_scale": 0.4},
    "rewards x 4": {"env_scale": 8.0},
}


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=400)
    asked = parser.parse_args()
    first: list[float] = []
    print("| case | success | against the market |")
    print("|---|---|---|")
    for name, changed in CASES.items():
        rules = MarketSettings(**{**CLOUDCAST, **changed})
        found = [Toy(rules, seed).success(asked.episodes) for seed in range(asked.seeds)]
        first = first or found
        change = "" if found is first else _interval([one - other for one, other in zip(found, first, strict=True)])
        print(f"| {name} | {_interval(found)} | {change} |", flush=True)


def _interval(values: Sequence[float]) -> str:
    bounds = statistics.of_mean(values)
    return f"{fmean(values):.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


if __name__ == "__main__":
    main()
