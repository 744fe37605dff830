"""A question as the market's environment: the state is what has been said, an action is a message.

A batch of talks goes on step by step. Knows no model: whoever speaks, and who says whether an agent is to wake, are
passed in; so are the payments, which an evaluation leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from ..records import Dialogue, Ending, Metric, Question, Turn
from ..settings.agents import Agent, Clause
from ..settings.market import MarketSettings
from ..settings.workflow import Workflow
from ..tasks.answers import extract
from .auction import hold
from .dialogue import Cue
from .ledger import Economy, Move, minted, paid, step_amounts, updated

Speak = Callable[[Sequence[tuple[Question, Cue]]], Sequence[tuple[Turn, ...]]]
"""Whose turn it is in each talk; what each says, and what its tool says to that."""

Ask = Callable[[Sequence[tuple[Question, Dialogue, Agent]]], Sequence[bool]]
"""Whether the model says yes to an agent's wake question, for each of them."""

Worth = Callable[[Question, Dialogue], float]
"""The score of the answer that was marked last, whoever marked it, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A dialogue under way. economy: as it stands in it. moves: so far. checks: wake checks that the model was asked.
    worth: of the answer marked last, where that is paid for. author: who gave the final answer."""

    question: Question
    dialogue: Dialogue
    economy: Economy
    moves: tuple[Move, ...] = ()
    checks: int = 0
    worth: float = 0.0
    author: str | None = None


@dataclass(frozen=True)
class Environment:
    """The rules of a talk and who takes part in its steps. paying: whether money changes hands, as it does in training
    alone. draw: the random numbers of a talk's next auction. worth: None where a step earns nothing."""

    rules: MarketSettings
    workflow: Workflow
    speak: Speak
    ask: Ask
    draw: Callable[[Talk], Random]
    paying: bool = False
    worth: Worth | None = None

    def play(self, talks: Sequence[Talk]) -> list[Talk]:
        """Every talk carried on to its end."""
        current = list(talks)
        while any(talk.dialogue.ending is None for talk in current):
            current = self.step(current)
        return current

    def step(self, talks: Sequence[Talk]) -> list[Talk]:
        """The talks, each that goes on after one more action, or ended because nobody wished to act."""
        bidders = self._bidders([talk for talk in talks if talk.dialogue.ending is None])
        current, ready = list(talks), []
        going = [k for k, talk in enumerate(talks) if talk.dialogue.ending is None]
        for k, (talk, names, checks) in zip(going, bidders, strict=True):
            current[k] = self._won(replace(talk, checks=talk.checks + checks), names)
            if current[k].dialogue.ending is None:
                step = self.workflow.step(current[k].moves[-1].agent)
                ready.append((k, Cue(talk.dialogue, step, len(talk.dialogue.turns))))
        said = self.speak([(current[k].question, cue) for k, cue in ready]) if ready else ()
        for (k, _), turns in zip(ready, said, strict=True):
            current[k] = self._acted(current[k], turns)
        return current

    def _bidders(self, talks: Sequence[Talk]) -> list[tuple[Talk, list[str], int]]:
        """For each talk who takes part in its auction, and how many of them the model was asked about."""
        willing = [willing_now(talk, self.rules, self.workflow.metric) for talk in talks]
        asked = [(talk, agent) for talk, agents in zip(talks, willing, strict=True) for agent, ask in agents if ask]
        said = iter(self.ask([(talk.question, talk.dialogue, agent) for talk, agent in asked]) if asked else ())
        found = []
        for talk, agents in zip(talks, willing, strict=True):
            names = [agent.name for agent, ask in agents if not ask or next(said)]
            found.append((talk, names, sum(ask for _, ask in agents)))
        return found

    def _won(self, talk: Talk, names: Sequence[str]) -> Talk:
        """The talk with the move of who wins the auction, whose message is yet to come; ended where nobody bids."""
        if not names:
            return replace(talk, dialogue=replace(talk.dialogue, ending=Ending.DONE))
        bidders = [agent for agent in talk.economy.agents if agent.name in names]
        bidders = bidders if self.paying else tried(bidders)
        auction, after = hold(bidders, self.rules, self.draw(talk))
        move = Move(auction.winner, auction.bids, talk.moves[-1].agent if talk.moves else None)
        economy = paid(updated(talk.economy, after), move) if self.paying else talk.economy
        return replace(talk, economy=economy, moves=(*talk.moves, move))

    def _acted(self, talk: Talk, turns: tuple[Turn, ...]) -> Talk:
        """The talk with what the winner has said, its ending if that ends it, and its reward if it earns one."""
        said = replace(talk.dialogue, turns=(*talk.dialogue.turns, *turns))
        ending, author = None, None
        if any(turn.answer is not None for turn in turns):
            ending, author = Ending.DONE, talk.moves[-1].agent
        elif len(talk.moves) >= self.rules.steps:
            ending = Ending.MAX_TURNS
        after = replace(talk, dialogue=replace(said, ending=ending), author=author)
        return after if self.worth is None else self._rewarded(after, self.worth(talk.question, said))

    def _rewarded(self, talk: Talk, worth: float) -> Talk:
        gained = worth - talk.worth
        moves = (*talk.moves[:-1], replace(talk.moves[-1], reward=gained))
        economy = minted(talk.economy, step_amounts(moves, gained, self.rules)) if self.paying else talk.economy
        return replace(talk, moves=moves, economy=economy, worth=worth)


