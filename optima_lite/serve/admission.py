"""Who may speak now, and who waits: requests in the order in which they came.

As many go on side by side as the prefix cache can hold. With more, each would find its own past gone at every turn and
compute it anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Full(Exception):
    """As many requests as may wait are waiting."""


class Admission:
    """most: choices of requests that are not answered yet. Everything happens in one event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.unanswered = 0
        self.load = 0.0  # of what fits, by those who go on
        self._going = 0
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    @contextmanager
    def counted(self, choices: int) -> Iterator[None]:
        """A request, from its arrival to its answer. Raises Full."""
        if self.unanswered + choices > self.most:
            raise Full
        self.unanswered += choices
        try:
            yield
        finally:
            self.unanswered -= choices

    @asynccontextmanager
    async def place(self, share: float) -> AsyncIterator[None]:
        """Waits until there is room. share: the part of all room that is needed; who needs more than all of it goes on
        alone."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((share, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._going -= 1
                self.load = self.load - share if self._going else 0.0
            else:
                self._waiting.remove((share, turn))
            self._admit()

    def _admit(self) -> None:
        while self._waiting and (not self._going or self.load + self._waiting[0][0] <= 1):
            share, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._going += 1
                self.load += share
