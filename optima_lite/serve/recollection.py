"""What roles have said, as the ids that were sampled.

A client sends it back as text, and text does not come back to the same ids. The latest are kept. Several threads may
ask.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

_MOST = 2_000_000  # ids in all: tens of thousands of messages


class Recollection:
    """Sampled ids by who said them and what they read as."""

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._held = most, 0
        self._ids: OrderedDict[tuple[int, str], tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, speaker: int, text: str, ids: tuple[int, ...]) -> None:
        """A speaker has said this."""
        with self._lock:
            self._held += len(ids) - len(self._ids.pop((speaker, text), ()))
            self._ids[speaker, text] = ids
            while self._held > self._most:
                _, oldest = self._ids.popitem(last=False)
                self._held -= len(oldest)

    def find(self, speaker: int, text: str) -> tuple[int, ...] | None:
        """The ids of what a speaker has said; None for what it has not, or long ago."""
        with self._lock:
            ids = self._ids.get((speaker, text))
            if ids is not None:
                self._ids.move_to_end((speaker, text))
            return ids
