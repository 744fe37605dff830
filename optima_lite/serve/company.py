"""Who can be asked: the team, each of its roles, and the single agent; and what a request comes down to for them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import DataError
from ..learn.rollout import Agents
from ..model.sampling import Sampling
from ..records import Dialogue, Question, Turn
from ..settings.workflow import Step
from ..stage.asking import Facts, hands
from ..stage.cast import Cast
from ..tasks.answers import extract
from ..team.dialogue import Cue, cues, moment
from .layout import Conversation, conversation_of, question_of
from .recollection import Recollection
from .requests import ChatRequest, Refusal
from .speaking import Manner, RoleMessage, TeamTalk

_ALMOST_NOTHING = 1e-9  # a nucleus of the likeliest token alone
_TEXT_A_TOKEN = 64  # characters; a text longer than that many times the model's limit is not even tokenised


@dataclass(frozen=True, slots=True)
class Task:
    """What a request comes down to. manners: one a choice. share: the part of all room that each of them needs."""

    work: TeamTalk | RoleMessage
    manners: tuple[Manner, ...]
    share: float


Prepare = Callable[[ChatRequest], tuple[TeamTalk | RoleMessage, Sampling, float]]
"""What one model makes of a request: the work, its sampling, and its share of all room."""


class Company:
    """The agents of a run under the names of models. Asked from several threads.

    name: of the team; a role is `name:role`, the single agent `name:solo`.
    """

    def __init__(self, cast: Cast, *, name: str = "optima") -> None:
        self._cast, self._recollection = cast, Recollection()
        team = cast.team
        self._growth = float(team.workflow.max_steps * (cast.sampling(team).max_new_tokens + 8))
        prepare: dict[str, Prepare] = {name: self._of_team(team), f"{name}:solo": self._of_team(cast.single)}
        if not team.workflow.streams:  # there a role says one step after the other, as it hears others
            prepare |= {f"{name}:{role.name.lower()}": self._of_role(k) for k, role in enumerate(team.workflow.roles)}
        self._prepare: Mapping[str, Prepare] = prepare

    @property
    def models(self) -> tuple[str, ...]:
        """Whom a client can name."""
        return tuple(self._prepare)

    def task(self, asked: ChatRequest) -> Task:
        """What is to be done. Raises Refusal."""
        asked.require_supported()
        if asked.model not in self._prepare:
            what = f"the model {asked.model[:100]!a} does not exist; there are {', '.join(self._prepare)}"
            raise Refusal(404, what, param="model", code="model_not_found")
        try:
            work, sampling, share = self._prepare[asked.model](asked)
        except DataError as error:
            raise Refusal(400, str(error), param="messages", code="invalid_request") from error
        seed = secrets.randbits(48) if asked.seed is None else asked.seed
        manners = [
            Manner(sampling, seed, number, asked.stops, asked.most, bool(asked.stream))
            for number in range(asked.choices)
        ]
        return Task(work, tuple(manners), share)

    def learn(self, tokens: int) -> None:
        """A dialogue of the team took so many tokens."""
        steps = self._cast.team.workflow.max_steps * 8
        self._growth = 0.9 * self._growth + 0.1 * (tokens + steps)

    def _of_team(self, agents: Agents) -> Prepare:
        def prepare(asked: ChatRequest) -> tuple[TeamTalk, Sampling, float]:
            told = question_of(asked.chat)
            if not told.question.strip():
                raise Refusal(400, "there is no question: the last user message is empty", param="messages")
            facts = _facts(told, asked)
            self._require_readable(told.question, *_texts(facts))
            # the single agent sees all that the team would
            contexts = hands(facts, self._cast.team.workflow)
            (question,), shortened = self._cast.fit(agents, [Question("chat", told.question.strip(), ("",), contexts)])
            kept, longest = agents.extent(question, growth=int(self._growth))
            sampling = self._sampling(agents, asked)
            return TeamTalk(agents, question, bool(shortened)), sampling, self._share(kept, longest)

        return prepare

    def _of_role(self, speaker: int) -> Prepare:
        agents = self._cast.team

        def prepare(asked: ChatRequest) -> tuple[RoleMessage, Sampling, float]:
            told = conversation_of(asked.chat, speaker, workflow=agents.workflow)
            self._require_readable(told.question, *_texts(_facts(told, asked)), *(text for _, text in told.said))
            ids = self._prompt(agents, speaker, told, asked)
            sampling, limit = self._sampling(agents, asked), agents.generator.policy.max_length
            if len(ids) >= limit:
                what = f"this model reads {limit} tokens at most, and the messages are {len(ids)}"
                raise Refusal(400, what, param="messages", code="context_length_exceeded")
            most = min(sampling.max_new_tokens, agents.workflow.roles[speaker].max_tokens or limit, limit - len(ids))
            length = len(ids) + most
            message = RoleMessage(agents, speaker, ids, self._recollection)
            return message, replace(sampling, max_new_tokens=most), self._share(length, length)

        return prepare

    def _require_readable(self, *texts: str) -> None:
        limit = self._cast.policy.max_length
        if sum(map(len, texts)) > limit * _TEXT_A_TOKEN:
            what = f"this model reads {limit} tokens at most, and the messages are far longer"
            raise Refusal(400, what, param="messages", code="context_length_exceeded")

    def _sampling(self, agents: Agents, asked: ChatRequest) -> Sampling:
        own = self._cast.sampling(agents)
        temperature = own.temperature if asked.temperature is None else asked.temperature
        top_p = own.top_p if asked.top_p is None else max(asked.top_p, _ALMOST_NOTHING)
        return replace(own, temperature=float(temperature), top_p=float(top_p))

    def _share(self, kept: int, longest: int) -> float:
        """The part of the prefix cache that is needed; where it cannot hold even one, the part of a batch."""
        states = self._cast.team.generator.states
        return kept / states.room if kept <= states.room else longest / states.max_batch_tokens

    def _prompt(self, agents: Agents, speaker: int, told: Conversation, asked: ChatRequest) -> tuple[int, ...]:
        if not told.question.strip():
            raise Refusal(400, "there is no question in these messages: `Question: ...`", param="messages")
        question = Question("chat", told.question.strip(), ("",), self._held(agents, speaker, told, asked))
        turns = tuple(self._turn(agents, who, text) for who, text in told.said)
        dialogue = Dialogue("chat", 0, turns)
        step = _step(agents, speaker, dialogue)
        if not agents.workflow.talks:
            _require_order(agents, dialogue)
        try:
            return agents.prompt_of(question, Cue(dialogue, step, len(turns)))
        except KeyError as error:
            who = next(one.speaker for one in agents.workflow.steps if one.writes == error.args[0])
            what = f"{step.speaker} reads what {who} says, which is not among the messages"
            raise Refusal(400, what, param="messages") from error

    def _held(
        self, agents: Agents, speaker: int, told: Conversation, asked: ChatRequest
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The facts so that the role holds those that it was given."""
        given = _facts(told, asked)
        flat = not isinstance(given, Mapping) and all(isinstance(fact, str) for fact in given)
        if not flat:
            return hands(given, agents.workflow)
        own = tuple(str(fact) for fact in given)
        second = agents.workflow.roles[speaker].facts == "share" and agents.workflow.share(speaker) == 1
        return ((), own) if second else (own, ())

    def _turn(self, agents: Agents, who: int, text: str) -> Turn:
        """What somebody has said: the ids that were sampled, where they are known."""
        text = text.strip()
        answer = extract(text, metric=agents.workflow.metric)
        if who >= len(agents.workflow.roles):
            return Turn(who, (), text)
        ids = self._recollection.find(who, text)
        if ids is None:
            closing = agents.renderer.closing
            ids = agents.renderer.encode(text) + (() if closing is None else (closing,))
        return Turn(who, ids, text, answer)


