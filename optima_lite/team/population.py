"""A population as a workflow: a step for each agent, and no way from one to the next, since auctions decide that."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Metric
from ..settings.agents import Agent
from ..settings.market import MarketSettings
from ..settings.workflow import Role, Step, Workflow
from .prompts import marked

NAME = "market"


def population(agents: Sequence[Agent], rules: MarketSettings, *, metric: Metric) -> Workflow:
    """The team that these agents are. metric: how the task scores answers."""
    roles = tuple(
        Role(agent.name, agent.system, agent.facts, agent.adapter, voice=agent.role, max_tokens=agent.max_tokens)
        for agent in agents
    )
    tools = tuple(Step(name, name, "{said}", tool=True) for name in dict.fromkeys(a.tool for a in agents if a.tool))
    steps = (*(Step(agent.name, agent.name) for agent in agents), *tools)
    answer = tuple(agent.name for agent in agents if agent.terminal)
    most = rules.steps * (2 if tools else 1)
    sharers = tuple(dict.fromkeys(agent.role for agent in rules.founders if agent.facts == "share"))
    return marked(Workflow(NAME, roles, steps, (), answer, most, auctioned=True, sharers=sharers), metric)
