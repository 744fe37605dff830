"""The frozen nouns that travel between the modules; plain data, no behaviour beyond what is derived from the fields.

`to_json` is the one way into the run folder; `from_json`, or `decode` for a whole line, the one way out of it.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

Record = TypeVar("Record")
Metric = Literal["f1", "exact", "numeric", "math", "tests", "pass"]
"""How an answer is scored against the gold answers; see `answers`."""
CODE_METRICS: tuple[Metric, ...] = ("tests", "pass")  # the answer is a program, and it is run

UNKNOWN = "unknown"  # a licence that nobody has stated
Layout = Literal["alternating", "assistant"]
"""How a dialogue becomes chat messages; see `prompts`."""


@dataclass(frozen=True, slots=True)
class Question:
    """One task instance with its information already split between the agents.

    id: stable and unique within the task. answers: accepted gold answers, at least one. contexts: for each agent the
    facts that only this agent sees; both empty when the question stands alone. supporting: the context items known to
    be needed, for reports; may be empty.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    contexts: tuple[tuple[str, ...], tuple[str, ...]]
    supporting: tuple[str, ...] = ()


class Ending(enum.StrEnum):
    """Why a dialogue stopped."""

    AGREED = "agreed"  # the team's stop rule was met: an answer confirmed, a verdict, passed tests
    DONE = "done"  # the last step of a workflow was taken
    MAX_TURNS = "max_turns"  # the turns ran out; the last stated answer counts
    TRUNCATED = "truncated"  # a turn hit its token limit: score 0, never selected


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. speaker: by number, roles first, then tools. ids: exactly the sampled token ids, turn end included;
    none of a tool. answer: what it marks as answer, or None; None also where the workflow does not count it.

    finished: False when the message hit its token limit, so that its ids end without a turn end. In a stream a turn is
    one step of a message; of an agent that reads nobody this then says whether its message ends there.

    spoken_by: the speaker of the machine file whose model has said it; then the ids are those of its text by our
    tokenizer, and nobody learns to say it. Unset, and not stored, where our own model has.
    """

    speaker: int
    ids: tuple[int, ...]
    text: str
    answer: str | None = None
    finished: bool = True
    spoken_by: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dialogue comes from that the team has not said itself.

    teacher: who said it: a file's name, or a speaker's and its model's. licence: under which it may be used, `unknown`
    where nobody says. source: where the file comes from, as whoever imported it said. line: of the row in the file,
    from 1. sha256: of the file.
    """

    teacher: str
    licence: str
    source: str | None = None
    line: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation about one question; `ending` is None while it is under way.

    rollout: its index among the samples of the question. format: name of the pool's format it was sampled with, or
    None. origin: of what the team has not said itself; left out of the stored row where it has.
    """

    question: str
    rollout: int
    turns: tuple[Turn, ...] = ()
    ending: Ending | None = None
    format: str | None = None
    origin: Origin | msgspec.UnsetType = msgspec.UNSET

    @property
    def taught(self) -> Origin | None:
        """Where it comes from; None for a dialogue of the team's own."""
        return self.origin if isinstance(self.origin, Origin) else None

    @property
    def tokens(self) -> int:
        """Sampled tokens over all turns, turn ends included."""
        return sum(len(turn.ids) for turn in self.turns)

    @property
    def messages(self) -> tuple[Turn, ...]:
        """What agents have said: all turns but those of tools, which have no tokens."""
        return tuple(turn for turn in self.turns if turn.ids)

    @property
    def answer(self) -> str | None:
        """The answer stated last, by anyone; None when there is none or the dialogue was truncated."""
        if self.ending is Ending.TRUNCATED:
            return None
        return next((turn.answer for turn in reversed(self.turns) if turn.answer is not None), None)


@dataclass(frozen=True, slots=True)
class Request:
    """A message that is wanted of a model elsewhere. messages: role and text of each that it follows. key: tells it
    from others that look the same, and is sent as its seed. max_tokens: that the message may have. temperature 0 means
    greedy; top_p in (0, 1]."""

    messages: tuple[tuple[str, str], ...]
    key: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model elsewhere has said to a request. key: of the request, all that it was told included. ended: why it
    said no more, in its server's word. prompt_tokens, completion_tokens: as its server has counted them, or by our
    tokenizer where it did not. model: as its server calls it. refused: why its server did not let it say anything, in
    the server's words; unset, and not stored, where it did."""

    key: str
    text: str
    ended: str
    prompt_tokens: int
    completion_tokens: int
    model: str = ""
    refused: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def finished(self) -> bool:
        """Whether it has come to its end: nothing has refused or cut it."""
        return not self.refused and self.ended not in ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Reward:
    """R = task - token_weight * token_share + readability_weight * readability (paper section 3.1), with every part.

    task: score in [0, 1]. token_share: tokens over those of the longest sibling, or over `max_tokens`. readability: the
    term's value before its weight. worst_loss: mean nats per token of the message the base model finds least natural.
    undecided: 1 where the task score is 0 only because the answer could not be compared in time. format: share of the
    messages that are valid by their speaker's schema, 0 unless `format_weight` asks for it.
    """

    total: float
    task: float
    token_share: float
    readability: float
    worst_loss: float
    undecided: float = 0.0
    format: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollouts:
    """All dialogues sampled for one question, in rollout order; rewards come in the same order, empty until ranked."""

    question: Question
    dialogues: tuple[Dialogue, ...]
    rewards: tuple[Reward, ...] = ()


