"""What a client may ask for: OpenAI's chat completions, as far as a team can answer them.

What would silently not happen is refused; unknown fields are ignored, and so are neutral values of what is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .layout import ChatMessage

MOST_MESSAGES, MOST_CHOICES = 2000, 16

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
}


class Refusal(Exception):
    """A request that cannot be answered, as OpenAI's clients are told. param: the field that is to blame."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def _counted(number: object) -> object:
    """1.0 is a whole number in JSON."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Whole = Annotated[int, BeforeValidator(_counted)]


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Part(_Strict):
    """A part of a message."""

    type: Text
    text: Text = ""


class Message(_Strict):
    """A message, by whomever."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    name: Text | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(_Strict):
    """What a stream holds besides."""

    include_usage: bool | None = None


class Extension(_Strict):
    """What a team needs to know besides. facts: a list, which is dealt out; a list for each role that holds a share; or
    lists by the roles' names."""

    facts: list[Text] | list[list[Text]] | dict[Text, list[Text]] | None = None


class ChatRequest(_Strict):
    """The body of a request."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    model: Text
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    seed: Whole | None = None
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    optima: Extension | None = None

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def most(self) -> int | None:
        """Tokens that may be said in all."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def chat(self) -> list[ChatMessage]:
        """The messages as plain text."""
        return [ChatMessage(one.role, _text(one, k), one.name or "") for k, one in enumerate(self.messages)]

    def require_supported(self) -> None:
        """Raises Refusal for what a team cannot do."""
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
                raise Refusal(400, f"{name} is not supported", param=name, code="unsupported_parameter")
        if "" in self.stops:
            raise Refusal(400, "stop must not be empty", param="stop")
        for k, message in enumerate(self.messages):
            if message.role in ("tool", "function") or message.tool_calls:
                raise Refusal(400, "tools are not supported", param=f"messages.{k}", code="unsupported_parameter")


def _text(message: Message, number: int) -> str:
    if isinstance(message.content, str) or message.content is None:
        return message.content or ""
    for part in message.content:
        if part.type not in ("text", "input_text", "output_text"):
            raise Refusal(
                400,
                f"a part of type {part.type[:40]!a} is not supported, only text",
                param=f"messages.{number}.content",
                code="unsupported_parameter",
            )
    return "\n".join(part.text for part in message.content)