def tried(bidders: Sequence[Agent]) -> list[Agent]:
    """Those of them who keep a bid when a population is frozen: a novice has none to keep, and would outbid everybody,
    untested; so it takes part only where its role has nobody else."""
    known = {agent.role for agent in bidders if agent.status != "novice"}
    return [agent for agent in bidders if agent.status != "novice" or agent.role not in known]


def willing_now(talk: Talk, rules: MarketSettings, metric: Metric) -> list[tuple[Agent, bool]]:
    """Who may take part in a talk's next auction, each with whether the model has to be asked about it first.

    In the last steps nobody is asked, and only those take part whose answers count.
    """
    roles = {agent.name: agent.role for agent in talk.economy.agents}
    said = [roles[move.agent] for move in talk.moves]
    return _willing(talk.economy.agents, said, talk.dialogue.turns, rules, metric)


def _willing(
    agents: Sequence[Agent], said: Sequence[str], turns: Sequence[Turn], rules: MarketSettings, metric: Metric
) -> list[tuple[Agent, bool]]:
    """The same from what has been said, and the roles of who has acted."""
    if len(said) >= rules.steps - rules.terminal_steps:
        return [(agent, False) for agent in agents if agent.terminal]
    awake = [one for one in agents if all(holds(clause, said, turns, metric) for clause in one.wake.when)]
    return [(agent, bool(agent.wake.ask)) for agent in awake]


def checks_of(dialogue: Dialogue, agents: Sequence[Agent], rules: MarketSettings, metric: Metric) -> int:
    """How often the model was asked whether somebody is to wake, in a whole talk of these agents, whose order is that
    of `Turn.speaker`."""
    acted = [k for k, turn in enumerate(dialogue.turns) if turn.speaker < len(agents)]
    roles = [agents[dialogue.turns[k].speaker].role for k in acted]
    nobody = dialogue.ending is Ending.DONE and dialogue.answer is None  # wished to go on
    ends = [*acted, len(dialogue.turns)] if nobody else acted
    willing = (_willing(agents, roles[:k], dialogue.turns[:end], rules, metric) for k, end in enumerate(ends))
    return sum(ask for one in willing for _, ask in one)


def holds(clause: Clause, roles: Sequence[str], turns: Sequence[Turn], metric: Metric) -> bool:
    """Whether a clause of a wake rule holds after these turns. roles: of the agents that have acted, in order."""
    match clause.kind:
        case "first":
            found = not roles
        case "after":
            found = bool(roles) and roles[-1] == clause.of
        case "said":
            found = clause.of in roles
        case "says":
            found = bool(turns) and clause.of.casefold() in turns[-1].text.casefold()
        case "answered":
            found = any(extract(turn.text, metric=metric) is not None for turn in turns)
    return found != clause.negated
