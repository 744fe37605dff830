"""Where the money of a market is: every payment has two ends, and what has one is minted or burned.

The sum of all wealth is always what the founders began with, plus what was minted (rewards, which may be negative, and
the wealth that the newborn come with), less what was burned (first bids, rent, the balances of those removed).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..settings.agents import Agent
from ..settings.market import MarketSettings


@dataclass(frozen=True, slots=True)
class Economy:
    """The living agents, in the order of their births, and the two ends of the money. ever: agents that there have
    been."""

    agents: tuple[Agent, ...]
    minted: float = 0.0
    burned: float = 0.0
    ever: int = 0

    @property
    def wealth(self) -> float:
        """What all agents own together."""
        return sum(agent.wealth for agent in self.agents)

    def agent(self, name: str) -> Agent:
        """The living agent of that name. Raises KeyError for none."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise KeyError(name)

    @property
    def broke(self) -> tuple[str, ...]:
        """The names of those who owe more than they have."""
        return tuple(agent.name for agent in self.agents if agent.wealth < 0)


@dataclass(frozen=True, slots=True)
class Move:
    """One action. agent: who won the auction and acted. bids: of all who took part. paid_to: the winner before, None
    where the payment went nowhere. reward: minted for this step; see `rewarded`."""

    agent: str
    bids: tuple[tuple[str, float], ...]
    paid_to: str | None
    reward: float = 0.0

    @property
    def bid(self) -> float:
        """What was paid."""
        return dict(self.bids)[self.agent]


def founded(agents: Sequence[Agent]) -> Economy:
    """The economy on its first day."""
    return Economy(tuple(agents), ever=len(agents))


def updated(economy: Economy, agents: Sequence[Agent]) -> Economy:
    """The economy with these agents in the places of those of their names."""
    by_name = {agent.name: agent for agent in agents}
    return replace(economy, agents=tuple(by_name.get(agent.name, agent) for agent in economy.agents))


def paid(economy: Economy, move: Move) -> Economy:
    """The economy after the winner's payment: to the winner before it, or to nobody. Who follows itself pays itself."""
    after = _given(economy, {move.agent: -move.bid})
    if move.paid_to is None:
        return replace(after, burned=after.burned + move.bid)
    return _given(after, {move.paid_to: move.bid})


def minted(economy: Economy, amounts: Mapping[str, float]) -> Economy:
    """The economy after everybody named has been given an amount, which may be negative."""
    return replace(_given(economy, amounts), minted=economy.minted + sum(amounts.values()))


def charged(economy: Economy, rent: float) -> Economy:
    """The economy after everybody has paid the rent."""
    after = _given(economy, {agent.name: -rent for agent in economy.agents})
    return replace(after, burned=economy.burned + rent * len(economy.agents))


def without(economy: Economy, names: Collection[str]) -> Economy:
    """The economy after these have gone; what they had, or owed, goes with them."""
    staying = tuple(agent for agent in economy.agents if agent.name not in names)
    gone = sum(agent.wealth for agent in economy.agents if agent.name in names)
    return replace(economy, agents=staying, burned=economy.burned + gone)


def with_newborn(economy: Economy, newborn: Sequence[Agent]) -> Economy:
    """The economy with more agents, who bring what they own."""
    brought = sum(agent.wealth for agent in newborn)
    agents = (*economy.agents, *newborn)
    return replace(economy, agents=agents, minted=economy.minted + brought, ever=economy.ever + len(newborn))


def rolled_back(snapshot: Economy, after: Economy) -> Economy:
    """The economy before a replay: all money is where it was at the snapshot, and bids and status are as they came
    out."""
    wealth = {agent.name: agent.wealth for agent in snapshot.agents}
    agents = tuple(replace(agent, wealth=wealth[agent.name]) for agent in after.agents)
    return replace(after, agents=agents, minted=snapshot.minted, burned=snapshot.burned)


def step_amounts(moves: Sequence[Move], reward: float, rules: MarketSettings) -> dict[str, float]:
    """Who gets the reward of the last move: who made it, or in equal parts the distinct winners of the last three."""
    if rules.step_share == "winner":
        return {moves[-1].agent: reward}
    recent = dict.fromkeys(move.agent for move in moves[-3:])
    return {name: reward / len(recent) for name in recent}


def path_amounts(moves: Sequence[Move], author: str | None, score: float, rules: MarketSettings) -> dict[str, float]:
    """Who gets what at the end of an episode: everyone on the path a part of the signal, and the author of the final
    answer a bonus. score: of the task, in [0, 1]; the signal is env_scale * score, or env_scale * (2 score - 1)."""
    signal = rules.env_scale * (2 * score - 1 if rules.centred else score)
    amounts: dict[str, float] = {}
    actors = [move.agent for move in moves]
    if rules.path_share == "author":
        actors = list(dict.fromkeys(actors))
    for name in actors:
        amounts[name] = amounts.get(name, 0.0) + rules.path_scale * signal / len(actors)
    if author is not None:
        amounts[author] = amounts.get(author, 0.0) + rules.bonus_scale * signal
    return amounts


def _given(economy: Economy, amounts: Mapping[str, float]) -> Economy:
    def given(agent: Agent) -> Agent:
        return replace(agent, wealth=agent.wealth + amounts[agent.name]) if agent.name in amounts else agent

    return replace(economy, agents=tuple(map(given, economy.agents)))
