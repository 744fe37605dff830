"""Ask the agents of a run a question: facts put into their hands, the talk as it goes on, the answer at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import DataError
from ..learn.rollout import Agents
from ..model.sampling import Sampling
from ..records import Ending, Question
from ..settings.layers import near_names
from ..settings.workflow import Workflow
from .cast import Cast

Facts = Sequence[str] | Sequence[Sequence[str]] | Mapping[str, Sequence[str]]
"""One list, to be dealt out; or a list for each role that holds a share; or such lists by the roles' names."""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a dialogue. role: who said it, a role's or a tool's name. tokens: sampled, none for a tool. answer:
    what the turn states as the answer. finished: False when it was cut at its token limit, or, in a stream, when its
    message goes on. tick: of a stream, counted from 1: what has the same was said side by side; else 0. spoken_by: the
    speaker of the machine file whose model has said it; nobody: ours."""

    role: str
    text: str
    tokens: int
    answer: str | None
    finished: bool
    tick: int = 0
    spoken_by: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question. answer: the team's, None without one or when the talk was cut. turns: the dialogue.
    ending: why it stopped. tokens: sampled over all turns. shortened: whether facts were cut to fit the model."""

    answer: str | None
    turns: tuple[Said, ...]
    ending: Ending
    tokens: int
    shortened: bool


class Team:
    """The agents of a run as they stood after an iteration, in memory and ready to talk. Made by `optima_lite.load`."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the agents, in the order of the workflow."""
        return tuple(role.name for role in self._cast.team.workflow.roles)

    @property
    def holders(self) -> tuple[str, ...]:
        """The agents that hold a share of the facts each; none where all of them see all facts, or no facts at all."""
        return self._cast.team.workflow.holders

    def ask(
        self,
        question: str | Question,
        facts: Facts = (),
        *,
        sample: bool = False,
        seed: int = 0,
        hear: Callable[[Said], None] | None = None,
    ) -> Answer:
        """What the team answers, and what was said on the way.

        question: a text with its facts, or a Question, which has them. sample: draw each token as in training instead
        of taking the likeliest; then seed decides. hear: is told every turn as soon as it is said. Raises DataError for
        facts that cannot be handed out, and for a question that does not fit the model even without its facts.
        """
        asked = question if isinstance(question, Question) else self._question(question, facts)
        if isinstance(question, Question) and facts:
            raise DataError("this question has its own facts", where="facts", hint="give the text alone, or no facts")
        team = self._cast.team
        (fitted,), shortened = self._cast.fit(team, [asked])
        sampling = self._cast.sampling(team, greedy=not sample)
        return replace(talk(team, fitted, sampling=sampling, seed=seed, hear=hear), shortened=bool(shortened))

    def _question(self, text: str, facts: Facts) -> Question:
        if not text.strip():
            raise DataError("there is no question in this text", where="question")
        return Question("chat", text.strip(), ("",), hands(facts, self._cast.team.workflow))


def talk(
    agents: Agents,
    question: Question,
    *,
    sampling: Sampling,
    seed: int,
    number: int = 0,
    hear: Callable[[Said], None] | None = None,
) -> Answer:
    """A dialogue about a question that fits the model. number: of several about the same question, each of which has
    random numbers of its own. hear: is told every turn as soon as it is said."""
    workflow, turns, tick = agents.workflow, list[Said](), 0
    for dialogue in agents.unfold(question, sampling=sampling, seed=(seed, "chat", *([number] if number else []))):
        tick += workflow.streams
        for turn in dialogue.turns[len(turns) :]:
            role, tokens = workflow.names[turn.speaker], len(turn.ids)
            turns.append(Said(role, turn.text, tokens, turn.answer, turn.finished, tick, turn.spoken_by or ""))
            if hear:
                hear(turns[-1])
    assert dialogue.ending is not None
    return Answer(dialogue.answer, tuple(turns), dialogue.ending, dialogue.tokens, shortened=False)


def hands(facts: Facts, workflow: Workflow) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The facts as the agents hold them; where nobody holds a share everyone sees all, which stands first.

    Raises DataError for other roles than those that hold facts, for another number of lists, and for what is no text.
    """
    holders = workflow.holders
    if isinstance(facts, str):
        raise DataError("must be a list of texts, not one text", where="facts")
    if isinstance(facts, Mapping):
        for role in facts:
            if role not in holders:
                known = near_names(role, holders) if holders else "nobody does: give one list, which everyone sees"
                raise DataError(f"{role} holds no share of the facts; {known}", where="facts")
        shares = [_texts(facts.get(role, ())) for role in holders]
    elif facts and not any(isinstance(fact, str) for fact in facts):
        if len(facts) != len(holders):
            needs = f"the {len(holders)} that hold a share: {', '.join(holders)}" if holders else "nobody"
            what = f"holds {len(facts)} lists, where there must be one for each of {needs}"
            raise DataError(what if holders else "holds lists, and no agent has a share of its own", where="facts")
        shares = [_texts(share) for share in facts]
    else:
        dealt = _texts(facts)
        shares = [dealt[place :: len(holders)] for place in range(len(holders))] or [dealt]
    first, second, *_ = (*shares, (), ())
    return first, second


def _texts(facts: object) -> tuple[str, ...]:
    if isinstance(facts, str) or not isinstance(facts, Sequence) or not all(isinstance(fact, str) for fact in facts):
        raise DataError("must be texts in a list", where="facts")
    return tuple(facts)
