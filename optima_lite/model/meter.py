"""Where the work goes: seconds by activity, each moment counted once; and tokens by what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Tokens of prompts and texts that went through the model or were found in the cache, and tokens sampled."""

    computed: int = 0
    reused: int = 0
    sampled: int = 0


class Meter:
    """Adds up the seconds of activities, and tokens. An activity inside another takes its time away from the outer one.

    On a GPU work is queued, so what a step queues may be counted where the next one waits for it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.counts = Counts()
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Counts the `with` block as `activity`."""
        self._charge()
        self._running.append(activity)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def count(self, *, computed: int = 0, reused: int = 0, sampled: int = 0) -> None:
        """Adds tokens to the counts."""
        self.counts.computed += computed
        self.counts.reused += reused
        self.counts.sampled += sampled

    def read(self) -> Mapping[str, float]:
        """Seconds by activity so far, those under way included."""
        self._charge()
        return dict(self._seconds)

    def _charge(self) -> None:
        """Everything since the last change belongs to the innermost activity."""
        now = self._clock()
        if self._running:
            self._seconds[self._running[-1]] = self._seconds.get(self._running[-1], 0.0) + now - self._since
        self._since = now
