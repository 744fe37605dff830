"""A workflow as a stream, and where a streamed dialogue stands.

Everybody whose step will certainly be taken begins at once; behind a condition they begin when it is decided. Who reads
an earlier step hears it step by step, unless only the whole of it can be read: what is parsed, what a tool says, and
all that a tool is asked.

Where a dialogue stands follows from its turns alone, each of which is one step of a message: they are told over again
from the start. In a turn of somebody who hears nobody `finished` says whether its message ends there, or goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..records import Turn
from ..settings.workflow import Step, Way, Workflow
from .stream import Member, Stream

Done = tuple[tuple[Step, Turn], ...]
"""The steps of a workflow that were taken, with what was said at them."""

Decide = Callable[[Done, Workflow], Way]
"""The way that is taken after the last of the steps done."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a streamed dialogue stands. stream: who said what, and who speaks now. steps: of the workflow, those that
    have begun. turns: so far. way: the one to the end, None before it is known. too_long: whether it would have gone on
    with more steps than a dialogue may have."""

    stream: Stream
    steps: tuple[Step, ...]
    turns: tuple[Turn, ...]
    way: Way | None
    too_long: bool

    def said(self, name: str) -> tuple[Turn, ...]:
        """The turns of a step of the workflow."""
        return tuple(self.turns[k] for message in self.stream.messages(name) for k in message.steps)

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)


def standing(turns: Sequence[Turn], workflow: Workflow, *, decide: Decide) -> Standing:
    """Where a workflow that streams stands after these turns. Raises ValueError for more turns than it has."""
    assert workflow.stream is not None
    stream = Stream(merge=workflow.stream.merge, at_most=workflow.stream.at_most)
    walk = _Walk(workflow, stream, decide)
    while True:
        told = len(stream.beats)
        if stream.between_ticks:
            walk.go_on(turns[:told])
        if told == len(turns) or not stream.ready:
            break
        for turn in turns[told : told + len(stream.ready)]:
            stream.say(turn.text, finished=turn.finished, silent=not turn.ids)
    if told < len(turns):
        raise ValueError("turns after the end of their dialogue")
    return Standing(stream, tuple(walk.steps), tuple(turns), walk.way if not walk.group else None, walk.too_long)


class _Walk:
    """Lets steps begin as far as it is known that they are taken."""

    def __init__(self, workflow: Workflow, stream: Stream, decide: Decide) -> None:
        self._workflow, self._stream, self._decide = workflow, stream, decide
        self.steps: list[Step] = []
        self.group, self.begun = workflow.start, False
        self.way: Way | None = None
        self.too_long = False

    def go_on(self, said: Sequence[Turn]) -> None:
        """Between two ticks: everybody joins who can."""
        while self.group and not self.too_long:
            if not self.begun:
                self._begin()
                continue
            last = self._workflow.step(self.group[-1])
            if len(last.ways) > 1 and not all(map(self._stream.ended, self.group)):
                return
            self.way = last.ways[0] if len(last.ways) == 1 else self._decide(self._done(said), self._workflow)
            self.group, self.begun = self.way.to, False

    def _begin(self) -> None:
        if len(self.steps) + len(self.group) > self._workflow.max_steps:
            self.too_long = True
            return
        new = [self._workflow.step(name) for name in self.group]
        for step in new:
            self._stream.join(member(step, self.steps))
        self.steps += new
        self.begun = True

    def _done(self, said: Sequence[Turn]) -> Done:
        """What was said by those who have ended, each message as one turn; the group that decides stands last."""
        ended = [step for step in self.steps if self._stream.ended(step.name)]
        ended.sort(key=lambda step: step.name in self.group)
        return tuple((step, self._whole(step, said)) for step in ended)

    def _whole(self, step: Step, said: Sequence[Turn]) -> Turn:
        turns = [said[k] for message in self._stream.messages(step.name) for k in message.steps]
        answer = next((turn.answer for turn in reversed(turns) if turn.answer is not None), None)
        return replace(turns[-1], text=self._stream.whole(step.name), answer=answer)


def member(step: Step, before: Sequence[Step]) -> Member:
    """A step of the workflow as a member of the stream. before: the steps that have begun before it."""
    senders = [one for one in before if one.name in _read(step, before)]
    hears = [one.name for one in senders if not step.tool and not one.tool and one.parse == "text"]
    return Member(step.name, tuple(hears), tuple(one.name for one in senders if one.name not in hears))


def _read(step: Step, before: Sequence[Step]) -> set[str]:
    """The names of the steps that a step reads."""
    if step.reads is None:
        return {one.name for one in before}
    read: set[str] = set()
    for name, part in step.inputs:
        writers = [one.name for one in before if one.writes == name]
        read.update(writers if part == "all" else writers[-1:])
    return read
