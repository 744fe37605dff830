"""A workflow for people: a table in the terminal, or a flow chart as Mermaid text for a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from ..settings.workflow import QUESTION, Condition, Step, Streaming, Way, Workflow


@dataclass(frozen=True)
class TeamView:
    """A workflow for `rich`: a step a row, with who takes it, what it reads, and where it goes."""

    workflow: Workflow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        team = self.workflow
        steps = f"{team.max_steps} step{'s' * (team.max_steps > 1)} at most"
        yield Text(f"team {team.name}: {steps}, begins with {_beside(team.start)}; {' or '.join(team.answer)} answers")
        if team.stream:
            yield Text(f"{_parted(team.stream)}; handed on {'as they are said' if team.streams else 'all at once'}")
        table = Table("step", "who", "reads", "writes", "goes to", box=None, padding=(0, 2, 0, 0))
        for step in team.steps:
            ways = Text("\n".join(f"{_when(way)}→ {_beside(way.to) or 'end'}" for way in step.ways))
            table.add_row(Text(step.name, "bold"), _who(step, team), _read(step, team), _written(step), ways)
        yield table


def _parted(how: Streaming) -> str:
    count = f"of {how.steps} steps" if how.steps else "of as many steps as their speakers like"
    border = "each sentence is one" if how.border == "sentence" else f"{how.marker} ends one"
    return f"messages {count}, {border}"


def mermaid(workflow: Workflow) -> str:
    """The flow chart of a workflow in Mermaid's language, a line a step and a line a way."""
    lines = ["flowchart TD", '  start_(("start"))', '  end_(("end"))']
    for step in workflow.steps:
        shape = ("[[", "]]") if step.tool else ("[", "]")
        lines.append(f'  {_node(step.name)}{shape[0]}"{_quoted(step.name)}<br/>{_quoted(step.speaker)}"{shape[1]}')
    lines += [f"  start_ --> {_node(name)}" for name in workflow.start]
    for step in workflow.steps:
        for way in step.ways:
            label = _when(way).strip()
            arrow = f'-->|"{_quoted(label)}"|' if label else "-->"
            lines += [f"  {_node(step.name)} {arrow} {_node(name)}" for name in way.to]
            lines += [f"  {_node(step.name)} {arrow} end_"] if not way.to else []
    return "\n".join(lines) + "\n"


def _node(name: str) -> str:
    return f"step_{name}"  # `end` and the like are words of the language


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _beside(names: tuple[str, ...]) -> str:
    return " + ".join(names)


def _who(step: Step, workflow: Workflow) -> str:
    if step.tool:
        return f"tool {step.speaker}" if step.index == QUESTION else f"tool {step.speaker} in {step.index}"
    role = next(role for role in workflow.roles if role.name == step.speaker)
    known = {"all": [], "share": ["a share of the facts"], "none": ["no facts"]}[role.facts]
    own = [f"adapter {role.adapter}"] if len(workflow.adapters) > 1 and not role.spoken_by else []
    own += [f"spoken by {role.spoken_by}"] if role.spoken_by else []
    return f"{role.name} ({', '.join(remarks)})" if (remarks := [*known, *own]) else role.name


def _read(step: Step, workflow: Workflow) -> str:
    if step.reads is None:
        return "the conversation"
    knows = not step.tool and "{facts}" in step.reads
    names = [f"{name}.{part}" if part else name for name, part in step.inputs]
    given = [name for name, there in (("question", "{question}" in step.reads), ("facts", knows)) if there]
    return ", ".join(dict.fromkeys([*given, *names]))


def _written(step: Step) -> str:
    kind = "" if step.parse == "text" else f" ({step.parse})"
    return step.writes + kind if kind or step.writes != step.name else ""


def _when(way: Way) -> str:
    return " and ".join(map(_condition, way.when)) + " " * bool(way.when)


def _condition(condition: Condition) -> str:
    match condition.kind:
        case "agreed":
            return f"agreed with {condition.of}"
        case "says":
            return f"says {condition.of}"
        case "rounds":
            return f"rounds of {condition.of} < {condition.below}"
        case "more":
            return f"more {condition.of}"
        case kind:
            return kind
