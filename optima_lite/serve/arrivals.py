"""Rows on their way into a running batch: those who speak do not wait until a long prompt has been read.

Between two slices of theirs a stretch of prompts is computed at most. What is longer is computed bit by bit, into the
prefix cache, and joins when little of it is left. While nobody speaks, everything joins at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..model.decoding import Decoding, Row
from ..model.states import States

STRETCH = 1024  # tokens: a GPU is as fast with them as with more, and they take it about as long as a slice


class Arrivals:
    """Rows that have not joined yet, in the order in which they came. base: computes their prompts, with the adapter
    that is worn."""

    def __init__(self, decoding: Decoding, states: States, base: Any) -> None:
        self.waiting: list[Row] = []
        self._decoding, self._states, self._base = decoding, states, base

    def add(self, rows: Sequence[Row]) -> None:
        """More rows have come; those that nobody waits for any more are gone."""
        self.waiting = [row for row in (*self.waiting, *rows) if not row.finished]

    def due(self) -> list[Row]:
        """The rows that join now. What is computed here, and what they and those that wait in the batch leave to be
        computed, is a stretch at most; but a prompt that the cache has no room for cannot be computed bit by bit."""
        if not self._decoding.running:
            due, self.waiting = self.waiting, []
            return due
        left = STRETCH - sum(map(self._rest, self._decoding.waiting))
        due = []
        while self.waiting and left > 0:
            row = self.waiting[0]
            rest = self._rest(row)
            if rest > left and (due or self._shorter(row, rest, left)):
                break
            due.append(self.waiting.pop(0))
            left -= rest
        return due

    def _rest(self, row: Row) -> int:
        """How many of its ids are still to be computed."""
        return self._states.unknown(row.ids, adapter=self._states.policy.worn)

    def _shorter(self, row: Row, rest: int, most: int) -> bool:
        """Computes so many more ids of a row. False where there was no room for them."""
        work = partial(self._states.compute_ahead, self._base, row.ids, most)
        with self._states.aside():
            fits = self._states.fits(work, rows=1 + len(self._decoding.running), longest=self._decoding.longest)
        now = self._rest(row)
        row.ahead += rest - now
        return fits and now < rest
