"""The talks of the paper under the names and limits of a recipe: the shipped teams exchange, debate2, debate3, solo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..records import Metric
from ..settings.agents import Agent
from ..settings.recipe import Recipe
from ..settings.teams import shipped, workflow
from ..settings.workflow import Workflow, renamed, stopping
from .population import population
from .prompts import marked


def team_of(recipe: Recipe) -> Workflow:
    """Who takes part and what they do, by the recipe's `team`, else by its `protocol`; in a market its founders."""
    metric, protocol = recipe.task.metric, recipe.protocol
    if recipe.method == "market":
        return population(founders_of(recipe), recipe.market, metric=metric)
    if recipe.team is not None:
        return marked(workflow(recipe.team), metric)
    talk = {"exchange": exchange, "debate": debate}[protocol.name]
    return stopping(talk(protocol.roles, protocol.max_turns, metric=metric), protocol.stop)


def founders_of(recipe: Recipe) -> tuple[Agent, ...]:
    """The agents that a recipe's market begins with; who has no prompt of its own has the recipe's."""
    stated = recipe.prompts.system or ""
    by_name = stated if isinstance(stated, dict) else dict.fromkeys((a.name for a in recipe.market.founders), stated)
    return tuple(replace(agent, prompt=agent.prompt or by_name.get(agent.name, "")) for agent in recipe.market.founders)


def adapters_of(recipe: Recipe) -> tuple[str, ...]:
    """The adapters that a recipe's model holds: those of its roles; in a market all that agents may come to have."""
    return recipe.market.adapters if recipe.method == "market" else team_of(recipe).adapters


def exchange(roles: Sequence[str], max_turns: int, *, metric: Metric = "f1") -> Workflow:
    """Information exchange (paper section 3): each agent holds a part of the facts; the talk ends in agreement.

    metric: how the task scores answers; it decides what counts as the same answer.
    """
    return _talk("exchange", "exchange", roles, max_turns, metric)


def debate(roles: Sequence[str], max_turns: int, *, metric: Metric = "f1") -> Workflow:
    """Debate (paper section 3): everyone sees everything; the talk ends when an answer is stated again, by anyone.

    Of two roles the first solves and the second criticises, mostly without an answer of its own, so the solver's
    confirmation ends the talk; three (paper, appendix) solve together. metric: as in `exchange`.
    """
    return _talk("debate", f"debate{len(roles)}", roles, max_turns, metric)


def solo(*, metric: Metric = "f1") -> Workflow:
    """One agent with all the facts says everything in a single message. metric: as in `exchange`."""
    return _talk("solo", "solo", ("Solo",), 1, metric)


def _talk(name: str, team: str, roles: Sequence[str], max_turns: int, metric: Metric) -> Workflow:
    talk = replace(renamed(shipped(team), tuple(roles)), name=name, max_steps=max_turns)
    return marked(talk, metric)
