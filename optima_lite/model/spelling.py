"""Tokens as they come to the text that they spell; the tokenizer is passed in as a function.

A token may hold a part of a character, and what it spells may depend on the one before it. So tokens are read together
with those that came shortly before them, and each is read a bounded number of times, however long the message is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "\ufffd"  # what stands for a part of a character


class Speller:
    """decode: ids to text, special tokens left out."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []  # those that are still needed
        self._told = ""  # the text that they spell, as far as it was told

    def peek(self, tokens: Sequence[int]) -> str:
        """The text that would be complete with these tokens and was not before them."""
        return self._decode([*self._ids, *tokens]).rstrip(_HALF)[len(self._told) :]

    def __call__(self, tokens: Sequence[int]) -> str:
        """The text that is complete with these tokens and was not before them."""
        whole = self._decode([*self._ids, *tokens])
        text = whole.rstrip(_HALF)
        new = text[len(self._told) :]
        if new and text == whole:
            self._ids = list(tokens)
            self._told = self._decode(self._ids)
        else:
            self._ids += tokens
            self._told = max(self._told, text, key=len)
        return new
