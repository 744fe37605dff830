"""What a cluster is made of, before a run is given to it: its nodes, and each worker's versions, weights and speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray

from ..records import Question
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..tasks.questions import questions
from .cluster import Workers, clustered
from .evaluate import Examination
from .findings import Finding, Status
from .joining import needs, room, wanted

_QUESTIONS = 16  # that each worker talks about
_ROOM = "cluster.gpus_per_worker, or nodes that have what a worker takes"


def survey(recipe: Recipe, machine: Machine) -> Iterator[Finding]:
    """The nodes, and what each worker says of itself, with the tokens that it samples and reads in a second of talk
    about some validation questions. Raises RunError where there is no cluster or no worker."""
    notes: list[str] = []

    def told() -> Iterator[Finding]:
        while notes:
            yield Finding("note", Status.NOTE, notes.pop(0))

    how: dict[str, Any] = {"settle": lambda key, decide: decide(), "settled": {}, "notify": notes.append}
    with clustered(recipe, machine=machine, **how) as workers:
        yield from _nodes()
        most, there = wanted(machine.cluster), room(machine.cluster)
        if not there:
            yield Finding("workers", Status.PROBLEM, f"no room for any in a cluster {needs(machine.cluster)}", _ROOM)
            return
        if there < most:
            what = f"room for {there} of {most}, in a cluster {needs(machine.cluster)}"
            yield Finding("workers", Status.NOTE, what, "a run begins with those, and takes others as they come")
        for _ in workers.coming():
            yield from told()
        cast = workers.cast
        drawn: list[Question] = questions(recipe.task, "validation", _QUESTIONS, seed=0)
        asked, _ = cast.fit(cast.team, drawn)
        job = Examination(cast.team.speakers, cast.sampling(cast.team), recipe.seed, recipe.reward)
        yield from _workers(workers, job, asked)
        yield from told()


def _nodes() -> Iterator[Finding]:
    there = [node for node in ray.nodes() if node["Alive"]]
    held = _resources(ray.cluster_resources())
    yield Finding("cluster", Status.OK, f"Ray {ray.__version__}, nodes: {len(there)}, {held}")
    for node in there:
        yield Finding(f"node {node['NodeManagerHostname']}", Status.OK, _resources(node["Resources"]))


def _resources(held: dict[str, float]) -> str:
    memory = held.get("memory", 0.0) / 2**30
    return f"{held.get('GPU', 0):g} GPUs, {held.get('CPU', 0):g} cores, {memory:.0f} GiB"


def _workers(workers: Workers, job: Examination, asked: list[Question]) -> Iterator[Finding]:
    for standing, done in workers.each(job, asked):
        name = f"worker on {standing.host}, process {standing.pid}"
        if done is None:
            yield Finding(name, Status.PROBLEM, "it was lost while it talked", "Ray's logs have more of it")
            continue
        rate = (done.counts["computed"] + done.counts["sampled"]) / done.seconds
        failed = [name for name in ("batches_fail", "cache_fails") if name in standing.settled]
        tested = f"self-test: {', '.join(failed)}" if failed else "self-test passed"
        own = f"the versions of this machine, weights {standing.weights}, {tested}"
        detail = f"{own}, ready after {standing.seconds:.0f} s, {rate:,.0f} tokens/s sampled and read"
        yield Finding(name, Status.OK, detail)
