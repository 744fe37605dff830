"""The phases that a market's iterations will have."""

from __future__ import annotations

from collections.abc import Iterator

from ...runs.progress import PhaseStarted
from ...settings.recipe import Recipe
from ...stage.evaluate import parts_of


def improvement(recipe: Recipe, *, roles: int) -> Iterator[PhaseStarted]:
    """The phases in which a population of several agents trades and is evaluated."""
    for iteration in range(recipe.training.iterations):
        yield PhaseStarted("trade", iteration, recipe.training.questions, "episodes", ("trade",))
        last = iteration == recipe.training.iterations - 1
        for decoding in ("sampled", "greedy") if last else ("sampled",):
            yield PhaseStarted(
                f"evaluate {decoding}", iteration, recipe.evaluation.questions, "questions", parts_of(roles)
            )
