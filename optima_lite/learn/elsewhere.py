"""Roles that models elsewhere speak: what those are told, and how their texts become messages of the dialogue.

They see what our own model would see in the role, as chat messages of text, and no special token of ours. What they say
is tokenised by ours, as text in which nothing is special, and is cut where a message of ours would be: by our count. It
is never sampled here, so it takes no room of the cache, and nobody learns to say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from ..model.render import Renderer
from ..model.sampling import Sampling
from ..records import Reply, Request
from ..team.prompts import Message

Ask = Callable[[Sequence[Request]], Sequence[Reply]]
"""The reply to each request, in their order; see `chat.Chat.ask`."""


class Elsewhere:
    """ask: by the names of the speakers. tokens: said by them so far, by our tokenizer."""

    def __init__(self, ask: Mapping[str, Ask] | None = None) -> None:
        self._ask = dict(ask or {})
        self.tokens = 0

    def __contains__(self, name: object) -> bool:
        return name in self._ask

    def say(
        self,
        name: str,
        told: Sequence[Sequence[Message]],
        keys: Sequence[int],
        *,
        sampling: Sampling,
        renderer: Renderer,
    ) -> list[tuple[tuple[int, ...], bool]]:
        """For each that is told something the ids of what it says, and whether it has come to its end."""
        most, how = sampling.max_new_tokens, (sampling.temperature, sampling.top_p)
        requests = [Request(chat(messages), key, most, *how) for messages, key in zip(told, keys, strict=True)]
        said = [_message(reply, most, renderer) for reply in self._ask[name](requests)] if requests else []
        self.tokens += sum(len(ids) for ids, _ in said)
        return said


def chat(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """Messages as text; those side by side of one role are one, since many templates want the roles to alternate."""
    texts = [(message.role, message.text + "".join(turn.text for turn in message.turns)) for message in messages]
    alike = groupby(texts, key=lambda one: one[0])
    return tuple((role, "\n".join(text for _, text in same)) for role, same in alike)


def _message(reply: Reply, most: int, renderer: Renderer) -> tuple[tuple[int, ...], bool]:
    end = min(renderer.end_ids) if renderer.closing is None else renderer.closing
    ids = renderer.encode(reply.text.strip())
    if reply.finished and len(ids) < most:
        return (*ids, end), True
    return ids[:most] or (end,), False
