"""What clients get: completions, the chunks of a stream, lists of models, errors; as plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

OWNER = "optima-lite"


@dataclass(frozen=True, slots=True)
class Delta:
    """A bit more of an answer, as soon as it is there. reasoning: what agents say to each other on the way to it."""

    content: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer. finish: stop, or length where it was cut. read, reused, said: tokens of all prompts, those of them
    that had been computed before, and all that were sampled. reasoned: of those sampled, what is not the answer.
    extension: what goes beyond OpenAI's fields."""

    content: str
    finish: str
    read: int
    reused: int
    said: int
    reasoned: int = 0
    reasoning: str = ""
    extension: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Letterhead:
    """What all parts of an answer have in common. created: seconds since 1970."""

    id: str
    created: int
    model: str
    fingerprint: str

    def on(self, kind: str) -> dict[str, Any]:
        """The beginning of a completion, or of a chunk."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"system_fingerprint": self.fingerprint}


def completion(head: Letterhead, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """An answer in one piece."""
    choices = [
        {"index": k, "message": _message(one), "finish_reason": one.finish, "logprobs": None, **_extended(one)}
        for k, one in enumerate(outcomes)
    ]
    return head.on("chat.completion") | {"choices": choices, "usage": usage(outcomes)} | _extended(outcomes[0])


def _message(outcome: Outcome) -> dict[str, Any]:
    message = {"role": "assistant", "content": outcome.content, "refusal": None}
    return message | ({"reasoning_content": outcome.reasoning} if outcome.reasoning else {})


def _extended(outcome: Outcome) -> dict[str, Any]:
    return {"optima": dict(outcome.extension)} if outcome.extension else {}


def opening_chunk(head: Letterhead, number: int) -> dict[str, Any]:
    """The first chunk of a choice."""
    return _chunk(head, number, {"role": "assistant", "content": ""})


def delta_chunk(head: Letterhead, number: int, delta: Delta) -> dict[str, Any]:
    """A bit more of a choice."""
    told = {"content": delta.content, "reasoning_content": delta.reasoning}
    return _chunk(head, number, {name: text for name, text in told.items() if text})


def closing_chunk(head: Letterhead, number: int, outcome: Outcome) -> dict[str, Any]:
    """The last chunk of a choice."""
    return _chunk(head, number, {}, outcome.finish) | _extended(outcome)


def usage_chunk(head: Letterhead, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a stream ends with where the client wants to know what it cost."""
    return head.on("chat.completion.chunk") | {"choices": [], "usage": usage(outcomes)}


def _chunk(head: Letterhead, number: int, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": number, "delta": delta, "finish_reason": finish, "logprobs": None}
    return head.on("chat.completion.chunk") | {"choices": [choice]}


def usage(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What was read and said for all choices together."""
    read, said = sum(one.read for one in outcomes), sum(one.said for one in outcomes)
    return {
        "prompt_tokens": read,
        "completion_tokens": said,
        "total_tokens": read + said,
        "prompt_tokens_details": {"cached_tokens": sum(one.reused for one in outcomes)},
        "completion_tokens_details": {"reasoning_tokens": sum(one.reasoned for one in outcomes)},
    }


def model(name: str, created: int) -> dict[str, Any]:
    """A model that can be asked."""
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


def problem(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error, as OpenAI's clients expect it."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ErrorDetail(BaseModel):
    """What is wrong, for `/openapi.json`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error, for `/openapi.json`."""

    error: ErrorDetail


class ChoiceBody(BaseModel):
    """A choice, for `/openapi.json`."""

    index: int
    message: dict[str, Any]
    finish_reason: str
    logprobs: None = None


class CompletionBody(BaseModel):
    """An answer, for `/openapi.json`."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceBody]
    usage: dict[str, Any]


class ModelBody(BaseModel):
    """A model, for `/openapi.json`."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelsBody(BaseModel):
    """The models, for `/openapi.json`."""

    object: str
    data: list[ModelBody]
