"""What more workers are worth: the same dialogues, generated and ranked by 1, 2, ... workers of a Ray cluster.

    python scripts/bench_cluster.py [RECIPE] [--address local] [--workers 1,2] [--questions 32] [--chunk 16] [--kill]

A row for each number of workers. Seconds and dialogues a second are those of the clock on the wall. `own clocks` counts
the processor's seconds alone, as if each worker had a core for itself: those of the worker who was busy longest, phase
by phase, which is what can be compared where workers share cores. `foretold` is what the schedule makes of the pieces
of the first row, on the same clock (`stage/simulation.py`). Then processor time of the driver a piece, and that of all
workers for the pieces that were answered. --kill: once more with the most workers, of which one is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import psutil

from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Cluster, Machine
from optima_lite.settings.recipe import Recipe
from optima_lite.stage.cluster import Took, Workers, clustered
from optima_lite.stage.dialogues import Ranking, Talk
from optima_lite.stage.simulation import Circumstances, simulate
from optima_lite.tasks.questions import questions

COLUMNS = ("workers", "seconds", "foretold", "dialogues/s", "own clocks, s", "foretold", "driver CPU a piece, ms")
TITLES = (*COLUMNS, "workers' CPU, s", "pieces")


@dataclass(frozen=True)
class Measured:
    """seconds: of all phases. driver: its seconds of the processor. phases: the pieces of each. records: what came of
    it."""

    dialogues: int
    seconds: float
    driver: float
    phases: tuple[tuple[Took, ...], ...]
    records: list[Any]

    @property
    def pieces(self) -> int:
        """How many were answered."""
        return sum(map(len, self.phases))

    @property
    def cpu(self) -> float:
        """Seconds of the processor that the workers took for them."""
        return sum(one.cpu for phase in self.phases for one in phase)

    @property
    def own_clocks(self) -> float:
        """Seconds until each phase was done, if every worker had a core for itself."""
        return sum(max(_sums(phase)) for phase in self.phases)


def _sums(phase: Sequence[Took]) -> list[float]:
    return [sum(one.cpu for one in phase if one.pid == pid) for pid in {one.pid for one in phase}]


def foretold(one: Measured, workers: int) -> tuple[float, float]:
    """What so many workers would take for the pieces of one, by the wall's clock and by their own."""
    how = Circumstances(driver=one.driver / one.pieces)

    def of(phases: Sequence[Sequence[float]]) -> float:
        return sum(simulate(phase, workers, how, Random(0)).seconds for phase in phases)

    wall = of([[piece.seconds for piece in phase] for phase in one.phases])
    return wall, of([[piece.cpu for piece in phase] for phase in one.phases])


def measured(recipe: Recipe, cluster: Cluster, *, count: int, chunk: int, kill_after: float | None) -> Measured:
    """So many questions, by the workers of a cluster. kill_after: seconds until one of them is killed."""
    how: dict[str, Any] = {"settle": lambda key, decide: decide(), "settled": {}, "notify": print}
    with clustered(recipe, machine=Machine(cluster=cluster), **how) as workers:
        for _ in workers.coming():
            pass
        return _work(workers, recipe, count=count, chunk=chunk, kill_after=kill_after)


def _work(workers: Workers, recipe: Recipe, *, count: int, chunk: int, kill_after: float | None) -> Measured:
    cast, each = workers.cast, recipe.sampling.rollouts
    asked, _ = cast.fit(cast.team, questions(recipe.task, "train", count, seed=0))
    size = max(1, chunk // each)
    speakers = cast.team.speakers
    talk = Talk(speakers, each, cast.sampling(cast.team), (recipe.seed, 0), cast.formats)
    list(workers.map(talk, [asked[:1]] * workers.size, lambda *what, **how: None))  # whoever has done nothing is slow
    if kill_after is not None:
        threading.Timer(kill_after, _kill).start()
    begun, cpu = time.perf_counter(), time.process_time()
    records, phases = list[Any](asked), list[tuple[Took, ...]]()
    for job in (talk, Ranking(speakers, recipe.reward)):
        workers.took.clear()
        pieces = [records[start : start + size] for start in range(0, len(records), size)]
        records = [made for piece in workers.map(job, pieces, lambda *what, **how: None) for made in piece]
        phases.append(tuple(workers.took))
    seconds, driver = time.perf_counter() - begun, time.process_time() - cpu
    return Measured(len(asked) * each, seconds, driver, tuple(phases), records)


def _kill() -> None:
    below = psutil.Process().children(recursive=True)
    there = [one for one in below if one.name().startswith("ray::Worker")]
    if there:
        os.kill(there[0].pid, signal.SIGKILL)


def row(name: str, found: Measured, wall: float, own: float) -> str:
    """A line of the table."""
    speed, driver = found.dialogues / found.seconds, 1000 * found.driver / found.pieces
    cells = [name, f"{found.seconds:.1f}", f"{wall:.1f}", f"{speed:.1f}", f"{found.own_clocks:.1f}", f"{own:.1f}"]
    return f"| {' | '.join([*cells, f'{driver:.1f}', f'{found.cpu:.1f}', str(found.pieces)])} |"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--address", default="local")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe).recipe
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
    first: Measured | None = None
    numbers = [int(number) for number in given.workers.split(",")]
    for number, kill in [(number, False) for number in numbers] + [(max(numbers), True)] * given.kill:
        cluster = Cluster(engine="ray", address=given.address, workers=number, chunk=given.chunk)
        kill_after = first.seconds / number / 4 if first and kill else None
        found = measured(recipe, cluster, count=given.questions, chunk=given.chunk, kill_after=kill_after)
        first = first or found
        assert found.records == first.records, "the records of the first row"
        print(row(f"{number}{' (one killed)' if kill else ''}", found, *foretold(first, number)), flush=True)


if __name__ == "__main__":
    main()
