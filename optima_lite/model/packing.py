"""Which rows go through the model side by side: those that need little padding and stay in the token budget.

A row's shape is (known, rest): how many of its first ids have their keys and values already, and how many are left to
compute. A batch pads both parts on the left, each to its longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_CALL = 256  # tokens of padding that cost as much as one more call of the model


@dataclass(slots=True)
class Pack:
    """Rows of one batch. most: positions it may hold, rows times width; a single row is always taken. widest: positions
    that a row may have."""

    most: float = float("inf")
    widest: float = float("inf")
    rows: int = 0
    _known: int = 0
    _rest: int = 0
    _tokens: int = 0

    @property
    def width(self) -> int:
        """Positions of each row, padding included."""
        return self._known + self._rest

    def take(self, known: int, rest: int) -> bool:
        """Adds a row of this shape if it belongs here; rows come by falling rest."""
        rows, longest_known, longest_rest = self.rows + 1, max(self._known, known), max(self._rest, rest)
        width, tokens = longest_known + longest_rest, self._tokens + rest
        padding = rows * longest_rest - tokens
        if self.rows and (rows * width > self.most or width > self.widest or padding > _CALL):
            return False
        self.rows, self._known, self._rest, self._tokens = rows, longest_known, longest_rest, tokens
        return True


def packs(shapes: Sequence[tuple[int, int]], *, widest: int) -> list[slice]:
    """Shapes by falling rest, cut into runs that are best computed apart; widest: as in `Pack`."""
    cuts, pack = [0], Pack(widest=widest)
    for k, shape in enumerate(shapes):
        if not pack.take(*shape):
            cuts.append(k)
            pack = Pack(widest=widest)
            pack.take(*shape)
    return [slice(*ends) for ends in zip(cuts, [*cuts[1:], len(shapes)], strict=True)]
