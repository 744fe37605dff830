"""What more workers are worth: the same dialogues, generated and ranked by 1, 2, ... workers of a Ray cluster.

    python scripts/bench_cluster.py [RECIPE] [--address local] [--workers 1,2] [--questions 32] [--chunk 16] [--kill]

A row for each number of workers: seconds, dialogues a second, the seconds that the schedule makes of
the times that pieces took one worker (`stage/simulation.py`), processor time of the driver a piece, and that of the
workers in all. --kill: once more with the most workers, of which one is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import psutil

from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Cluster, Machine
from optima_lite.settings.recipe import Recipe
from optima_lite.stage.cluster import Workers, clustered
from optima_lite.stage.dialogues import Ranking, Talk
from optima_lite.stage.simulation import Circumstances, simulate
from optima_lite.tasks.questions import questions


def measured(
    recipe: Recipe, cluster: Cluster, *, count: int, chunk: int, one: Sequence[float], kill: bool
) -> tuple[list[float], float, list[Any]]:
    """The seconds of each piece, those of all, and the records."""
    with clustered(
        recipe, machine=Machine(cluster=cluster), settle=lambda key, decide: decide(), notify=print
    ) as workers:
        workers.gather()
        workers.complete()
        return _work(workers, recipe, count=count, chunk=chunk, one=one, kill=kill)


def _work(
    workers: Workers, recipe: Recipe, *, count: int, chunk: int, one: Sequence[float], kill: bool
) -> tuple[list[float], float, list[Any]]:
    cast, each = workers.cast, recipe.sampling.rollouts
    asked, _ = cast.fit(cast.pair, questions(recipe.task, "train", count, seed=0))
    size = max(1, chunk // each)
    speakers = cast.pair.speakers
    talk = Talk(speakers, each, cast.sampling(cast.pair), (recipe.seed, 0), cast.formats)
    list(workers.map(talk, [asked[:1]] * workers.size, lambda *what, **how: None))  # whoever has done nothing is slow
    workers.took.clear()
    if kill:
        threading.Timer(0.5 * sum(one) / workers.size / 2, _kill).start()
    begun, cpu = time.perf_counter(), time.process_time()
    records: list[Any] = list(asked)
    for job in (talk, Ranking(speakers, recipe.reward)):
        pieces = [records[start : start + size] for start in range(0, len(records), size)]
        records = [made for piece in workers.map(job, pieces, lambda *what, **how: None) for made in piece]
    seconds, driver = time.perf_counter() - begun, time.process_time() - cpu
    took = [piece for piece, _ in workers.took]
    half, rng = -(-len(asked) // size), Random(0)
    phases = [part for part in (one[:half], one[half:]) if part]
    foretold = sum(simulate(part, workers.size, Circumstances(), rng).seconds for part in phases)
    name = f"{workers.size}{' (one killed)' if kill else ''}"
    rate, told = len(asked) * each / seconds, f"{foretold:.1f}" if one else "-"
    busy, each_piece = sum(cpu for _, cpu in workers.took), 1000 * driver / len(took)
    print(f"| {name} | {seconds:.1f} | {rate:.1f} | {told} | {each_piece:.1f} | {busy:.1f} | {len(took)} |", flush=True)
    return took, seconds, records


def _kill() -> None:
    below = psutil.Process().children(recursive=True)
    there = [one for one in below if one.name().startswith("ray::Worker")]
    if there:
        os.kill(there[0].pid, signal.SIGKILL)


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
    print("| workers | seconds | dialogues/s | simulated seconds | driver CPU a piece, ms | workers' CPU, s | pieces |")
    print("|---|---|---|---|---|---|---|")
    one: list[float] = []
    reference: list[Any] = []
    numbers = [int(number) for number in given.workers.split(",")]
    for number, kill in [(number, False) for number in numbers] + [(max(numbers), True)] * given.kill:
        cluster = Cluster(engine="ray", address=given.address, workers=number, chunk=given.chunk)
        took, _, records = measured(recipe, cluster, count=given.questions, chunk=given.chunk, one=one, kill=kill)
        one, reference = one or took, reference or records
        assert records == reference, "the records of one worker"


if __name__ == "__main__":
    main()
