"""The grammar of `team:`: plain values out of YAML to a Workflow, with every mistake at the line where it stands.

    roles:
      Writer: {system: "You are {name}. Answer as <A>answer</A>."}
      Critic: {system: "You are {name}. Say ACCEPT, or REVISE and why."}
    steps:
      write: {speaker: Writer, then: judge}
      judge:
        speaker: Critic
        parse: verdict
        then: {accepted: end, otherwise: write}
    answer: write
    max_steps: 6

What a step is told is the conversation, or with `reads` a template with the inputs {question}, {facts} and {NAME}, the
latest that a step wrote; {NAME.all} is all of it, {NAME.item} the next item of a list. `flow` then looks at the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import flow, schemas
from .layers import Mistake, either, near_names, reason
from .workflow import (
    GIVEN,
    INPUT,
    QUESTION,
    SHARED,
    Condition,
    Facts,
    Parse,
    Role,
    Step,
    Streaming,
    Transfer,
    Way,
    Workflow,
)

END = "end"
NAME = re.compile(r"[A-Za-z_]\w*")
FOLDER = re.compile(r"[A-Za-z0-9_-]+")

_REASONS = {
    "too_short": "must hold at least one",
    "model_type": "must be a block of keys",
    "string_pattern_mismatch": "must be made of letters, digits, _ and -",
}

At = Callable[[tuple[str, ...]], str]
"""The keys down to a value -> the file and line where it is stated."""

_CONDITIONS = {  # what stands before the colon -> its parts
    "answered": re.compile(r"answered"),
    "agreed": re.compile(r"agreed with (?P<of>partner|anyone)"),
    "accepted": re.compile(r"accepted"),
    "passed": re.compile(r"passed"),
    "says": re.compile(r"says (?P<of>\S.*)"),
    "rounds": re.compile(r"rounds(?: of (?P<of>\w+))? < (?P<below>[1-9][0-9]*)"),
    "more": re.compile(r"more (?P<of>\w+)"),
}
_FORMS = (
    "answered", "agreed with partner", "agreed with anyone", "accepted", "passed", "says TEXT", "rounds < NUMBER",
    "rounds of STEP < NUMBER", "more NAME", "otherwise",
)  # fmt: skip

Text = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Text], Field(min_length=1)] | Text


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _RoleShape(_Shape):
    system: Text
    facts: Facts = "all"
    formats: bool = False


class _StepShape(_Shape):
    speaker: Text | None = None
    tool: Literal["retrieve", "run_tests", "plugin"] | None = None
    reads: Text = "conversation"
    parse: Parse = "text"
    at_most: Annotated[int, Field(ge=1)] | None = None
    index: Text | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    writes: Text | None = None
    then: dict[str, Names] | Names


class _StreamShape(_Shape):
    steps: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    border: Literal["marker", "sentence"] = "marker"
    marker: Annotated[str, Field(min_length=1, pattern=r"\S")] = "END_STEP"
    merge: Literal["drain", "per_step"] = "drain"
    at_most: Annotated[int, Field(ge=1)] = 16
    step_tokens: Annotated[int, Field(ge=1)] | None = None


class _TeamShape(_Shape):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "team"
    adapters: Literal["shared", "separate"] | dict[str, Text] = "shared"
    spoken_by: Text | dict[str, Text] = {}
    roles: dict[str, _RoleShape] = Field(min_length=1)
    steps: dict[str, _StepShape] = Field(min_length=1)
    start: Names | None = None
    answer: Names
    max_steps: Annotated[int, Field(ge=1)] | None = None
    transfer: Transfer = "serial"
    stream: _StreamShape | None = None


def read(value: Any, at: At, mistakes: list[Mistake], *, above: tuple[str, ...] = ()) -> Workflow | None:
    """The workflow that plain values mean; None, and what is wrong added to `mistakes`, if they mean none.

    at: where each key is stated; above: the keys over the team's own.
    """
    found = _Reading(at, above)
    workflow = found.team(value)
    if workflow is not None and not found.mistakes:
        for path, what in flow.problems(workflow, stated=frozenset(value)):
            found.wrong(path, what)
    mistakes += found.mistakes
    return None if found.mistakes else workflow


class _Reading:
    """Reads one team and keeps its mistakes."""

    def __init__(self, at: At, above: tuple[str, ...]) -> None:
        self._at, self._above = at, above
        self.mistakes: list[Mistake] = []

    def wrong(self, path: tuple[str, ...], what: str) -> None:
        """Keeps a mistake, at the line of its key or of the nearest one above it."""
        whole = (*self._above, *path)
        places = (self._at(whole[:k]) for k in range(len(whole), 0, -1))
        top = self._at(())
        origin = next((place for place in places if place != top), top)
        self.mistakes.append(Mistake(origin, ".".join(whole), what))

    def team(self, value: Any) -> Workflow | None:
        """The workflow, as far as its values have the right shape and its names are known."""
        if not isinstance(value, Mapping):
            self.wrong((), "must be the name of a team, or hold roles and steps")
            return None
        try:
            shape = _TeamShape.model_validate(value)
        except ValidationError as error:
            self._shapes(error)
            return None
        spoken_by = self._spoken_by(shape)
        adapters = self._adapters(shape, spoken_by)
        roles = tuple(
            Role(one, role.system, role.facts, adapters[one], role.formats, spoken_by=spoken_by.get(one, ""))
            for one, role in shape.roles.items()
        )
        steps = tuple(self._step(one, step, shape) for one, step in shape.steps.items())
        start, answer = _names(shape.start or next(iter(shape.steps))), _names(shape.answer)
        self._known(("start",), start, shape.steps, "step")
        self._known(("answer",), answer, [one for one, step in shape.steps.items() if step.speaker], "step of a role")
        self._inputs(steps, roles)
        self._conditions(steps, answer, shape)
        most = shape.max_steps or len(steps)
        return Workflow(
            shape.name, roles, steps, start, answer, most, transfer=shape.transfer, stream=self._stream(shape)
        )

    def _stream(self, shape: _TeamShape) -> Streaming | None:
        """How messages fall into steps, where that is stated or needed."""
        if shape.stream is None and shape.transfer == "serial":
            return None
        told = shape.stream or _StreamShape()
        if told.steps != "auto" and told.steps > told.at_most:
            self.wrong(("stream", "steps"), f"is more than stream.at_most, {told.at_most}")
        stated = told.model_dump() | {"steps": None if told.steps == "auto" else told.steps}
        return Streaming(**stated)

    def _shapes(self, error: ValidationError) -> None:
        reasons: dict[tuple[str, ...], list[str]] = {}
        for detail in error.errors():
            path = tuple(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                deeper: dict[str, type[_Shape]] = {"steps": _StepShape, "roles": _RoleShape, "stream": _StreamShape}
                known = (_TeamShape if len(path) == 1 else deeper[path[0]]).model_fields
                self.wrong(path, f"no such key; {near_names(path[-1], [one.rstrip('_') for one in known])}")
            else:
                depth = {"roles": 3, "steps": 3, "stream": 2}.get(
                    path[0], 1
                )  # below that pydantic names the sides of a union
                text = _REASONS.get(detail["type"]) or reason(detail)
                reasons.setdefault(path[:depth], []).append(text)
        for path, texts in reasons.items():
            if path[-1] in ("then", "start", "answer") and texts != ["is required"]:
                texts = ["must be the name of a step, or a list of them" + " by condition" * (path[-1] == "then")]
            if path[0] == "adapters":
                texts = ["must be shared, separate, or the name of an adapter for each role"]
            if path[0] == "spoken_by":
                texts = ["must be the name of a speaker, or one for each role that is spoken by one"]
            self.wrong(path, either(list(dict.fromkeys(texts))))

    def _known(self, path: tuple[str, ...], names: tuple[str, ...], known: Any, what: str) -> None:
        for name in names:
            if name not in known:
                self.wrong(path, f"there is no {what} {name}; {near_names(name, [*known])}")
        if len(set(names)) < len(names):
            self.wrong(path, "names a step twice")

    def _spoken_by(self, shape: _TeamShape) -> dict[str, str]:
        """The speaker of every role that is spoken by one."""
        stated = shape.spoken_by if isinstance(shape.spoken_by, dict) else dict.fromkeys(shape.roles, shape.spoken_by)
        for role, name in stated.items():
            here = ("spoken_by", role) if isinstance(shape.spoken_by, dict) else ("spoken_by",)
            if role not in shape.roles:
                self.wrong(here, f"there is no role {role}; {near_names(role, [*shape.roles])}")
            if not FOLDER.fullmatch(name):
                self.wrong(here, f"a speaker's name is made of letters, digits, _ and -, not {name!r}")
        if stated and (shape.stream or shape.transfer == "stream"):
            self.wrong(("spoken_by",), "says whole messages, and those of this team fall into steps (stream)")
        return stated

    def _adapters(self, shape: _TeamShape, spoken_by: Mapping[str, str]) -> dict[str, str]:
        """The adapter of every role. Each names a folder where the team has several."""
        if shape.adapters == "shared":
            return dict.fromkeys(shape.roles, SHARED)
        own = [role for role in shape.roles if role not in spoken_by]
        stated = shape.adapters if isinstance(shape.adapters, dict) else {role: role for role in own}
        for role, name in stated.items():
            here = ("adapters", role)
            if role not in shape.roles:
                self.wrong(here, f"there is no role {role}; {near_names(role, [*shape.roles])}")
            elif role in spoken_by:
                self.wrong(here, f"is spoken by {spoken_by[role]}, and has no adapter")
            if not FOLDER.fullmatch(name):
                self.wrong(here, f"an adapter's name is made of letters, digits, _ and -, not {name!r}")
        alike = {name.lower(): name for name in stated.values()}
        for role, name in stated.items():
            if alike[name.lower()] != name:
                self.wrong(("adapters", role), f"{name} and {alike[name.lower()]} differ in case only")
        if left_out := [role for role in own if role not in stated]:
            self.wrong(("adapters",), f"must name the adapter of every role, and leaves out {', '.join(left_out)}")
        return dict.fromkeys(shape.roles, SHARED) | stated

    def _step(self, name: str, shape: _StepShape, team: _TeamShape) -> Step:
        here = ("steps", name)
        if name == END or not NAME.fullmatch(name):
            self.wrong(here, f"a step's name is made of letters, digits and _, and is not `{END}`")
        writes = shape.writes or name
        if writes in GIVEN or not NAME.fullmatch(writes):
            self.wrong((*here, "writes"), f"must be made of letters, digits and _, and not be {' or '.join(GIVEN)}")
        if (shape.speaker is None) == (shape.tool is None):
            self.wrong(here, "needs a speaker or a tool, and not both")
        elif shape.speaker:
            self._known((*here, "speaker"), (shape.speaker,), team.roles, "role")
        self._tool(here, shape)
        if shape.at_most and shape.parse != "list" and shape.tool != "retrieve":
            self.wrong((*here, "at_most"), "is read with parse: list, or by tool: retrieve, only")
        if shape.index and shape.tool != "retrieve":
            self.wrong((*here, "index"), "is read by tool: retrieve only")
        if shape.schema_ is not None and shape.parse != "json":
            self.wrong((*here, "schema"), "is read with parse: json only")
        if shape.schema_ and not schemas.installed():
            self.wrong((*here, "schema"), "needs the library jsonschema: pip install '.[schema]' in the clone")
        if shape.schema_ and (problem := schemas.problem(shape.schema_)):
            self.wrong((*here, "schema"), f"is no JSON schema: {problem}")
        return Step(
            name,
            shape.speaker or shape.tool or "",
            None if shape.reads == "conversation" else shape.reads,
            shape.parse,
            shape.at_most or 8,
            shape.schema_,
            writes,
            self._ways(here, shape, team),
            tool=shape.tool is not None,
            index=shape.index or QUESTION,
        )

    def _tool(self, here: tuple[str, ...], shape: _StepShape) -> None:
        if shape.tool and shape.reads == "conversation":
            self.wrong(here, "a tool needs a template in `reads`: what it is asked")
        if shape.tool and shape.parse != "text":
            self.wrong((*here, "parse"), "is for what a role says; a tool's output is text")

    def _ways(self, here: tuple[str, ...], shape: _StepShape, team: _TeamShape) -> tuple[Way, ...]:
        stated = shape.then if isinstance(shape.then, dict) else {"otherwise": shape.then}
        ways = []
        for text, names in stated.items():
            path = (*here, "then", text) if isinstance(shape.then, dict) else (*here, "then")
            to = _names(names)
            if to == (END,):
                to = ()
            self._known(path, to, team.steps, "step")
            ways.append(Way(to, self._when(path, text, here[-1])))
        always = [k for k, text in enumerate(stated) if text == "otherwise"]
        if always != [len(stated) - 1]:
            self.wrong((*here, "then"), "must end with `otherwise`, for when no condition holds")
        return tuple(ways)

    def _when(self, path: tuple[str, ...], text: str, step: str) -> tuple[Condition, ...]:
        if text == "otherwise":
            return ()
        found = []
        for part in text.split(" and "):
            matches = ((kind, pattern.fullmatch(part.strip())) for kind, pattern in _CONDITIONS.items())
            kind, match = next(((kind, match) for kind, match in matches if match), ("", None))
            if match is None:
                self.wrong(path, f"`{part.strip()}` is no condition; {near_names(part.strip(), _FORMS)}")
                continue
            parts = match.groupdict()
            of = parts.get("of") or (step if kind == "rounds" else "")
            found.append(Condition(kind, of, int(parts.get("below") or 0)))  # type: ignore[arg-type]
        return tuple(found)

    def _inputs(self, steps: tuple[Step, ...], roles: tuple[Role, ...]) -> None:
        written = {step.writes for step in steps}
        ignorant = {role.name for role in roles if role.facts == "none"}
        for step in steps:
            here = ("steps", step.name, "reads")
            for name, part in INPUT.findall(step.reads or ""):
                if name == "facts" and (step.tool or step.speaker in ignorant):
                    self.wrong(here, f"{{facts}}: {step.speaker} knows no facts")
                elif name not in GIVEN and name not in written:
                    self.wrong(here, f"{{{name}}}: no step writes it; {near_names(name, [*GIVEN, *sorted(written)])}")
                elif name in GIVEN and part:
                    self.wrong(here, f"{{{name}.{part}}}: only what steps write has .{part}")
                elif part == "item" and not self._lists(name, steps):
                    self.wrong(here, f"{{{name}.item}}: {name} is no list; give the step that writes it parse: list")

    def _conditions(self, steps: tuple[Step, ...], answer: tuple[str, ...], team: _TeamShape) -> None:
        names = [step.name for step in steps]
        lists = list(dict.fromkeys(step.writes for step in steps if self._lists(step.writes, steps)))
        for step in steps:
            stated = team.steps[step.name].then
            keys = [(key,) for key in stated] if isinstance(stated, dict) else [()]
            for key, condition in ((key, c) for key, way in zip(keys, step.ways, strict=True) for c in way.when):
                here = ("steps", step.name, "then", *key)
                match condition.kind:
                    case "answered" | "agreed" if step.name not in answer:
                        self.wrong(here, f"`{condition.kind}` looks at an answer that does not count; add it to answer")
                    case "accepted" if step.parse != "verdict":
                        self.wrong(here, "`accepted` needs parse: verdict")
                    case "passed" if step.speaker != "run_tests":
                        self.wrong(here, "`passed` needs tool: run_tests")
                    case "rounds":
                        self._known(here, (condition.of,), names, "step")
                    case "more" if condition.of not in lists:
                        self.wrong(here, f"there is no list {condition.of}; {near_names(condition.of, lists)}")

    def _lists(self, name: str, steps: tuple[Step, ...]) -> bool:
        return all(step.parse == "list" for step in steps if step.writes == name)


def _names(stated: list[str] | str) -> tuple[str, ...]:
    return (stated,) if isinstance(stated, str) else tuple(stated)
