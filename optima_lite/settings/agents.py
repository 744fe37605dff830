"""The agents of a market as data: who each is, when it wishes to act, and what it owns.

An agent's prompt has two parts: `prompt` is its role and its limits, and never changes; `strategy` is what a child may
be told otherwise than its parent. Agents of one role speak with one voice: whoever reads the talk sees the role's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .layers import near_names, reason
from .workflow import SHARED, Facts

NAME = re.compile(r"[A-Za-z]\w*")
OWN = "own_"  # before the number of an adapter that one agent has to itself
Tool = Literal["retrieve", "run_tests", "plugin"]
Status = Literal["novice", "veteran", "tycoon"]
"""novice: has never bid. veteran: has. tycoon: bids a share of its wealth, under the scheme `holland`."""

ClauseKind = Literal["first", "after", "said", "says", "answered"]


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that may hold of what has been said.

    first: nothing has been. after: the last message was an agent's of a role (of). said: an agent of a role (of) has
    spoken. says: the last message holds a text (of). answered: a message marks an answer. negated: it must not hold.
    """

    kind: ClauseKind
    of: str = ""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Wake:
    """When an agent takes part in an auction: when all of `when` holds and, where there is a question to `ask`, the
    model says yes to it."""

    when: tuple[Clause, ...] = ()
    ask: str = ""


@dataclass(frozen=True, slots=True)
class Agent:
    """One bidder.

    name: its own, never given twice in a run. role: the name it speaks under. facts: what it knows of the task's facts.
    tool: is used on each of its messages. max_tokens: of a message, which is cut there; None: the recipe's. terminal:
    whether its answers count, and end the talk. adapter: the weights that it speaks with. bid: the one it keeps for
    life, None where the scheme has none such. parent: the name of the agent that it is a child of. born: the episode;
    None for a founder.
    """

    name: str
    role: str
    prompt: str = ""
    strategy: str = ""
    wake: Wake = Wake()
    facts: Facts = "all"
    tool: Tool | None = None
    max_tokens: int | None = None
    terminal: bool = False
    adapter: str = SHARED
    wealth: float = 0.0
    status: Status = "novice"
    bid: float | None = None
    parent: str | None = None
    born: int | None = None

    @property
    def system(self) -> str:
        """What it is told before it reads the talk."""
        return " ".join(filter(None, (self.prompt, self.strategy)))


# --- From plain values ----------------------------------------------------------------------------

_CLAUSES = {
    "first": re.compile(r"first"),
    "after": re.compile(r"after (?P<of>\w+)"),
    "said": re.compile(r"said (?P<of>\w+)"),
    "says": re.compile(r"says (?P<of>\S.*)"),
    "answered": re.compile(r"answered"),
}
_FORMS = ("always", "first", "after ROLE", "said ROLE", "says TEXT", "answered", "not ...")

Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Text | None = None
    prompt: Annotated[str, Field(max_length=100_000)] = ""
    strategy: Annotated[str, Field(max_length=100_000)] = ""
    wake: Text = "always"
    ask: Text | None = None
    facts: Facts = "all"
    tool: Tool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    terminal: bool = False
    adapter: Literal["shared", "own"] = "shared"


def founders(stated: Mapping[str, Any], *, wealth: float) -> tuple[Agent, ...]:
    """The agents that a market begins with, in the order in which they are stated.

    stated: for each agent's name what it is. wealth: of each. Raises ValueError with every mistake found.
    """
    wrong: list[str] = []
    shapes = {name: shape for name, value in stated.items() if (shape := _shape(name, value, wrong))}
    roles = list(dict.fromkeys(shape.role or name for name, shape in shapes.items()))
    for role in roles:
        if not NAME.fullmatch(role):
            wrong.append(f"{role}: a role's name is made of letters, digits and _")
    found = []
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        role = shape.role or name
        found.append(
            Agent(
                f"{role}-{number}",
                role,
                shape.prompt,
                shape.strategy,
                Wake(_clauses(name, shape.wake, roles, wrong), shape.ask or ""),
                shape.facts,
                shape.tool,
                shape.max_tokens,
                shape.terminal,
                f"{OWN}{number}" if shape.adapter == "own" else SHARED,
                wealth,
            )
        )
    wrong += _problems(found) if not wrong else []
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(found)


def _shape(name: str, value: Any, wrong: list[str]) -> _Shape | None:
    try:
        return _Shape.model_validate(value)
    except ValidationError as error:
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"][:1])
            text = reason(detail)
            if detail["type"] == "extra_forbidden":
                text = f"no such key; {near_names(key, [*_Shape.model_fields])}"
            wrong.append(f"{'.'.join(filter(None, (name, key)))} {text}")
    return None


def _clauses(name: str, text: str, roles: list[str], wrong: list[str]) -> tuple[Clause, ...]:
    found = []
    for part in () if text.strip() == "always" else text.split(" and "):
        bare = part.strip().removeprefix("not ")
        matches = ((kind, pattern.fullmatch(bare)) for kind, pattern in _CLAUSES.items())
        kind, match = next(((kind, match) for kind, match in matches if match), ("", None))
        if match is None:
            wrong.append(f"{name}.wake: `{part.strip()}` is no condition; {near_names(part.strip(), _FORMS)}")
            continue
        of = match.groupdict().get("of", "")
        if kind in ("after", "said") and of not in roles:
            wrong.append(f"{name}.wake: there is no role {of}; {near_names(of, roles)}")
        found.append(Clause(kind, of, bare != part.strip()))  # type: ignore[arg-type]
    return tuple(found)


def _problems(agents: list[Agent]) -> list[str]:
    wrong = []
    if not agents:
        return ["names no agent; a market needs at least one"]
    if not any(agent.terminal for agent in agents):
        wrong.append("has no agent with terminal: true, so that no answer would ever count")
    kinds = {role: {agent.facts for agent in agents if agent.role == role} for role in roles_of(agents)}
    for role, kind in kinds.items():
        if len(kind) > 1:
            wrong.append(f"agents of the role {role} know different facts; give them one `facts`")
    holders = [role for role, kind in kinds.items() if "share" in kind]
    if len(holders) not in (0, 2):
        wrong.append(f"has {len(holders)} roles with facts: share; the facts of a task come in two shares")
    return wrong


def roles_of(agents: tuple[Agent, ...] | list[Agent]) -> tuple[str, ...]:
    """The roles that agents have, each once, in their order."""
    return tuple(dict.fromkeys(agent.role for agent in agents))
