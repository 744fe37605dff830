"""Cuts a message into its steps while it is being written: at a marker, or at the end of a sentence; never in code.

Text comes in pieces of any length, such as tokens, so a border may lie across several of them. Where a fenced block of
code has begun nothing is a border until it ends, so a program is never torn apart.
"""

from __future__ import annotations

import re

from ..settings.workflow import Streaming

_FENCE = r"(?:^|(?<=\n)) {0,3}(?P<fence>`{3,}|~{3,})"
_SENTENCE = r"(?P<border>[.!?…]+[\"'\u201d\u2019)\]]*(?=\s)|\n)"  # a line is a sentence, too
_ENDS = (".", "!", "?", "…", "\n")
_NO_END = re.compile(r"(?:^\W*(?:\d{1,3}|\w)|\b(?:[A-Z]|e\.g|i\.e|cf|vs|etc|Mr|Mrs|Ms|Dr|Prof|St))$")


class Segmenter:
    """Takes the pieces of one message, one after the other, and gives its steps without their markers."""

    def __init__(self, how: Streaming) -> None:
        self._sentences = how.border == "sentence"
        self._wanted = how.marker
        border = _SENTENCE if self._sentences else f"(?P<border>{re.escape(how.marker)})"
        self._pattern = re.compile(f"{_FENCE}|{border}")
        self._rest = ""  # of the step under way
        self._before = "\n"  # the character before it: a fence begins a line
        self._fence = ""  # what opened the block in which it begins

    def may_end(self, piece: str) -> bool:
        """Whether a step can end in this piece, which is cheaper to tell than where."""
        text = self._rest + piece
        return any(mark in text for mark in _ENDS) if self._sentences else self._wanted in text

    def feed(self, piece: str) -> list[str]:
        """The steps that end in this piece of the message, most often none. A step may be empty."""
        self._rest += piece
        steps = []
        while border := self._border():
            begin, end = border
            steps.append(self._rest[: end if self._sentences else begin].strip())
            self._rest, self._before, self._fence = self._rest[end:], "\n", ""
        return steps

    def take(self) -> str:
        """What was said since the last border, as a step of its own."""
        text, self._rest = self._rest, ""
        if text:
            self._fence = self._scan(self._before + text)[1]
            self._before = text[-1]
        return text.strip()

    def _border(self) -> tuple[int, int] | None:
        if not self.may_end(""):
            return None
        found, _ = self._scan(self._before + self._rest)
        return found and (found[0] - len(self._before), found[1] - len(self._before))

    def _scan(self, text: str) -> tuple[tuple[int, int] | None, str]:
        """Where the first border stands, None without one; and what opened the block that is open there or at the
        end."""
        fence = self._fence
        for match in self._pattern.finditer(text):
            run = match["fence"]
            if run is None:
                begin, end = match.span("border")
                if not fence and self._ends(text, begin, end):
                    return (begin, end), fence
            elif not fence:
                inline = run[0] == "`" and "`" in self._line_after(text, match.end())
                fence = "" if inline else run
            elif run.startswith(fence) and not self._line_after(text, match.end()).strip():
                fence = ""
        return None, fence

    def _line_after(self, text: str, start: int) -> str:
        line = text[start:].split("\n", 1)[0]
        return line if self._sentences else line.split(self._wanted, 1)[0]

    def _ends(self, text: str, begin: int, end: int) -> bool:
        """Whether what looks like the end of a sentence is one: something was said, and no `1.` or `Dr.` stands
        there."""
        if not self._sentences:
            return True
        if not text[len(self._before) : end].strip():
            return False
        return text[begin] != "." or not _NO_END.search(text[len(self._before) : begin])


def parts(text: str, how: Streaming) -> list[str]:
    """The steps of a whole message, empty ones left out; a last step needs no border."""
    segmenter = Segmenter(how)
    return [step for step in (*segmenter.feed(text), segmenter.take()) if step]
