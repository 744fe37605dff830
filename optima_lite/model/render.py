"""Chat messages and sampled ids to token ids and masks; the tokenizer is passed in.

Sampled ids are spliced in, never decoded and tokenised again, so that what is trained and what is continued is exactly
what was sampled. Everything that people or datasets wrote is tokenised without special tokens: a question that contains
`<|eot_id|>` cannot end a turn.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from ..errors import DataError, ModelError
from ..records import Question, Turn
from ..team.prompts import Message
from .template import Template

_ANCHOR = "\n"
_FOREIGN = re.compile(r"<\|\w+\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_MOST_HELD = 5_000_000  # ids of texts that are kept: questions repeat within an iteration, not for ever


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation. spans: (start, end) of each own turn in `ids`, turn end included, in speaking
    order. in_steps: whether turns may have been ended by the rule of a stream, without a turn end of their own."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    in_steps: bool = False

    @property
    def mask(self) -> list[int]:
        """1 where a token was sampled by the viewer of this conversation, else 0; as long as `ids`."""
        mask = [0] * len(self.ids)
        for start, end in self.spans:
            mask[start:end] = [1] * (end - start)
        return mask


class Renderer:
    """Turns messages into ids with the tokenizer's own chat template. Several threads may ask.

    end_ids: the ids that end a turn. Raises ModelError when the tokenizer has no chat template that can be used, see
    `Template`.
    """

    def __init__(self, tokenizer: Any, *, end_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self._one_at_a_time = threading.RLock()  # how it reads special tokens is a state of the tokenizer
        self.end_ids = frozenset(end_ids)
        self._template = Template(tokenizer)
        self._anchor = self._anchor_ids()
        self._scaffolds: dict[tuple[tuple[str, ...], bool], list[tuple[int, ...]]] = {}
        self._texts: dict[str, tuple[int, ...]] = {}
        self._held = 0  # ids of these texts

    @property
    def written(self) -> frozenset[int]:
        """The ids that the template itself writes."""
        roles = ("system", "user", "assistant", "user", "assistant")
        return frozenset(i for ids in self._scaffold(roles, True) for i in ids)

    @property
    def closing(self) -> int | None:
        """The special token that the template ends a turn with, if it does."""
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return next((i for i in self._scaffold(("user", "assistant"), False)[-1] if i in special), None)

    def prompt(self, messages: Sequence[Message], *, opening: str = "") -> tuple[int, ...]:
        """Ids up to and including the header of the next assistant turn, and the text that is put into its mouth."""
        return self._render(messages, reply=True).ids + self.encode(opening)

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """Ids of a whole conversation up to its last own turn, with the spans of the own turns.

        A turn that hit its token limit gets the template's turn end, outside its span.
        """
        last = max((i for i, message in enumerate(messages) if message.own), default=-1)
        return self._render(messages[: last + 1], reply=False)

    def alone(self, turn: Turn) -> Rendered:
        """One turn as an assistant message with nothing before it but the chat header (the official code's loss), or,
        where the template wants a user first, one who says nothing."""
        said = Message("assistant", turns=(turn,))
        try:
            return self._render([said], reply=False)
        except ModelError:
            return self._render([Message("user"), said], reply=False)

    def text(self, ids: Sequence[int]) -> str:
        """Sampled ids as readable text, without special tokens and surrounding space."""
        with self._one_at_a_time:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def decode(self, ids: Sequence[int]) -> str:
        """Sampled ids as the text that they are, without special tokens."""
        with self._one_at_a_time:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def cut(self, text: str, tokens: int) -> str:
        """The text, or as much of its beginning as so many tokens say."""
        ids = self.encode(text)
        return text if len(ids) <= tokens else self.text(ids[:tokens])

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of text that somebody wrote; special tokens in it are read as plain characters."""
        with self._one_at_a_time:
            if text not in self._texts:
                if len(self._texts) > 100_000 or self._held > _MOST_HELD:
                    self._texts.clear()
                    self._held = 0
                self._texts[text] = self._tokenised(text, split_special_tokens=True)
                self._held += len(self._texts[text])
            return self._texts[text]

    def as_sampled(self, text: str) -> tuple[int, ...]:
        """A message that somebody else has written as if it had been sampled: its ids, and a turn end."""
        closing = self.closing
        return (*self.encode(text), min(self.end_ids) if closing is None else closing)

    def special(self, text: str) -> str | None:
        """The first special token whose spelling stands in a text, of this tokenizer or as other models write theirs;
        None for a text without."""
        own = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        found = next((token for token in own if token in text), None)
        foreign = _FOREIGN.search(text)
        return found or (foreign[0] if foreign else None)

    def _render(self, messages: Sequence[Message], *, reply: bool) -> Rendered:
        pieces = self._scaffold(tuple(message.role for message in messages), reply)
        ids: list[int] = list(pieces[0])
        spans: list[tuple[int, int]] = []
        for message, after in zip(messages, pieces[1:], strict=True):
            ids += self.encode(message.text)
            own = message.own
            start = len(ids)
            for turn in message.turns:
                ids += turn.ids if own else self._without_end(turn.ids)
            closed = own and len(ids) > start and ids[-1] in self.end_ids
            if own and message.turns:
                spans.append((start, len(ids)))
            # An own turn keeps the turn end that was sampled, in place of the template's.
            end = next((k for k, i in enumerate(after) if i in self.end_ids), -1) if closed else -1
            ids += after[end + 1 :]
        return Rendered(tuple(ids), tuple(spans))

    def _without_end(self, ids: Sequence[int]) -> Sequence[int]:
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def _scaffold(self, roles: tuple[str, ...], reply: bool) -> list[tuple[int, ...]]:
        """What the template puts before, between and after the contents of messages with these roles, as ids."""
        key = (roles, reply)
        if key not in self._scaffolds:
            self._scaffolds[key] = [self._tokenised(text) for text in self._template.scaffold(roles, reply=reply)]
        return self._scaffolds[key]

    def _tokenised(self, text: str, **how: bool) -> tuple[int, ...]:
        """Ids of a text in the middle of another."""
        with self._one_at_a_time:
            whole = self.tokenizer((_ANCHOR if self._anchor else "") + text, add_special_tokens=False, **how)
        return tuple(whole["input_ids"][len(self._anchor) :])

    def _anchor_ids(self) -> tuple[int, ...]:
        """Some tokenizers put a space in front of whatever they read. Where one does, it reads every text after an
        anchor, which takes that space, and is taken off again."""
        first, *_ = self.tokenizer.tokenize("a")
        return tuple(self.tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]) if first != "a" else ()


