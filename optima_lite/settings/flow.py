"""What cannot be seen in one line of a workflow: steps nobody reaches, talks without an end, inputs that come too late.

A workflow moves from one group of steps side by side to the next, so everything here is a walk over groups. Its names
must be known; see `grammar`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .workflow import Workflow

Group = tuple[str, ...]
END: Group = ()
ANSWER = "\x00answer"  # written by the steps whose answers count; no step can have this name
Problem = tuple[tuple[str, ...], str]
"""The keys down to what is wrong, and what is."""


def problems(workflow: Workflow, *, stated: frozenset[str]) -> Iterator[Problem]:
    """What is wrong with the whole. stated: the keys that its author has given."""
    yield from _unused(workflow)
    apart = list(_side_by_side(workflow))
    yield from apart
    if apart:
        return  # what such a group leads to is not known
    onward = _onward(workflow)
    yield from _unreached(workflow, onward)
    yield from _going_round(workflow, onward)
    endless = list(_endless(workflow, onward))
    yield from endless or _too_long(workflow, onward, bounded="max_steps" in stated)
    yield from _too_early(workflow, onward)


def groups(workflow: Workflow) -> list[Group]:
    """Every group of steps that is taken side by side, the start first."""
    ways = (way.to for step in workflow.steps for way in step.ways if way.to)
    return list(dict.fromkeys((workflow.start, *ways)))


def _onward(workflow: Workflow) -> dict[Group, list[Group]]:
    """The groups that can follow each one that can be reached; END where the talk can end."""
    onward: dict[Group, list[Group]] = {}
    waiting = [workflow.start]
    while waiting:
        group = waiting.pop()
        if group and group not in onward:
            onward[group] = list(dict.fromkeys(way.to for way in workflow.step(group[-1]).ways))
            waiting += onward[group]
    return onward


def _unused(workflow: Workflow) -> Iterator[Problem]:
    speaking = {step.speaker for step in workflow.steps}
    for role in workflow.roles:
        if role.name not in speaking:
            yield ("roles", role.name), "takes no step"
    read = {name for step in workflow.steps for name, _ in step.inputs}
    if any(step.reads is None for step in workflow.steps):
        return  # who reads the conversation reads everything
    for step in workflow.steps:
        conditional = any(way.when for way in step.ways)
        listed = any(c.of == step.writes for one in workflow.steps for way in one.ways for c in way.when)
        if step.writes not in read and step.name not in workflow.answer and not conditional and not listed:
            yield ("steps", step.name), f"nobody reads what it writes, {{{step.writes}}}"


def _side_by_side(workflow: Workflow) -> Iterator[Problem]:
    for group in groups(workflow):
        steps = [workflow.step(name) for name in group]
        if len(steps) < 2:
            continue
        beside = " and ".join(group)
        for step in steps:
            here = ("steps", step.name)
            if step.reads is None:
                yield here, f"reads the conversation, and so cannot be taken side by side ({beside})"
            if len(step.ways) > 1 or step.ways != steps[0].ways:
                yield (*here, "then"), f"{beside} are taken side by side, so all must lead to the same steps, always"
        if len({step.writes for step in steps}) < len(steps):
            yield ("steps", steps[-1].name, "writes"), f"{beside} are taken side by side and write the same name"


def _unreached(workflow: Workflow, onward: Mapping[Group, list[Group]]) -> Iterator[Problem]:
    reached = {name for group in onward for name in group}
    for step in workflow.steps:
        if step.name not in reached:
            yield ("steps", step.name), "no way leads here"


def _endless(workflow: Workflow, onward: Mapping[Group, list[Group]]) -> Iterator[Problem]:
    ending = {END}
    while new := {group for group, after in onward.items() if group not in ending and ending & {*after}}:
        ending |= new
    for group in onward:
        if group not in ending:
            yield ("steps", group[-1], "then"), "no way leads from here to the end"


def _too_long(workflow: Workflow, onward: Mapping[Group, list[Group]], *, bounded: bool) -> Iterator[Problem]:
    loop = _loop(workflow.start, onward, (), set())
    if loop and not bounded:
        yield ("steps", loop[0][-1], "then"), f"a loop without a bound ({shown(loop)}); state max_steps"
    shortest = _shortest(workflow, onward)
    if bounded and workflow.max_steps < shortest:
        yield ("max_steps",), f"must be at least {shortest}, the shortest way to the end, not {workflow.max_steps}"


def _going_round(workflow: Workflow, onward: Mapping[Group, list[Group]]) -> Iterator[Problem]:
    """A loop in a team that hands its steps on as they are said: there everybody speaks all the time, so nobody could
    come back to an agent that has not finished."""
    loop = _loop(workflow.start, onward, (), set()) if workflow.streams else ()
    if loop:
        what = f"stream needs steps that form no loop, because all of them speak at once ({shown(loop)})"
        yield ("transfer",), f"{what}; transfer: serial, or a team without a way back"


def _loop(
    group: Group, onward: Mapping[Group, list[Group]], path: tuple[Group, ...], free: set[Group]
) -> tuple[Group, ...]:
    """The first way round that is found, its last group being its first; none where there is none. free: groups that
    are known to be in no loop; more are added."""
    if group in path:
        return (*path[path.index(group) :], group)
    if group in free:
        return ()
    for after in onward.get(group, ()):
        if loop := _loop(after, onward, (*path, group), free):
            return loop
    free.add(group)
    return ()


def _shortest(workflow: Workflow, onward: Mapping[Group, list[Group]]) -> int:
    """The fewest steps from the start to the end, which can be reached."""
    cost = {workflow.start: len(workflow.start)}
    for _ in range(len(onward) + 1):
        for group, after in onward.items():
            for one in after if group in cost else ():
                cost[one] = min(cost.get(one, cost[group] + len(one)), cost[group] + len(one))
    return cost[END]


def _too_early(workflow: Workflow, onward: Mapping[Group, list[Group]]) -> Iterator[Problem]:
    """Inputs that are not there on some way."""
    for group in onward:
        for step in map(workflow.step, group):
            for name in dict.fromkeys(name for name, part in step.inputs if part != "all"):
                if path := _without(name, group, workflow, onward):
                    yield ("steps", step.name, "reads"), f"{{{name}}} is not there yet on the way {shown(path)}"
            for name in (c.of for way in step.ways for c in way.when if c.kind == "more"):
                if name != step.writes and (path := _without(name, group, workflow, onward)):
                    yield ("steps", step.name, "then"), f"the list {name} is not there yet on the way {shown(path)}"
    if any(END in after for after in onward.values()) and (path := _without(ANSWER, END, workflow, onward)):
        yield ("answer",), f"the end is reached without an answer that counts on the way {shown(path)}"


def _without(name: str, target: Group, workflow: Workflow, onward: Mapping[Group, list[Group]]) -> tuple[Group, ...]:
    """The shortest way from the start to a group on which nothing is written under a name; none if there is no such
    way."""
    paths: list[tuple[Group, ...]] = [(workflow.start,)]
    seen = {workflow.start}
    while paths:
        path = paths.pop(0)
        if path[-1] == target:
            return path
        if any(name in _written(workflow, step) for step in path[-1]):
            continue
        for after in onward.get(path[-1], ()):
            if after not in seen:
                seen.add(after)
                paths.append((*path, after))
    return ()


def _written(workflow: Workflow, name: str) -> tuple[str, ...]:
    step = workflow.step(name)
    return (step.writes, ANSWER) if name in workflow.answer else (step.writes,)


def shown(path: tuple[Group, ...]) -> str:
    """A way through the groups, as messages show it."""
    return " -> ".join(" + ".join(group) or "end" for group in path)
