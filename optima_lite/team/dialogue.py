"""Advances a batch of dialogues step by step through a workflow until they end. Knows no model: whoever speaks is
passed in as a callable.

Where a dialogue stands follows from its turns alone: they are told over again from the start, in the order in which
they were taken, steps side by side in the order of the workflow. So a dialogue that was cut off anywhere goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..records import Dialogue, Ending, Metric, Turn
from ..settings.workflow import CONFIRMING, Condition, Step, Way, Workflow
from ..tasks.answers import agree
from .parsing import accepts, items, value
from .streamed import Done, Standing, standing
from .tools import passes


@dataclass(frozen=True, slots=True)
class Cue:
    """A step that can be taken now. dialogue: so far. number: of the turn that its message begins with."""

    dialogue: Dialogue
    step: Step
    number: int


Speak = Callable[[Sequence[Cue]], Sequence[Turn]]
"""Steps that can be taken now, the turn of each out, in the same order."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a dialogue stands. done: the steps taken, with what was said. group: the steps side by side that come now,
    none at the end. said: of these how many have been taken. way: the one that led here, None at the start."""

    done: Done
    group: tuple[Step, ...]
    said: int = 0
    way: Way | None = None


def moment(turns: Sequence[Turn], workflow: Workflow) -> Moment:
    """Where the workflow stands after these turns."""
    done: Done = ()
    group, way = workflow.start, None
    while group and len(turns) >= len(done) + len(group):
        steps = map(workflow.step, group)
        done += tuple(zip(steps, turns[len(done) : len(done) + len(group)], strict=True))
        way = _taken(done, workflow)
        group = way.to
    return Moment(done, tuple(map(workflow.step, group)), len(turns) - len(done), way)


def taken(turns: Sequence[Turn], workflow: Workflow) -> list[tuple[Step, Turn, Done]]:
    """Every turn with the step that it was said at, and what had been said when that was read: in a stream, all that
    was said in the ticks before."""
    if workflow.streams:
        return _streamed(turns, workflow)
    if workflow.auctioned:  # whoever has said a turn had won its step
        done = tuple((workflow.step(workflow.names[turn.speaker]), turn) for turn in turns)
        return [(step, turn, done[:k]) for k, (step, turn) in enumerate(done)]
    found: list[tuple[Step, Turn, Done]] = []
    while len(found) < len(turns):
        now = moment(turns[: len(found)], workflow)
        found += [(step, turn, now.done) for step, turn in zip(now.group, turns[len(found) :], strict=False)]
        if not now.group:
            raise ValueError("turns after the end of their dialogue")
    return found


def _streamed(turns: Sequence[Turn], workflow: Workflow) -> list[tuple[Step, Turn, Done]]:
    beats = stand(turns, workflow).stream.beats
    said = [(workflow.step(beat.name), turn) for beat, turn in zip(beats, turns, strict=True)]
    before = [sum(one.tick < beat.tick for one in beats) for beat in beats]
    return [(step, turn, tuple(said[:count])) for (step, turn), count in zip(said, before, strict=True)]


def stand(turns: Sequence[Turn], workflow: Workflow) -> Standing:
    """Where a workflow that streams stands after these turns."""
    return standing(turns, workflow, decide=_taken)


def cues(dialogue: Dialogue, workflow: Workflow) -> list[Cue]:
    """What can be said next in an unfinished dialogue; any of it without the rest."""
    if workflow.streams:
        stream = stand(dialogue.turns, workflow).stream
        return [Cue(dialogue, workflow.step(name), stream.number(name)) for name in stream.ready]
    now = moment(dialogue.turns, workflow)
    numbered = enumerate(now.group, start=len(now.done))
    return [Cue(dialogue, step, number) for number, step in numbered][now.said :]


def converse(dialogues: Sequence[Dialogue], *, workflow: Workflow, speak: Speak) -> list[Dialogue]:
    """Every dialogue carried on to its end, in the order given; one call of `speak` takes every step that can be taken
    in all that still talk."""
    current = list(dialogues)
    while active := [i for i, dialogue in enumerate(current) if dialogue.ending is None]:
        ready = [(i, cue) for i in active for cue in cues(current[i], workflow)]
        turns = speak([cue for _, cue in ready])
        said: dict[int, list[Turn]] = {i: [] for i in active}
        for (i, _), turn in zip(ready, turns, strict=True):
            said[i].append(turn)
        for i in active:
            current[i] = extend(current[i], *said[i], workflow=workflow)
    return current


def extend(dialogue: Dialogue, *said: Turn, workflow: Workflow) -> Dialogue:
    """The dialogue with more turns, and with its ending if these end it."""
    turns = (*dialogue.turns, *said)
    return replace(dialogue, turns=turns, ending=_ending(turns, said, workflow))


def decided(dialogue: Dialogue, turn: Turn, workflow: Workflow) -> object:
    """What a next turn decides beyond its words and its answer: the way taken after it, and what is parsed from it.
    Equal for two turns after which the workflow goes on alike; None at a step where the words are all there is."""
    if workflow.streams:  # what a step of a message decides is known when the message ends
        return turn.text, turn.finished
    now = moment(dialogue.turns, workflow)
    step = now.group[now.said]
    way = None
    if any(condition.kind != "agreed" for one in step.ways for condition in one.when):
        way = _taken((*now.done, (step, turn)), workflow)
    return way, value(step, turn.text) if step.parse in ("list", "code", "json") else None


def _ending(turns: tuple[Turn, ...], said: Sequence[Turn], workflow: Workflow) -> Ending | None:
    if workflow.streams:
        return _end_of(stand(turns, workflow))
    if not all(turn.finished for turn in said):
        return Ending.TRUNCATED
    now = moment(turns, workflow)
    if not now.group:
        assert now.way is not None
        return _agreed(now.way)
    # Steps side by side are taken all or none, so that their order does not matter.
    return Ending.MAX_TURNS if not now.said and len(turns) + len(now.group) > workflow.max_steps else None


def _end_of(now: Standing) -> Ending | None:
    if now.stream.cut:
        return Ending.TRUNCATED
    if now.stream.ready:
        return None
    return Ending.MAX_TURNS if now.way is None else _agreed(now.way)


def _agreed(way: Way) -> Ending:
    """How a dialogue ends that goes this way to its end."""
    confirmed = any(condition.kind in CONFIRMING for condition in way.when)
    return Ending.AGREED if confirmed else Ending.DONE


def _taken(done: Done, workflow: Workflow) -> Way:
    """The way taken after the last of `done`."""
    step, _ = done[-1]
    return next(way for way in step.ways if all(_holds(condition, done, workflow) for condition in way.when))


def _holds(condition: Condition, done: Done, workflow: Workflow) -> bool:
    step, turn = done[-1]
    match condition.kind:
        case "answered":
            return turn.answer is not None
        case "agreed":
            return _agrees(done, condition.of, workflow.metric)
        case "accepted":
            return accepts(turn.text)
        case "passed":
            return passes(turn.text)
        case "says":
            return condition.of.casefold() in turn.text.casefold()
        case "rounds":
            return sum(one.name == condition.of for one, _ in done) < condition.below
        case "more":
            return since(done, step, condition.of) < len(listed(done, condition.of))


def _agrees(done: Done, by: str, metric: Metric) -> bool:
    _, turn = done[-1]
    if turn.answer is None:
        return False
    earlier = [said for _, said in done[:-1] if by == "anyone" or said.speaker != turn.speaker]
    stated = next((said.answer for said in reversed(earlier) if said.answer is not None), None)
    return stated is not None and agree(stated, turn.answer, metric=metric)


def listed(done: Done, name: str) -> list[str]:
    """The items of the list last written under a name; none before it was."""
    return next((items(turn.text, step.at_most) for step, turn in reversed(done) if step.writes == name), [])


def since(done: Done, step: Step, name: str) -> int:
    """How often a step was taken since something was last written under a name."""
    start = max((k for k, (one, _) in enumerate(done) if one.writes == name), default=-1)
    return sum(one.name == step.name for one, _ in done[start + 1 :])