def _facts(told: Conversation, asked: ChatRequest) -> Facts:
    """The facts of a request: those beside the messages, else those in them."""
    beside = asked.optima.facts if asked.optima is not None else None
    return told.facts if beside is None else beside


def _texts(facts: Facts) -> Iterator[str]:
    """All facts, whoever holds them."""
    for one in facts.values() if isinstance(facts, Mapping) else facts:
        yield from [one] if isinstance(one, str) else one


def _require_order(agents: Agents, dialogue: Dialogue) -> None:
    """Raises Refusal where the messages do not follow the team's steps, which then cannot tell what a role reads."""
    workflow = agents.workflow
    now = moment(dialogue.turns, workflow)
    begun = zip(now.group, dialogue.turns[len(now.done) :], strict=False)
    for number, (step, turn) in enumerate([*now.done, *begun]):
        if workflow.speaker(step) != turn.speaker:
            who = workflow.names[turn.speaker]
            what = f"message {number + 1} of the dialogue is {step.speaker}'s in this team, and {who} has said it"
            raise Refusal(400, what, param="messages")
    if len(dialogue.turns) > len(now.done) + len(now.group):
        what = f"the dialogue is over after {len(now.done)} messages, and there are {len(dialogue.turns)}"
        raise Refusal(400, what, param="messages")


def _step(agents: Agents, speaker: int, dialogue: Dialogue) -> Step:
    """The step that a role takes next: the team's next where it is the role's, else the role's first."""
    workflow = agents.workflow
    name = workflow.names[speaker]
    own: Sequence[Step] = [step for step in workflow.steps if step.speaker == name]
    if workflow.auctioned or not moment(dialogue.turns, workflow).group:
        return own[0]
    return next((cue.step for cue in cues(dialogue, workflow) if cue.step.speaker == name), own[0])
