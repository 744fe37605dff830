"""What a market's episodes have stored, in plain numbers: wealth, births and deaths, who acts after whom, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from ..records import Dialogue, Rollouts
from ..settings.agents import Agent, founders
from ..settings.market import MarketSettings
from ..team.environment import checks_of
from ..team.episodes import Episode
from .evaluations import evaluation_stage
from .folder import EPISODES, POPULATION, RunFolder, stage_name


@dataclass(frozen=True, slots=True)
class Trade:
    """An iteration of a market. score: the mean over its episodes. wealth: of all agents together at its end. births:
    by their cause. successions: how often an agent of the second role acted right after one of the first; the first is
    empty where a talk began. tokens: said in all attempts; checks: wake checks, a token each; written: sampled for
    strategies; trained: that children were trained on, times epochs. replays: attempts that did not count. minted,
    burned: since the first day."""

    iteration: int
    episodes: int
    score: float
    wealth: float
    minted: float
    burned: float
    population: int
    births: Mapping[str, int]
    deaths: int
    replays: int
    successions: Mapping[tuple[str, str], int]
    tokens: int
    checks: int
    written: int
    trained: int

    @property
    def spent(self) -> int:
        """All tokens that the iteration has sampled, and trained on."""
        return self.tokens + self.checks + self.written + self.trained


def is_market(run: RunFolder) -> bool:
    """Whether the run's method is the market."""
    return bool(run.manifest["recipe"].get("method") == "market")


def episodes_of(run: RunFolder, iteration: int) -> Sequence[Episode]:
    """The stored episodes of an iteration, none in a run of another method."""
    return run.read(stage_name(iteration, EPISODES), Episode)


def trades(run: RunFolder) -> list[Trade]:
    """The iterations that have episodes, in order; none in a run of another method."""
    stored = ((i, episodes_of(run, i)) for i in run.iterations()) if is_market(run) else ()
    return [_trade(iteration, episodes) for iteration, episodes in stored if episodes]


def _trade(iteration: int, episodes: Sequence[Episode]) -> Trade:
    follows: Counter[tuple[str, str]] = Counter()
    for episode in episodes:
        for trial in episode.trials:
            roles = ["", *(role_of(move.agent) for move in trial.moves)]
            follows.update(pairwise(roles))
    last = episodes[-1]
    return Trade(
        iteration,
        len(episodes),
        fmean(episode.score for episode in episodes),
        last.wealth,
        last.minted,
        last.burned,
        len(last.accounts),
        dict(Counter(birth.cause for episode in episodes for birth in episode.births)),
        sum(len(episode.dead) for episode in episodes),
        sum(len(episode.trials) - 1 for episode in episodes),
        dict(follows),
        sum(episode.tokens for episode in episodes),
        sum(episode.checks for episode in episodes),
        sum(episode.written for episode in episodes),
        sum(episode.trained for episode in episodes),
    )


def role_of(name: str) -> str:
    """The role of the agent of this name."""
    return name.rpartition("-")[0]


def living(run: RunFolder, iteration: int | None) -> tuple[Agent, ...]:
    """The population after an iteration, the founders for None; nobody in a run of another method."""
    if not is_market(run):
        return ()
    if iteration is not None:
        return tuple(run.read(stage_name(iteration, POPULATION), Agent))
    rules = _rules(run)
    return founders(rules.agents, wealth=rules.initial_wealth)


def speakers(run: RunFolder, iteration: int | None) -> tuple[str, ...]:
    """The names of all who have turns in a market's talks after an iteration, by `Turn.speaker`."""
    agents = living(run, iteration)
    return (*(agent.name for agent in agents), *dict.fromkeys(agent.tool for agent in agents if agent.tool))


def evaluation_checks(run: RunFolder, name: str, decoding: str, iteration: int | None) -> int:
    """The wake checks of a stored evaluation, a token each: the talks tell who was asked, and when."""
    agents, rules = living(run, iteration), _rules(run)
    if not any(agent.wake.ask for agent in agents):
        return 0
    metric = run.manifest["recipe"]["task"]["metric"]
    stored: Sequence[Rollouts] = run.read(evaluation_stage(name, decoding), Rollouts)
    talks: list[Dialogue] = [dialogue for group in stored for dialogue in group.dialogues]
    return sum(checks_of(dialogue, agents, rules, metric) for dialogue in talks)


def _rules(run: RunFolder) -> MarketSettings:
    values: dict[str, Any] = run.manifest["recipe"]["market"]
    return MarketSettings.model_validate(values)
