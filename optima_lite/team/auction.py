"""Who acts next: all who wish to bid, and the highest bid wins (EoM, arXiv 2606.02859).

Three schemes of bidding, as in the authors' code. `fixed`: a novice bids the base and a little more, once; afterwards
it bids the base. `fixed_with_eps`: a novice outbids the highest veteran by a little, and keeps that bid for life.
`holland`: the rich become tycoons and bid a share of their wealth; a novice outbids the highest tycoon by a little,
all others bid the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from ..settings.agents import Agent
from ..settings.market import MarketSettings


@dataclass(frozen=True, slots=True)
class Auction:
    """bids: what each one bids who takes part, by its name. winner: the name of who acts."""

    bids: tuple[tuple[str, float], ...]
    winner: str

    @property
    def bid(self) -> float:
        """What the winner pays: its own bid (first price)."""
        return dict(self.bids)[self.winner]


def hold(bidders: Sequence[Agent], rules: MarketSettings, rng: Random) -> tuple[Auction, tuple[Agent, ...]]:
    """The auction among these agents, and the agents as they are after they have bid. rng: decides between equal bids.

    At least one agent must take part.
    """
    promoted = [_promoted(agent, rules) for agent in bidders]
    bids = tuple((agent.name, bid_of(agent, promoted, rules)) for agent in promoted)
    best = max(bid for _, bid in bids)
    winner = rng.choice([name for name, bid in bids if bid == best])
    after = tuple(_having_bid(agent, bid, rules) for agent, (_, bid) in zip(promoted, bids, strict=True))
    return Auction(bids, winner), after


def bid_of(agent: Agent, bidders: Sequence[Agent], rules: MarketSettings) -> float:
    """What an agent bids among these, of which it is one."""
    match rules.scheme:
        case "fixed":
            return rules.base_bid + (rules.eps if agent.status == "novice" else 0.0)
        case "fixed_with_eps":
            kept = [one.bid for one in bidders if one.bid is not None]
            return max(kept, default=rules.base_bid) + rules.eps if agent.bid is None else agent.bid
        case "holland":
            share = rules.tycoon_share or 0.0
            if agent.status == "tycoon":
                return share * agent.wealth
            rich = [share * one.wealth for one in bidders if one.status == "tycoon"]
            return max(rich, default=rules.base_bid) + rules.eps if agent.status == "novice" else rules.base_bid


def _promoted(agent: Agent, rules: MarketSettings) -> Agent:
    rich = rules.tycoon_wealth is not None and agent.wealth >= rules.tycoon_wealth
    return replace(agent, status="tycoon") if rich and agent.status == "veteran" else agent


def _having_bid(agent: Agent, bid: float, rules: MarketSettings) -> Agent:
    if agent.status != "novice":
        return agent
    return replace(agent, status="veteran", bid=bid if rules.scheme == "fixed_with_eps" else None)
