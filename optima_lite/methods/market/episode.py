"""One training episode in the order of its rules: play, reward, remove the bankrupt, replay, rent, births.

Where the money goes is in `team.ledger`, who is born in `evolution`; how a question is played is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from ...records import Question
from ...settings.agents import roles_of
from ...settings.market import MarketSettings
from ...team.episodes import Account, Episode, Market, Trial, failures
from ...team.ledger import Economy, minted, path_amounts, rolled_back
from .evolution import Nature, Raise, Write


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of playing a question once. economy: after all payments and step rewards, before the path's."""

    economy: Economy
    trial: Trial


Play = Callable[[Economy, int], Attempt]
"""The market's attempt of this number at the question of the episode."""


def settle(
    market: Market,
    question: Question,
    *,
    play: Play,
    write: Write,
    rules: MarketSettings,
    rng: Random,
    nurture: Raise = lambda parent, birth: None,
) -> Episode:
    """The next episode of a market; `Market.after` is where it then stands.

    A role that loses its last agent gets another at once, so that a replay has all of them, too. rng: draws who has
    children.
    """
    economy, traces = market.economy, dict(market.traces)
    nature = Nature(rules, write, rng, roles_of(economy.agents), traces, market.episodes, nurture)
    trials: list[Trial] = []
    for number in range(rules.trials):
        attempt = play(economy, number)
        after, trial = _rewarded(attempt, rules)
        trials.append(trial)
        traces |= failures(question, [trial], pass_score=rules.pass_score)
        replayed = bool(trial.bankrupt) and number < rules.trials - 1
        economy = nature.remove(rolled_back(economy, after) if replayed else after, trial.bankrupt)
        if not replayed:
            break
    economy = nature.collect_rent(economy)
    economy = nature.renew(economy)
    accounts = tuple(Account(agent.name, agent.wealth, agent.status, agent.bid) for agent in economy.agents)
    dead = tuple(agent.name for agent in nature.dead)
    births = tuple(nature.births)
    return Episode(market.episodes, question, tuple(trials), dead, births, accounts, economy.minted, economy.burned)


def _rewarded(attempt: Attempt, rules: MarketSettings) -> tuple[Economy, Trial]:
    """The economy after the rewards of the path, and the attempt with who could not pay."""
    trial = attempt.trial
    after = minted(attempt.economy, path_amounts(trial.moves, trial.author, trial.score, rules))
    return after, replace(trial, bankrupt=after.broke)
