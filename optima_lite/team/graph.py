"""Which roles read what which others write: a workflow of steps as a graph of roles. Pure.

A role has one prompt however often it speaks, so its steps are one node, and a loop of steps becomes an edge in each
direction. A tool is no node: who reads what it found reads those who asked it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..settings.workflow import Step, Workflow

Edge = tuple[int, int]
"""Two roles by number: the second reads what the first writes."""


def edges(workflow: Workflow) -> tuple[Edge, ...]:
    """The edges between different roles, in the order of the roles, each once."""
    numbers = {role.name: number for number, role in enumerate(workflow.roles)}
    found = {
        (numbers[writer], numbers[step.speaker])
        for step in workflow.steps
        if not step.tool
        for writer in _writers(step, workflow, ())
        if writer != step.speaker
    }
    return tuple(sorted(found))


def loop(edges: tuple[Edge, ...]) -> tuple[int, ...]:
    """Roles that read each other in a ring, the first once more at the end; none where the graph has no loop."""

    def walk(path: tuple[int, ...]) -> tuple[int, ...]:
        for writer, reader in edges:
            if writer == path[-1]:
                ring = (*path[path.index(reader) :], reader) if reader in path else walk((*path, reader))
                if ring:
                    return ring
        return ()

    return next(filter(None, (walk((start,)) for start, _ in edges)), ())


def _writers(step: Step, workflow: Workflow, asked: tuple[str, ...]) -> Iterator[str]:
    """The roles whose words a step reads. asked: the tools on the way, none of which is asked twice."""
    wanted = {name for name, _ in step.inputs}
    for one in workflow.steps:
        if (step.reads is None or one.writes in wanted) and step.name in _after(one.name, workflow):
            if not one.tool:
                yield one.speaker
            elif one.name not in asked:
                yield from _writers(one, workflow, (*asked, one.name))


def _after(name: str, workflow: Workflow) -> set[str]:
    """The steps that can follow a step, at any distance."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = {to for way in workflow.step(waiting.pop()).ways for to in way.to} - found
        found |= new
        waiting += new
    return found
