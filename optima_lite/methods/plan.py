"""The phases that a run of a recipe will have, in order, before any of them begins; what the time left is told from."""

from __future__ import annotations

from collections.abc import Iterator

from ..runs.progress import PhaseStarted
from ..settings.recipe import Recipe
from ..stage.evaluate import parts_of
from .optima import plan as optima


def plan(recipe: Recipe) -> tuple[PhaseStarted, ...]:
    """Every phase of a run. How many steps the first training will take depends on what is selected: a guess."""
    return tuple(_phases(recipe))


def _phases(recipe: Recipe) -> Iterator[PhaseStarted]:
    held_out = recipe.evaluation.questions
    yield PhaseStarted("load", None, 1, "models")
    for decoding in ("sampled", "greedy"):
        for name, agents in (("untrained", 2), ("single_agent", 1)):
            yield PhaseStarted(f"evaluate {name} {decoding}", None, held_out, "questions", parts_of(agents))
    yield from improvement(recipe, roles=2)


def improvement(recipe: Recipe, *, roles: int) -> Iterator[PhaseStarted]:
    """The phases in which so many agents are improved, by the recipe's method."""
    match recipe.method:
        case "optima":
            yield from optima.improvement(recipe, roles=roles)