@dataclass(frozen=True, slots=True)
class Payment:
    """What the messages of a question's dialogues were worth to who said them, dialogue by dialogue and turn by turn;
    None for a tool's turn.

    advantages: by how much better that was than the other dialogues' at the same place (see `advantage`). groups:
    places that were compared; flat: those of them where all were worth the same.
    """

    question: str
    rewards: tuple[tuple[float | None, ...], ...]
    advantages: tuple[tuple[float | None, ...], ...]
    groups: int
    flat: int


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A selected dialogue, to be imitated from every speaker's view."""

    question: Question
    dialogue: Dialogue
    reward: Reward


@dataclass(frozen=True, slots=True)
class Node:
    """One message of a dialogue tree, or its root, which is the question itself.

    parent: index of the message before; None at the root, as is turn. visits: rollouts that went through it. reward:
    the mean of each part over these, with the message's own credit as its task score; None before the first. ending:
    why the dialogue ends here; None where it goes on.
    """

    parent: int | None = None
    turn: Turn | None = None
    visits: int = 0
    reward: Reward | None = None
    ending: Ending | None = None

    @property
    def value(self) -> float:
        """The mean reward of all rollouts through this node; 0 before the first."""
        return self.reward.total if self.reward else 0.0

    @property
    def text(self) -> str:
        """What is said here; nothing at the root."""
        return self.turn.text if self.turn else ""


@dataclass(frozen=True, slots=True)
class Tree:
    """All dialogues that a search tried on one question; see `tree` for what is derived from it.

    nodes: the root first, every parent before its children. expanded: the nodes that the search steps began at, in
    order. sampled: tokens of all messages that were sampled, also of those that a sibling took the place of.
    """

    question: Question
    nodes: tuple[Node, ...] = (Node(),)
    expanded: tuple[int, ...] = ()
    sampled: int = 0


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two messages that could follow the same prefix, the better one first; speaker and ids are in the turns.

    prefix: the turns before, by everyone. The rewards are means over the rollouts through each message, of which there
    were as many as its visits.
    """

    question: Question
    prefix: tuple[Turn, ...]
    chosen: Turn
    rejected: Turn
    chosen_reward: Reward
    rejected_reward: Reward
    chosen_visits: int
    rejected_visits: int

    @property
    def speaker(self) -> int:
        """Who speaks, in either message."""
        return self.chosen.speaker

    @property
    def depth(self) -> int:
        """Messages before this one."""
        return len(self.prefix)

    @property
    def chosen_value(self) -> float:
        """Mean reward of the better message."""
        return self.chosen_reward.total

    @property
    def rejected_value(self) -> float:
        """Mean reward of the worse message."""
        return self.rejected_reward.total

    @property
    def gap(self) -> float:
        """By how much the better message is better."""
        return self.chosen_value - self.rejected_value


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system prompt that a role may have. origin: own, listed, written, or the format that was added to its own."""

    system: str
    origin: str


@dataclass(frozen=True, slots=True)
class Domain:
    """The prompts among which a search chooses for a role, its own first. tokens: sampled to write them."""

    role: str
    prompts: tuple[Prompt, ...]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation of a prompt search: a combination of prompts met the search's questions.

    combination: for each role the number of its prompt in its domain. value: the mean of what is sought. scores,
    tokens: of every question, in the questions' order, means over its dialogues. sampled: tokens of all dialogues.
    """

    combination: tuple[int, ...]
    value: float
    scores: tuple[float, ...]
    tokens: tuple[float, ...]
    sampled: int


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One line of the final table and of summary.json: means over `questions`, with 95 % intervals (see `statistics`;
    tokens of one question have none).

    tokens and turns are per dialogue; agreement is the share of dialogues that ended in agreement, None for a team in
    which no way to the end asks for any; tokens_per_correct is all tokens over the summed score, None when nothing was
    right; readability_loss is the mean worst message loss in nats. score reads only marked answers; flexible_score
    takes the last number where nothing is marked (None in runs of earlier versions). undecided: answers that count as
    wrong because they could not be compared in time. hotpot_f1: the score by HotpotQA's own evaluation, None for other
    metrics than f1 and in runs of earlier versions.
    """

    name: str
    decoding: str
    questions: int
    score: float
    score_low: float
    score_high: float
    tokens: float
    tokens_low: float | None
    tokens_high: float | None
    turns: float
    agreement: float | None
    tokens_per_correct: float | None
    readability_loss: float
    flexible_score: float | None = None
    undecided: int = 0
    hotpot_f1: float | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """A line of the table of baselines.

    preparation: tokens spent before the first question was asked, to train or to choose a prompt; None when unknown.
    """

    row: EvalRow
    preparation: int | None = 0


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A way to hand messages on, measured. ticks: of a dialogue on the virtual clock; None where messages have no
    steps. seconds: of a dialogue alone, by the clock. first: seconds until the first tokens of the step that answers.
    together: seconds of a dialogue when all questions are asked at once. reused: share of the prompt tokens of these
    that the cache knew."""

    row: EvalRow
    ticks: float | None
    seconds: float
    first: float
    together: float
    reused: float


def to_json(record: Any) -> Any:
    """Any record, or plain value that holds some, as values that `json` writes."""
    return msgspec.to_builtins(record)


def from_json(kind: type[Record], value: Any) -> Record:
    """The record of type `kind` that `to_json` wrote as `value`, or an earlier version that lacked fields which have
    defaults now. Raises ValueError if it is none, and says where."""
    return msgspec.convert(value, kind)


def decode(kind: type[Record], line: bytes) -> Record:
    """The record of type `kind` in a line of JSON. Raises ValueError if there is none, and says where."""
    try:
        return msgspec.json.decode(line, type=kind)
    except ValueError:  # half a character and NaN, too, which `json` writes, and alone reads
        return from_json(kind, json.loads(line.decode("utf-8")))
