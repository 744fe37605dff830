"""Who speaks when, where a step of reasoning is handed on as soon as it is said: queues, a virtual clock, a timeline.

A tick of the clock is one step of everybody who has something to say, side by side. What is said in a tick has arrived
everywhere when the next one begins. An agent that hears nobody goes on with one message, a step a tick, until it ends.
An agent that hears others answers what waits in its queue with one message of one step. Nobody waits for anybody, but
for what only exists whole (`awaits`). When a speaker has ended, everyone who hears it knows (the end message), and ends
itself once its queue is empty; who was never told anything speaks once all the same. Nothing is left to chance: who
speaks in the same tick does so in the order in which they joined, and so do steps arrive.

The same rules with `awaits` in the place of `hears` are a serial run, whose ticks can be counted on the same clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Member:
    """An agent at its place in the workflow. hears: those whose steps it gets one by one. awaits: those whose whole
    message must be there before it begins."""

    name: str
    hears: tuple[str, ...] = ()
    awaits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """A step that has arrived."""

    sender: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """What an agent says in one go. heard: what it took from its queue before. steps: the numbers of those it consists
    of so far, in the order of all that was said."""

    heard: tuple[Heard, ...]
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Beat:
    """A moment of the timeline: in this tick, which counts from 1, somebody said this, having heard so many steps for
    it. Nothing is handed on where the text is empty."""

    tick: int
    name: str
    text: str
    heard: int


@dataclass(slots=True)
class _Place:
    """What is known of a member. queue: what has arrived and was not taken. ended: whether all has been said."""

    member: Member
    queue: list[Heard] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    ended: bool = False


class Stream:
    """The state of one stream; `say` moves it on.

    merge, at_most: as in `settings.workflow.Streaming`. ready: who speaks next in this tick, in order. cut: whether a
    message was cut off, so that there is no going on. beats: all that was said.
    """

    def __init__(self, *, merge: Literal["drain", "per_step"] = "drain", at_most: int = 16) -> None:
        self._drains, self._at_most = merge == "drain", at_most
        self._places: dict[str, _Place] = {}
        self._tick, self._began = 1, 0  # the tick under way, and how much had been said before it
        self._speakers: tuple[str, ...] | None = None  # of this tick; None: not decided yet
        self.beats: list[Beat] = []
        self.cut = False

    def join(self, member: Member) -> None:
        """One more member, between two ticks; what those that it hears have said is in its queue. Raises ValueError for
        one that is there, or hears somebody who is not: in a loop there would be one."""
        if member.name in self._places or not {*member.hears, *member.awaits} <= self._places.keys():
            raise ValueError(f"{member.name} would speak again, or hear somebody who has not joined: a loop")
        assert self.between_ticks
        queue = [Heard(beat.name, beat.text) for beat in self.beats if beat.name in member.hears and beat.text]
        self._places[member.name] = _Place(member, queue)
        self._speakers = None
        self._settle()

    @property
    def between_ticks(self) -> bool:
        """Whether nobody has spoken in the tick under way."""
        return len(self.beats) == self._began

    @property
    def ticks(self) -> int:
        """How many ticks there have been."""
        return self.beats[-1].tick if self.beats else 0

    @property
    def ready(self) -> tuple[str, ...]:
        """Who speaks in this tick and has not yet; nobody once all have ended."""
        return self._in_this_tick[len(self.beats) - self._began :]

    @property
    def _in_this_tick(self) -> tuple[str, ...]:
        if self._speakers is None:
            self._speakers = tuple(name for name, place in self._places.items() if self._speaks(place))
        return self._speakers

    def number(self, name: str) -> int:
        """The number of the step that the next message of somebody ready begins with, or its open one has begun
        with."""
        going_on = self.open(name)
        return going_on.steps[0] if going_on else self._began + self._in_this_tick.index(name)

    def member(self, name: str) -> Member:
        """Somebody who has joined, by name."""
        return self._places[name].member

    def ended(self, name: str) -> bool:
        """Whether somebody has said everything."""
        return self._places[name].ended

    def messages(self, name: str) -> tuple[Message, ...]:
        """What somebody has said so far."""
        return tuple(self._places[name].messages)

    def open(self, name: str) -> Message | None:
        """The message that somebody goes on with; None where it begins a new one."""
        place = self._places[name]
        return place.messages[-1] if place.messages and not place.member.hears and not place.ended else None

    def takes(self, name: str) -> tuple[Heard, ...]:
        """What somebody ready takes from its queue for a new message."""
        place = self._places[name]
        last = len(place.messages) + 1 >= self._at_most
        return tuple(place.queue if self._drains or last else place.queue[:1])

    def whole(self, name: str) -> str:
        """All that somebody has said."""
        return "\n".join(beat.text for beat in self.beats if beat.name == name and beat.text)

    def say(self, text: str, *, finished: bool = True, silent: bool = False) -> None:
        """The first one that is ready says a step. finished: whether its message ends with it. silent: whether there
        was no room for a single word; then, or where an answer to others was cut, there is no going on."""
        name = self.ready[0]
        place, going_on = self._places[name], self.open(name)
        taken = () if going_on else self.takes(name)
        number = len(self.beats)
        if going_on:
            place.messages[-1] = Message(going_on.heard, (*going_on.steps, number))
        else:
            place.messages.append(Message(taken, (number,)))
            del place.queue[: len(taken)]
        source = not place.member.hears
        place.ended = source and finished
        self.cut = self.cut or (not finished and (silent or not source))
        self.beats.append(Beat(self._tick, name, text, len(taken)))
        if not self.ready:
            self._pass_on()

    def _pass_on(self) -> None:
        """The tick is over: steps arrive, and so do ends."""
        said = self.beats[self._began :]
        for place in self._places.values():
            place.queue += [
                Heard(beat.name, beat.text) for beat in said if beat.name in place.member.hears and beat.text
            ]
        self._tick, self._began, self._speakers = self._tick + 1, len(self.beats), None
        self._settle()

    def _settle(self) -> None:
        """Who hears others ends with them. They joined before it, so one walk reaches everybody."""
        for place in self._places.values():
            if place.member.hears and place.messages and not place.queue:
                place.ended = self._all_ended(place.member.hears)

    def _speaks(self, place: _Place) -> bool:
        if place.ended or not self._all_ended(place.member.awaits):
            return False
        if not place.member.hears or self._all_ended(place.member.hears):
            return True
        return bool(place.queue) and len(place.messages) + 1 < self._at_most

    def _all_ended(self, names: tuple[str, ...]) -> bool:
        return all(self._places[name].ended for name in names)
