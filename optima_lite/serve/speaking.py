"""A team, or one role of it, speaks: blocking, in a thread of its own, through a voice of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

from ..learn.rollout import Agents
from ..model.decoding import Row, Stop
from ..model.sampling import Sampling, row_key
from ..model.spelling import Speller
from ..records import Ending, Question
from ..stage.asking import Answer, Said, talk
from .answers import Delta, Outcome
from .engine import Voice
from .recollection import Recollection

Tell = Callable[[Delta], None]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a choice is said. seed, number: what decides its random numbers. stops: texts before which it ends. most:
    tokens in all; None: as many as the recipe gives. streamed: whether it is told bit by bit."""

    sampling: Sampling
    seed: int
    number: int
    stops: tuple[str, ...]
    most: int | None
    streamed: bool


@dataclass(frozen=True, slots=True)
class TeamTalk:
    """A whole dialogue about a question that fits the model."""

    agents: Agents
    question: Question
    shortened: bool

    def speak(self, voice: Voice, manner: Manner, tell: Tell) -> Outcome:
        """The answer of the team. Raises as `Voice.carry_on`."""
        agents = replace(self.agents, generator=voice)
        found = talk(
            agents,
            self.question,
            sampling=manner.sampling,
            seed=manner.seed,
            number=manner.number,
            hear=lambda turn: tell(Delta(reasoning=f"{_line(turn)}\n")),
        )
        turns = [turn for turn in found.turns if turn.text or turn.tokens]
        last = turns[-1].text if turns else ""
        content, _ = cut(found.answer if found.answer is not None else last, manner.stops)
        tell(Delta(content=content))
        finish = "length" if found.ending is Ending.TRUNCATED else "stop"
        answer_tokens = min(voice.said, len(agents.renderer.encode(content)))
        return Outcome(
            content,
            finish,
            voice.read,
            voice.reused,
            voice.said,
            voice.said - answer_tokens,
            "\n".join(map(_line, turns)),
            self._extension(found, turns, manner),
        )

    def _extension(self, found: Answer, turns: Sequence[Said], manner: Manner) -> dict[str, object]:
        said = [{"name": turn.role, "content": turn.text, **_rest(turn)} for turn in turns]
        facts = [list(share) for share in self.question.contexts]
        workflow = self.agents.workflow
        held: object = dict(zip(workflow.holders, facts, strict=False)) if workflow.holders else [*chain(*facts)]
        return {
            "answer": found.answer,
            "ending": str(found.ending),
            "dialogue": said,
            "facts": held,
            "facts_shortened": self.shortened,
            "seed": manner.seed,
        }


def _rest(turn: Said) -> dict[str, object]:
    rest = asdict(turn)
    return {name: rest[name] for name in ("tokens", "answer", "finished", *(["tick"] if turn.tick else []))}


def _line(turn: Said) -> str:
    return f"{turn.role}: {turn.text}"


@dataclass(frozen=True, slots=True)
class RoleMessage:
    """The next message of one role. ids: what it sees."""

    agents: Agents
    speaker: int
    ids: tuple[int, ...]
    recollection: Recollection

    def speak(self, voice: Voice, manner: Manner, tell: Tell) -> Outcome:
        """The message. Raises as `Voice.carry_on`."""
        renderer = self.agents.renderer
        voice.wear(self.agents.workflow.roles[self.speaker].adapter)
        spoken = _Unrolling(Speller(renderer.decode), manner.stops, tell)
        if manner.streamed:
            voice.hear_ids = spoken.more
        watch = _watching(renderer.decode, manner.stops) if manner.stops else None
        key = row_key(manner.seed, "message", manner.number)
        row = Row(key, len(self.ids), list(self.ids), manner.sampling.max_new_tokens, watch)
        voice.carry_on([row], sampling=manner.sampling)
        said = tuple(row.said)
        whole = renderer.text(said)
        text, stopped = cut(whole, manner.stops)
        if manner.streamed:
            spoken.end(text)
        ended = bool(said) and said[-1] in renderer.end_ids
        if ended and not stopped:
            self.recollection.keep(self.speaker, whole, said)
        finish = "stop" if ended or stopped else "length"
        return Outcome(text, finish, voice.read, voice.reused, voice.said, extension={"seed": manner.seed})


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first of what ends it, and whether there is one."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(ends)].rstrip(), True) if ends else (text, False)


def _watching(decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> Callable[[Sequence[int]], Stop]:
    """Ends a row as soon as it has said one of these texts."""
    longest = max(map(len, stops))

    def watch(said: Sequence[int]) -> Stop:
        spell, text = Speller(decode), ""

        def stop(tokens: Sequence[int]) -> int | None:
            nonlocal text
            for number, token in enumerate(tokens, start=1):
                new = spell([token])
                text = text[-longest:] + new
                if any(one in text for one in stops):
                    return number
            return None

        stop(said)
        return stop

    return watch


class _Unrolling:
    """A message as its tokens come, told as text: never what may yet be cut off its end."""

    def __init__(self, spell: Speller, stops: Sequence[str], tell: Tell) -> None:
        self._spell, self._tell = spell, tell
        self._held = max((len(stop) - 1 for stop in stops), default=0)
        self._text, self._told = "", 0

    def more(self, ids: Sequence[int]) -> None:
        """More tokens."""
        self._text = (self._text + self._spell(ids)).lstrip()
        self._show(self._text[: len(self._text) - self._held].rstrip())

    def end(self, text: str) -> None:
        """There is no more, and this was all of it."""
        self._show(text)

    def _show(self, text: str) -> None:
        if len(text) > self._told:
            self._tell(Delta(content=text[self._told :]))
            self._told = len(text)
