"""A tokenizer's chat template, seen as the text that it puts before, between and after the contents of messages.

Sampled ids are spliced in between, and states of earlier turns are reused, so the text in front of a content must not
depend on what comes after it. Templates that want no system message, or no two users in a row, get the messages that
they want; those that change earlier turns or make the model think aloud are refused.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from ..errors import ModelError

TRIAL = ("system", "user", "assistant", "user", "user", "assistant", "user")  # three agents; two ask for less
THINKING = ("<think>", "</think>")
# What Llama 3.1 says today is. Templates that ask the clock are told the same, else a resumed run would differ.
_CLOCK = "{%- macro strftime_now(format) -%} 26 Jul 2024 {%- endmacro -%}"
_JOINT = "\n\n"  # between messages that become one


class Template:
    """What surrounds messages. Raises ModelError when the tokenizer has no chat template, or one that cannot be used.

    fold: a system message goes in front of the first user's, as a part of it. join: messages of the same role in a row
    become one. Both only where the template takes nothing else.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        try:
            self._source = _CLOCK + tokenizer.get_chat_template()
        except ValueError as error:
            hint = "an instruct (chat) version of the model"
            raise ModelError("its tokenizer has no chat template", hint=hint) from error
        for self.fold, self.join in ((False, False), (False, True), (True, True)):
            try:
                opening = self.scaffold(TRIAL, reply=True)[-1]
                break
            except ModelError as error:
                refused = error
        else:
            raise refused
        if opening.count(THINKING[0]) != opening.count(THINKING[1]):
            raise ModelError(
                "its chat template makes the model think aloud before every message",
                hint="a version of the model that can answer without thinking",
            )

    def scaffold(self, roles: tuple[str, ...], *, reply: bool) -> list[str]:
        """The text before, between and after the contents of messages with these roles: one more than there are roles.

        reply: the next message is the assistant's, whose header ends the last text. An assistant's content always
        follows just the header that it was asked for with: thinking templates put an empty thought there, which they
        leave out of earlier turns. Raises ModelError when the template does not take such messages.
        """
        pieces = self._pieces(roles, reply)
        last = max((i for i, role in enumerate(roles) if role == "assistant"), default=0)
        if not last:
            return pieces
        asked = self.scaffold(roles[:last], reply=True)
        for role, piece, before in zip(roles, pieces, asked, strict=False):
            header = role == "assistant" and (piece.startswith(before) or before.startswith(piece))
            if piece != before and not header:
                raise ModelError("its chat template changes earlier turns when later ones follow", hint=_HINT)
        return asked + pieces[last + 1 :]

    def _pieces(self, roles: tuple[str, ...], reply: bool) -> list[str]:
        marks = [f"\x02{i}\x03" for i in range(len(roles))]  # characters no template changes
        try:
            text = self.tokenizer.apply_chat_template(
                self._chat(roles, marks),
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=reply,
                enable_thinking=False,
            )
        except (TemplateError, TypeError) as error:
            order = ", ".join(roles)
            raise ModelError(f"its chat template does not take the messages {order}: {error}", hint=_HINT) from error
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found or mark in text:
                raise ModelError("its chat template drops, repeats or moves a message", hint=_HINT)
            pieces.append(before)
        return [*pieces, text]

    def _chat(self, roles: tuple[str, ...], contents: list[str]) -> list[dict[str, str]]:
        chat: list[dict[str, str]] = []
        for role, content in zip(roles, contents, strict=True):
            if self.fold and role == "system":
                role = "user"
            if self.join and chat and chat[-1]["role"] == role != "assistant":
                chat[-1]["content"] += _JOINT + content
            else:
                chat.append({"role": role, "content": content})
        return chat


_HINT = "another model, or another chat_template in its folder"
