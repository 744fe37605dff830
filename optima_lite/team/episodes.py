"""What is kept of a market's episodes: who acted and paid, who broke, who was born, and where the money is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..records import Dialogue, Question
from ..settings.agents import Agent, Status
from ..settings.market import MarketSettings
from .ledger import Economy, Move

How = Literal["mutate", "repair"]
Cause = Literal["role", "death", "regular", "minimum"]
"""Why a child is born: its role was empty, its forerunner has gone, it was time, or there were too few agents."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An attempt at a question. author: who gave the final answer. score: in [0, 1]. checks: wake checks that the model
    was asked. bankrupt: who owed more than it had afterwards."""

    moves: tuple[Move, ...]
    author: str | None
    score: float
    dialogue: Dialogue
    checks: int = 0
    bankrupt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Birth:
    """A child, how it was made from its parent, and why it came."""

    child: Agent
    how: How
    cause: Cause


@dataclass(frozen=True, slots=True)
class Account:
    """What an agent owns, and how it bids."""

    name: str
    wealth: float
    status: Status
    bid: float | None


@dataclass(frozen=True, slots=True)
class Episode:
    """A training question, played until nobody broke over it. dead: who has gone, in order. accounts: of all who live
    after it. minted, burned: since the first day. written: tokens sampled for the strategies of children. trained:
    tokens that children were trained on, times epochs."""

    number: int
    question: Question
    trials: tuple[Trial, ...]
    dead: tuple[str, ...]
    births: tuple[Birth, ...]
    accounts: tuple[Account, ...]
    minted: float
    burned: float
    written: int = 0
    trained: int = 0

    @property
    def score(self) -> float:
        """Of the attempt that counted."""
        return self.trials[-1].score

    @property
    def tokens(self) -> int:
        """Sampled in all attempts."""
        return sum(trial.dialogue.tokens for trial in self.trials)

    @property
    def checks(self) -> int:
        """Wake checks in all attempts, a token each."""
        return sum(trial.checks for trial in self.trials)

    @property
    def wealth(self) -> float:
        """What all agents own together."""
        return sum(account.wealth for account in self.accounts)


@dataclass(frozen=True, slots=True)
class Trace:
    """A failed attempt at a training question, by which an agent that took part in it may be repaired."""

    question: Question
    trial: Trial


@dataclass(frozen=True, slots=True)
class Win:
    """An episode that was won. agents: who spoke in it, in the order of `Turn.speaker`."""

    question: Question
    dialogue: Dialogue
    agents: tuple[Agent, ...]


@dataclass(frozen=True, slots=True)
class Market:
    """Where a run stands. traces: the last failure of each agent that lives; wins: its last won episodes. episodes: so
    far."""

    economy: Economy
    traces: Mapping[str, Trace] = field(default_factory=dict)
    wins: Mapping[str, tuple[Win, ...]] = field(default_factory=dict)
    episodes: int = 0

    def after(self, episode: Episode, rules: MarketSettings) -> Market:
        """The market after a stored episode, to the last digit as it was then."""
        known = {agent.name: agent for agent in (*self.economy.agents, *(birth.child for birth in episode.births))}
        agents = tuple(
            replace(known[one.name], wealth=one.wealth, status=one.status, bid=one.bid) for one in episode.accounts
        )
        economy = Economy(agents, episode.minted, episode.burned, self.economy.ever + len(episode.births))
        traces = dict(self.traces) | failures(episode.question, episode.trials, pass_score=rules.pass_score)
        wins = dict(self.wins)
        if episode.score >= rules.pass_score:
            win = _win(episode, known)
            wins |= {a.name: (*wins.get(a.name, ()), win)[-rules.lessons :] for a in win.agents}
        living = {agent.name for agent in agents}
        kept = {name: trace for name, trace in traces.items() if name in living}
        return Market(economy, kept, {k: v for k, v in wins.items() if k in living}, episode.number + 1)


def _win(episode: Episode, known: Mapping[str, Agent]) -> Win:
    """The attempt that counted, its turns numbered by those who spoke in it; tools are left out."""
    trial = episode.trials[-1]
    names = list(dict.fromkeys(move.agent for move in trial.moves))
    said = [turn for turn in trial.dialogue.turns if turn.ids]
    turns = tuple(replace(turn, speaker=names.index(move.agent)) for move, turn in zip(trial.moves, said, strict=False))
    return Win(episode.question, replace(trial.dialogue, turns=turns), tuple(known[name] for name in names))


def failures(question: Question, trials: Iterable[Trial], *, pass_score: float) -> dict[str, Trace]:
    """The trace of the last of these attempts that failed, for everyone who took part in one."""
    failed = [trial for trial in trials if trial.score < pass_score]
    return {move.agent: Trace(question, trial) for trial in failed for move in trial.moves}
