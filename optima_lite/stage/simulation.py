"""How long a phase would take a crew of many workers: the very schedule of a cluster, on a clock that is made up."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .schedule import Schedule


@dataclass(frozen=True)
class Circumstances:
    """What besides the work decides how long it takes. Seconds. start: of a worker. lost_after: the mean time until a
    worker is lost; 0: none is. driver: that the driver is busy with a piece. paces: how many times as long as
    it should a worker takes for everything, and how likely that is."""

    start: float = 0.0
    lost_after: float = 0.0
    driver: float = 0.0
    paces: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    patience: float = 1.5
    look: float = 0.25  # times as long as usual, between two looks at who is slow


@dataclass(frozen=True)
class Outcome:
    """seconds: until the last result was taken. busy: of all workers together. lost: workers. twice: pieces that were
    done by two."""

    seconds: float
    busy: float
    lost: int
    twice: int


def simulate(pieces: Sequence[float], workers: int, how: Circumstances, rng: Random) -> Outcome:
    """What comes of pieces that take so many seconds each, in the hands of so many workers, who are there already."""
    schedule: Schedule[None] = Schedule(len(pieces), patience=how.patience, tries=1 << 30)
    events: list[tuple[float, int, str]] = []  # when, whom, what
    idle, clock, free, busy, lost, twice = [*range(workers)], 0.0, 0.0, 0.0, 0, 0
    factors, chances = zip(*how.paces, strict=True)
    paces = rng.choices(factors, chances, k=workers)

    def give() -> None:
        nonlocal busy, twice
        held = {*schedule.busy.values()}
        for worker in list(idle):
            piece = schedule.give(worker, clock)
            if piece is None:
                return
            twice += piece in held
            held.add(piece)
            idle.remove(worker)
            takes = pieces[piece] * paces[worker]
            gone = rng.expovariate(1 / how.lost_after) if how.lost_after else float("inf")
            busy += min(takes, gone)
            heapq.heappush(events, (clock + takes, worker, "done") if takes < gone else (clock + gone, worker, "lost"))

    while schedule.open:
        give()
        if idle and schedule.usual:  # whether something takes unusually long is looked at now and then
            heapq.heappush(events, (clock + how.look * schedule.usual, -1, "look"))
        clock, worker, what = heapq.heappop(events)
        if what == "done":
            free = max(free, clock) + how.driver
            schedule.answer(worker, None, clock)
            idle.append(worker)
        elif what == "lost":
            schedule.lose(worker)
            lost += 1
            (paces[worker],) = rng.choices(factors, chances)
            heapq.heappush(events, (clock + how.start, worker, "come"))
        elif what == "come":
            idle.append(worker)
        for _ in schedule.take():
            pass
    return Outcome(max(clock, free), busy, lost, twice)