def shorten(question: Question, renderer: Renderer, *, room: int) -> Question:
    """The question with its facts cut so that those of each agent take at most `room` tokens together.

    The rule: every fact keeps its first n tokens, with the largest n that fits; so long facts give way before short
    ones and none disappears before all are a token long. The same question comes back when nothing had to be cut.
    Raises DataError when not even empty facts fit.
    """
    contexts = tuple(_fit(context, renderer, room=room, question=question) for context in question.contexts)
    return question if contexts == question.contexts else replace(question, contexts=(contexts[0], contexts[1]))


def _fit(context: tuple[str, ...], renderer: Renderer, *, room: int, question: Question) -> tuple[str, ...]:
    lines = [renderer.encode(f"- {fact}\n") for fact in context]
    if sum(map(len, lines)) <= room:
        return context
    overhead = len(renderer.encode("- \n")) * len(lines)
    if overhead > room:
        raise DataError(
            "the question and its turns leave no room for its facts",
            where=f"question {question.id}",
            hint="a larger model.max_length, or smaller protocol.max_turns or sampling.max_turn_tokens",
        )
    facts = [renderer.encode(fact) for fact in context]
    keep = _largest_share([len(ids) for ids in facts], room - overhead)
    return tuple(
        # A cut inside a character leaves a replacement mark, which is longer than what was cut.
        fact if len(ids) <= keep else renderer.text(ids[:keep]).rstrip("\ufffd")
        for fact, ids in zip(context, facts, strict=True)
    )


def _largest_share(lengths: Sequence[int], room: int) -> int:
    """The largest n with sum(min(length, n)) <= room, when the lengths alone exceed room."""
    ordered = sorted(lengths)
    before = [0, *accumulate(ordered)]
    for i in range(len(ordered)):
        n = (room - before[i]) // (len(ordered) - i)
        if n < ordered[i]:
            return max(n, 0)
    return ordered[-1] if ordered else 0
