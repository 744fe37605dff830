"""A team as data: who takes part, which steps it takes, what each reads and says, and where it goes from there.

A workflow is a list of steps and nothing that runs; `team.dialogue` interprets it, `grammar` reads it from YAML. Steps
are taken one after another, or several side by side; those side by side all lead to the same next steps, so that a team
is always at one place. How a message is handed on, whole or step by step, is the workflow's, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..records import Metric

Facts = Literal["all", "share", "none"]
"""What a role knows of the task's facts: everything, the share that is its alone, or nothing."""

Parse = Literal["text", "answer", "list", "verdict", "code", "json"]
"""What is taken from a message for the steps that read it; see `team.parsing`."""

INPUT = re.compile(r"\{([A-Za-z_]\w*)(?:\.(all|item))?\}")
"""An input of a template: the latest that was written under a name, all of it, or the next item of a list."""
GIVEN = ("question", "facts")  # the inputs that no step writes
QUESTION, TASK = "question", "task"  # what facts are looked up in: the question's own, or those of all
SHARED = "shared"  # the adapter of all who have none of their own

CONFIRMING = ("agreed", "accepted", "passed")  # conditions under which a talk that ends has ended in agreement
Transfer = Literal["serial", "stream"]
"""When others read a message: when it is whole, or each step of it as soon as it is said."""

Kind = Literal["answered", "agreed", "accepted", "passed", "says", "rounds", "more"]


@dataclass(frozen=True, slots=True)
class Role:
    """One agent. system: its prompt, with {name} and {partner} for its own and everybody else's names. adapter: the
    weights that it speaks with. formats: whether the format pool of iteration 0 is for its messages. voice: the name
    that others know it by, which several may share; its own unless given. max_tokens: of a message; None: the
    recipe's. spoken_by: the speaker of the machine file whose model says what it says, without an adapter; nobody:
    ours."""

    name: str
    system: str
    facts: Facts = "all"
    adapter: str = SHARED
    formats: bool = False
    voice: str = ""
    max_tokens: int | None = None
    spoken_by: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that may hold after a step.

    answered: it stated an answer. agreed: its answer is the one last stated, by a `partner` or `anyone` (of). accepted,
    passed: its verdict, or its tests, say so. says: its message holds a text (of). rounds: a step (of) was taken fewer
    than `below` times. more: a list (of) has items that this step was not taken for yet.
    """

    kind: Kind
    of: str = ""
    below: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    """Where to go from a step. to: the next steps, side by side; none ends the talk. when: all that must hold for it,
    nothing if it is always open."""

    to: tuple[str, ...] = ()
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A moment of a workflow.

    speaker: the name of a role, or of a tool. reads: the template of what it is told; None: the conversation so far, as
    its speaker sees it. parse: what is taken from the message. at_most: items of a list, or facts that a tool finds.
    schema: of a JSON message. writes: the name that others read it by. ways: the first that is open is taken. index:
    where facts are looked up, QUESTION, TASK or a folder.
    """

    name: str
    speaker: str
    reads: str | None = None
    parse: Parse = "text"
    at_most: int = 8
    schema: Mapping[str, Any] | None = None
    writes: str = ""
    ways: tuple[Way, ...] = (Way(),)
    tool: bool = False
    index: str = QUESTION

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """The names that its template reads, without those given, each with `all`, `item` or nothing."""
        return [(name, part) for name, part in INPUT.findall(self.reads or "") if name not in GIVEN]


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a message falls into steps of reasoning (here and in `team.stream` a step is such a part of a message).

    steps: of a message; None: as many as its speaker likes. border: what ends one, a `marker` in the text or the end of
    a `sentence`. merge: what an agent takes of the steps that wait for it: `drain` all of them, `per_step` the oldest.
    at_most: steps that one agent hands on, of which the last is all that is left, said or heard. step_tokens: after so
    many tokens a step is handed on as it stands; None: there is no such limit. passed: of a message that reads
    nobody's, the steps that others get, from the first to before the last of these numbers; for probes.
    """

    steps: int | None = None
    border: Literal["marker", "sentence"] = "marker"
    marker: str = "END_STEP"
    merge: Literal["drain", "per_step"] = "drain"
    at_most: int = 16
    step_tokens: int | None = None
    passed: tuple[int, int] | None = None

    @property
    def most(self) -> int:
        """Steps that a message of its own accord has at most."""
        return self.steps or self.at_most

    @property
    def cuts(self) -> bool:
        """Whether the last of these ends with its border, as its speaker was told; else it is all that is left."""
        return self.steps is not None and self.border == "marker"


@dataclass(frozen=True, slots=True)
class Workflow:
    """A team. start: the first steps, side by side. answer: the steps whose answers count; the last one stated is the
    team's. max_steps: of one dialogue. metric: how the task scores answers, which decides when two are the same.
    auctioned: no way leads from step to step, and who speaks next is decided by auction (see `team.environment`).
    sharers: the voices that hold a share of the facts, where the order of the roles does not tell which.
    transfer: when others read a message. stream: how messages fall into steps; None where nobody is told of any."""

    name: str
    roles: tuple[Role, ...]
    steps: tuple[Step, ...]
    start: tuple[str, ...]
    answer: tuple[str, ...]
    max_steps: int
    metric: Metric = "f1"
    auctioned: bool = False
    sharers: tuple[str, ...] = ()
    transfer: Transfer = "serial"
    stream: Streaming | None = None

    @property
    def streams(self) -> bool:
        """Whether a step of a message is handed on as soon as it is said."""
        return self.transfer == "stream"

    @property
    def most_turns(self) -> int:
        """Turns that a dialogue has at most."""
        return self.max_steps * (self.stream.at_most if self.streams and self.stream else 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody who has turns, by `Turn.speaker`: the roles, then the tools."""
        tools = dict.fromkeys(step.speaker for step in self.steps if step.tool)
        return (*(role.name for role in self.roles), *tools)

    @property
    def voices(self) -> tuple[str, ...]:
        """The name that each of `names` is known by in the talk."""
        return (*(role.voice or role.name for role in self.roles), *self.names[len(self.roles) :])

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that the roles speak with, each once, in the order of the roles; one where none has any."""
        return tuple(dict.fromkeys(role.adapter for role in self.roles if not role.spoken_by)) or (SHARED,)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The speakers of the machine file that speak for roles, each once."""
        return tuple(dict.fromkeys(role.spoken_by for role in self.roles if role.spoken_by))

    @property
    def indexes(self) -> tuple[str, ...]:
        """Where facts are looked up, each place once."""
        return tuple(dict.fromkeys(step.index for step in self.steps if step.speaker == "retrieve" and step.tool))

    @property
    def holders(self) -> tuple[str, ...]:
        """Who holds a share of the facts each, by voice, in the order of the shares; none where nothing is shared."""
        sharing = (role.voice or role.name for role in self.roles if role.facts == "share")
        return self.sharers or tuple(dict.fromkeys(sharing))

    @property
    def views(self) -> int:
        """How many things are read in a dialogue: the conversation by each role in it, and every template."""
        talking = {step.speaker for step in self.steps if step.reads is None}
        return len(talking) + sum(step.reads is not None and not step.tool for step in self.steps)

    @property
    def agrees(self) -> bool:
        """Whether a dialogue can end in agreement: a way to the end asks for it."""
        ends = (way for step in self.steps for way in step.ways if not way.to)
        return any(condition.kind in CONFIRMING for way in ends for condition in way.when)

    @property
    def talks(self) -> bool:
        """Whether every step reads the conversation."""
        return all(step.reads is None for step in self.steps)

    def step(self, name: str) -> Step:
        """The step of that name. Raises KeyError for none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def speaker(self, step: Step) -> int:
        """The number of who takes a step, as in `Turn.speaker`."""
        return self.names.index(step.speaker)

    def share(self, speaker: int) -> int:
        """Which share of the facts is this role's, of those that are held by somebody alone."""
        return self.holders.index(self.voices[speaker])


