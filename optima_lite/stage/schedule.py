"""Who does which piece of a work, and in which order the results come out. Pure: the time is told by the caller.

A piece is a function of its content alone, so it may be given again to somebody else when a worker is lost, or a second
time when one is slow; whoever answers first is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class _Try:
    """A piece in the hands of a worker. since: when it was given."""

    piece: int
    since: float


class Schedule(Generic[Made]):
    """The pieces 0 to `pieces` - 1 of a work. Workers are named by anything that can be told apart.

    patience: when nothing waits any more, a piece that takes so many times as long as usual is done a second time.
    tries: how many workers a piece may cost.
    """

    def __init__(self, pieces: int, *, patience: float, tries: int = 3) -> None:
        self._waiting = [*range(pieces)][::-1]  # the next one last
        self._hands: dict[Hashable, _Try] = {}
        self._made: dict[int, Made] = {}
        self._answered: set[int] = set()
        self._lost = [0] * pieces
        self._taken, self._pieces = 0, pieces
        self._took: list[float] = []
        self._patience, self._tries = patience, tries

    @property
    def open(self) -> bool:
        """Whether results are still to come."""
        return self._taken < self._pieces

    @property
    def usual(self) -> float:
        """How long a piece has taken, in the middle; 0 before the first answer."""
        return median(self._took) if self._took else 0.0

    @property
    def busy(self) -> dict[Hashable, int]:
        """The pieces that workers have in their hands."""
        return {worker: one.piece for worker, one in self._hands.items()}

    def give(self, worker: Hashable, now: float) -> int | None:
        """The piece that an idle worker is to do; None where there is none for it at present."""
        piece = self._waiting.pop() if self._waiting else self._slow(now)
        if piece is not None:
            self._hands[worker] = _Try(piece, now)
        return piece

    def answer(self, worker: Hashable, made: Made, now: float) -> bool:
        """A worker has done its piece and is idle. Returns whether it was the first to have done it."""
        one = self._hands.pop(worker)
        if one.piece in self._answered:
            return False
        self._took.append(now - one.since)
        self._answered.add(one.piece)
        self._made[one.piece] = made
        return True

    def lose(self, worker: Hashable) -> int | None:
        """A worker is no more. Returns the piece that is given up on, because it has cost as many as it may."""
        one = self._hands.pop(worker, None)
        if one is None or one.piece in self._answered:
            return None
        self._lost[one.piece] += 1
        if self._lost[one.piece] >= self._tries:
            return one.piece
        if all(other.piece != one.piece for other in self._hands.values()):
            self._waiting.append(one.piece)
        return None

    def silent(self, now: float, *, times: float, longest: float) -> list[Hashable]:
        """Workers that have been at their piece for longer than they may: so many times as long as usual where somebody
        else has done it, else `longest` seconds."""
        found = []
        for worker, one in self._hands.items():
            if now - one.since > (times * self.usual if one.piece in self._answered else longest):
                found.append(worker)
        return found

    def take(self) -> Iterator[Made]:
        """The results that are next in order, each once."""
        while self._taken in self._made:
            yield self._made.pop(self._taken)
            self._taken += 1

    def _slow(self, now: float) -> int | None:
        """The piece that has been alone in somebody's hands longest, if that is unusually long."""
        held = Counter(one.piece for one in self._hands.values())
        alone = [one for one in self._hands.values() if held[one.piece] == 1 and one.piece not in self._answered]
        oldest = min(alone, key=lambda one: one.since, default=None)
        if oldest is None or not self._took or now - oldest.since <= self._patience * self.usual:
            return None
        return oldest.piece
