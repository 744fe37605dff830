"""A model folder's tokenizer and chat template, tried out; for a worker with limits of time and memory (see `bounded`).

Both are programs of a kind that somebody else wrote: a pattern or a template may never end, or fill the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from .template import TRIAL

_TEXT = "Who wrote Emma?  Jane Austen, in 1815: <A> 3.5 </A>\n" * 20
_ALTERNATING = ("user", "assistant", "user", "assistant", "user")
_CHATS = (("system", "user"), ("system", "user", "assistant"), TRIAL, ("system", *_ALTERNATING), _ALTERNATING)


def tokenise(path: str, tokens: Sequence[str]) -> dict[str, Any]:
    """Encodes a text with a tokenizer.json and decodes it. ids: of `tokens`, by token, where they are known. highest:
    the largest id that text can become. Raises whatever the library raises."""
    tokenizer = Tokenizer.from_file(path)
    tokenizer.decode(tokenizer.encode(_TEXT).ids)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    sayable = {token: id for token, id in tokenizer.get_vocab().items() if token not in special}
    ids = {token: tokenizer.token_to_id(token) for token in tokens}
    return {"ids": {token: id for token, id in ids.items() if id is not None}, "highest": max(sayable.values())}


def render(template: str, special: dict[str, str]) -> int:
    """The most characters that a chat template makes of a few short chats. A chat that it refuses counts as none."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: "26 Jul 2024"}
    compiled = environment.from_string(template)
    return max(_length(compiled, roles, special) for roles in _CHATS)


def _length(template: Any, roles: Sequence[str], special: dict[str, str]) -> int:
    messages = [{"role": role, "content": "Who wrote Emma?"} for role in roles]
    try:
        return len(
            template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                enable_thinking=False,
                **special,
            )
        )
    except (TemplateError, TypeError):  # as `Template` understands them
        return 0


def _refuse(message: str) -> None:
    raise TemplateError(message)