def told(workflow: Workflow, system: str | tuple[str, ...] | Mapping[str, str] | None) -> Workflow:
    """The workflow with other system prompts: one for every role, one for each, or for some by their names; None leaves
    it as it is."""
    if system is None:
        return workflow
    if isinstance(system, Mapping):
        system = tuple(system.get(role.name, role.system) for role in workflow.roles)
    systems = (system,) * len(workflow.roles) if isinstance(system, str) else system
    roles = (replace(role, system=text) for role, text in zip(workflow.roles, systems, strict=True))
    return replace(workflow, roles=tuple(roles))


def speaking_with(workflow: Workflow, adapter: str) -> Workflow:
    """The workflow whose roles all speak with one adapter."""
    return replace(workflow, roles=tuple(replace(role, adapter=adapter) for role in workflow.roles))


def spoken(workflow: Workflow, by: str) -> Workflow:
    """The workflow whose roles are all spoken by one speaker of the machine file."""
    return replace(workflow, roles=tuple(replace(role, spoken_by=by) for role in workflow.roles))


def renamed(workflow: Workflow, names: tuple[str, ...]) -> Workflow:
    """The workflow with other names for its roles, in their order."""
    new = {role.name: name for role, name in zip(workflow.roles, names, strict=True)}
    roles = tuple(replace(role, name=new[role.name]) for role in workflow.roles)
    steps = tuple(step if step.tool else replace(step, speaker=new[step.speaker]) for step in workflow.steps)
    return replace(workflow, roles=roles, steps=steps)


def stopping(workflow: Workflow, by: str | None) -> Workflow:
    """The workflow in which agreement with a `partner`, or with `anyone`, ends the talk; None leaves it as it is."""
    if by is None:
        return workflow

    def changed(way: Way) -> Way:
        return replace(way, when=tuple(replace(c, of=by) if c.kind == "agreed" else c for c in way.when))

    return replace(workflow, steps=tuple(replace(s, ways=tuple(map(changed, s.ways))) for s in workflow.steps))
