"""What a cluster is made of, before a run is given to it: its nodes, and each worker's versions, weights and speed."""

from __future__ import annotations

from collections.abc import Iterator

import ray

from ..records import Question
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..tasks.questions import questions
from .cluster import Workers, clustered
from .evaluate import Examination
from .findings import Finding, Status

_QUESTIONS = 16  # that each worker talks about


def survey(recipe: Recipe, machine: Machine) -> Iterator[Finding]:
    """The nodes, and what each worker says of itself, with the tokens that it samples and reads in a second of talk
    about some validation questions. Raises RunError where there is no cluster or no worker."""
    notes: list[str] = []
    with clustered(recipe, machine=machine, settle=lambda key, decide: decide(), notify=notes.append) as workers:
        yield from _nodes()
        workers.gather()
        workers.complete()
        cast = workers.cast
        drawn: list[Question] = questions(recipe.task, "validation", _QUESTIONS, seed=0)
        asked, _ = cast.fit(cast.team, drawn)
        job = Examination(cast.team.speakers, cast.sampling(cast.team), recipe.seed, recipe.reward)
        yield from _workers(workers, job, asked)
    for note in notes:
        yield Finding("note", Status.NOTE, note)


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
        rate = (done.counts["computed"] + done.counts["sampled"]) / done.seconds
        failed = [name for name in ("batches_fail", "cache_fails") if name in standing.settled]
        tested = f"self-test: {', '.join(failed)}" if failed else "self-test passed"
        own = f"the versions of this machine, weights {standing.weights}, {tested}"
        detail = f"{own}, ready after {standing.seconds:.0f} s, {rate:,.0f} tokens/s sampled and read"
        yield Finding(f"worker on {standing.host}, process {standing.pid}", Status.OK, detail)
