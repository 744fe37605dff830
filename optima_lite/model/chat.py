"""A model behind OpenAI's chat completions, which takes messages and gives text: hosted or local, of whatever kind.

Each of its answers is stored before it is used, under what it was asked, so that nothing is asked or paid for twice,
whenever the process was killed. What it may take of tokens and money is reckoned before it is asked: as many requests
go out as may all be answered at full length within the ceilings, then as many as their answers have left room for.

A request that is refused by itself (a filter, a talk that is too long) is answered by that refusal, once others are
answered. Where one after the other is refused the fault is elsewhere, and nothing of that is stored.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from ..errors import RunError
from ..records import Reply, Request
from ..settings.machine import MACHINE_FILE, Speaker
from .endpoint import Answer, Endpoint, Refused, first_choice

_PATH = "/chat/completions"
_USAGE = ("prompt_tokens", "completion_tokens")
_AROUND = 4  # tokens that stand around a message in most templates
_LONGEST_TOKEN = 32  # characters; an answer that has more for each token it may take is cut
_LONGEST_NAME = 100  # characters of a name, or of a reason, that a server gives


class Kept(Protocol):
    """Where replies are stored; see `runs.replies`. prompt_tokens, completion_tokens: of all of them. refusals: what
    the server has said in those that are one."""

    prompt_tokens: int
    completion_tokens: int
    refusals: list[str]

    def __len__(self) -> int:
        """How many there are."""

    def get(self, key: str) -> Reply | None:
        """The reply under a key, if it is there."""

    def add(self, reply: Reply) -> None:
        """Stores a reply: when this returns it is on the disk. Called by several threads."""


class Chat:
    """A speaker of the machine file, ready to be asked.

    name: in the machine file. kept: its replies so far; the ceilings are on these. count: a text to its tokens by our
    tokenizer, where the server counts none. notify: is told, in a sentence, the first time that it says nothing, and
    how much it refuses, whenever that has doubled.
    """

    def __init__(
        self,
        name: str,
        speaker: Speaker,
        *,
        kept: Kept,
        count: Callable[[str], int],
        notify: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.name, self.speaker = name, speaker
        self._kept, self._count, self._notify = kept, count, notify
        self._endpoint = Endpoint([speaker.url], speaker.key_env, speaker.seconds, speaker.at_once, sleep)
        self._silent = False  # whether it was told that it says nothing
        self._told = 0  # refusals
        self._lock = threading.Lock()
        self._in_hand: list[Reply] = []  # refusals that no answer has come after
        self._in_a_row = 0  # refusals, also of requests before

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The reply to each request, in their order; those that are stored are not asked for again.

        Raises RunError for a ceiling, for a server that does not answer or refuses one request after the other, and for
        an answer without a message; ConfigError for a key that is not in the environment. What was answered before is
        stored.
        """
        bodies = [self._body(request) for request in requests]
        keys = [self._stored_as(request, body) for request, body in zip(requests, bodies, strict=True)]
        while missing := [number for number, key in enumerate(keys) if self._kept.get(key) is None]:
            once = [*{keys[number]: number for number in missing}.values()]
            numbers = once[: self._within_ceilings([requests[number] for number in once])]
            self._ask([keys[k] for k in numbers], [requests[k] for k in numbers], [bodies[k] for k in numbers])
        return [reply for key in keys if (reply := self._kept.get(key)) is not None]

    def most(self, request: Request) -> tuple[int, int]:
        """The tokens that a request reads, by our tokenizer, and that it may take to answer."""
        read = sum(self._count(text) + _AROUND for _, text in request.messages)
        return read, request.max_tokens + self.speaker.thinking_tokens

    def _ask(self, keys: Sequence[str], requests: Sequence[Request], bodies: Sequence[dict[str, Any]]) -> None:
        """Requests that go out together; when this returns every one has its reply."""

        def heard(number: int, answer: Answer | Refused) -> None:
            if isinstance(answer, Refused):
                self._refused(keys[number], answer)
            else:
                self._answered(self._reply(keys[number], requests[number], answer))

        self._in_hand.clear()
        self._endpoint.each(_PATH, bodies, heard)
        self._settle()

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.key % 2**31}
        return {
            "model": self.speaker.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            self.speaker.limit: request.max_tokens + self.speaker.thinking_tokens,
            **{name: value for name, value in sampling.items() if name not in self.speaker.omit},
        }

    def _stored_as(self, request: Request, body: dict[str, Any]) -> str:
        whole = json.dumps([self.name, request.key, body], sort_keys=True).encode()
        return hashlib.blake2b(whole, digest_size=16).hexdigest()

    def _within_ceilings(self, requests: Sequence[Request]) -> int:
        """How many of the requests, from the first on, may all be answered at full length. Raises RunError for none."""
        if self.speaker.max_total_tokens is None and self.speaker.max_cost is None:
            return len(requests)
        read, said = self._kept.prompt_tokens, self._kept.completion_tokens
        for number, request in enumerate(requests):
            more = self.most(request)
            read, said = read + more[0], said + more[1]
            if problem := self._over(read, said):
                if number:
                    return number
                what = f"{self.name} has taken {self._taken()}, and its next message may go over its {problem}"
                hint = f"raise it in {MACHINE_FILE}; the same command goes on where this one stopped"
                raise RunError(what, where=f"speakers.{self.name}", hint=hint)
        return len(requests)

    def _over(self, read: int, said: int) -> str | None:
        speaker = self.speaker
        if speaker.max_total_tokens is not None and read + said > speaker.max_total_tokens:
            return f"max_total_tokens, {speaker.max_total_tokens:,}"
        if speaker.max_cost is not None and speaker.cost(read, said) > speaker.max_cost:
            return f"max_cost, {speaker.max_cost:g}"
        return None

    def _answered(self, reply: Reply) -> None:
        with self._lock:
            self._kept.add(reply)
            self._in_a_row = 0
            self._believe()

    def _refused(self, key: str, refusal: Refused) -> None:
        with self._lock:
            self._in_hand.append(Reply(key, "", "", 0, 0, refused=refusal.words))
            self._in_a_row += 1
            if self._in_a_row > self.speaker.max_refused:
                self._stop(f"{self.name} has refused {self._in_a_row} requests one after the other")

    def _settle(self) -> None:
        """Refusals at the end of all requests: no answer will come after them."""
        with self._lock:
            if self._in_hand and not len(self._kept):
                self._stop(f"{self.name} has answered nothing yet, and refused what it was asked")
            self._believe()
            refusals = self._kept.refusals
            if len(refusals) >= max(1, 2 * self._told):
                self._told = len(refusals)
                what = f"{self.name} has refused {len(refusals):,} of {len(self._kept):,} requests"
                ends = "their dialogues end there as ones that were cut: they score 0, and nobody learns from them"
                self._notify(f"{what}; {ends}. In the server's words: {refusals[-1]}")

    def _believe(self) -> None:
        """The refusals in hand are about their requests, since others are answered."""
        for reply in self._in_hand:
            self._kept.add(reply)
        self._in_hand.clear()

    def _stop(self, what: str) -> NoReturn:
        """None of the refusals in hand is stored, so that all of it is asked again."""
        hint = (
            "are its model and its settings right, and is it paid for? The same command goes on where it stopped; "
            f"where so much has to be refused, raise max_refused in {MACHINE_FILE}"
        )
        raise RunError(f"{what}: {self._in_hand[-1].refused}", where=f"speakers.{self.name}", hint=hint)

    def _taken(self) -> str:
        read, said = self._kept.prompt_tokens, self._kept.completion_tokens
        cost = self.speaker.cost(read, said)
        return f"{read + said:,} tokens" + (f", which cost {cost:.4g}" if cost else "")

    def _reply(self, key: str, request: Request, answer: Answer) -> Reply:
        """What an answer says, however odd it is. Raises RunError for one without a message."""
        choice = first_choice(answer)
        message = choice.get("message")
        if not isinstance(message, dict):
            said = json.dumps(answer)[:300]
            hint = f"is {self.speaker.url} the address of OpenAI's API, and {self.speaker.model} a model that chats?"
            raise RunError(f"the server answered without a message: {said}", where=f"speakers.{self.name}", hint=hint)
        longest = max(1, request.max_tokens) * _LONGEST_TOKEN
        text, ended = _text(message.get("content")), _word(choice.get("finish_reason"))
        if len(text) > longest:
            text, ended = text[:longest], "length"
        if not text.strip() and not self._silent:
            self._silent = True
            what = f"{self.name} has answered without a text (finish_reason: {ended or 'none'})"
            self._notify(f"{what}; such an answer stands as an empty message")
        usage = answer.get("usage")
        read, taken = (_number(usage.get(name) if isinstance(usage, dict) else None) for name in _USAGE)
        read, taken = self.most(request)[0] if read is None else read, self._count(text) + 1 if taken is None else taken
        return Reply(key, text, ended, read, taken, _word(answer.get("model")))


def _text(content: object) -> str:
    """The text of a message: as it is, or of its parts; nothing where there is none. Half a character is replaced."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


def _word(value: object) -> str:
    return "".join(c for c in _text(value)[:_LONGEST_NAME] if c.isprintable())


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None
