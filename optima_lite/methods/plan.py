"""The phases that a run of a recipe will have, in order, before any of them begins; what the time left is told from."""

from __future__ import annotations

from collections.abc import Iterator

from ..learn.sft import planned_steps
from ..runs.progress import PhaseStarted
from ..settings.recipe import Recipe
from ..stage.evaluate import decodings, parts_of
from ..team.talks import team_of
from .market import plan as market
from .optima import plan as optima
from .prompts import plan as prompts


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
        case "reinforce":
            yield from _reinforcement(recipe, roles=roles)
        case "market":
            yield from market.improvement(recipe, roles=roles)
        case "prompts":
            yield from prompts.improvement(recipe, roles=roles)


def _reinforcement(recipe: Recipe, *, roles: int) -> Iterator[PhaseStarted]:
    """Before the first training it is not known how many episodes tell anything: all are reckoned with."""
    held_out, validation = recipe.evaluation.questions, recipe.evaluation.validation_questions
    episodes = recipe.training.questions * recipe.sampling.rollouts * (team_of(recipe).views if roles > 1 else 1)
    yield PhaseStarted("validate untrained", None, validation, "questions", parts_of(roles))
    for iteration in range(recipe.training.iterations):
        if iteration < recipe.reinforce.imitations:
            yield from optima.imitation(recipe, iteration)
        else:
            yield from optima.dialogues(recipe, iteration)
            count = recipe.training.questions * recipe.sampling.rollouts
            yield PhaseStarted("pay", iteration, count, "rewards", ("pay",))
            steps = planned_steps(episodes, recipe.reinforce)
            yield PhaseStarted("reinforce", iteration, steps, "steps", ("train",))
        step = "imitate" if iteration < recipe.reinforce.imitations else "reinforce"
        yield PhaseStarted(f"validate {step}", iteration, validation, "questions", parts_of(roles))
        for decoding in decodings(recipe, iteration, last=iteration == recipe.training.iterations - 1):
            yield PhaseStarted(f"evaluate {decoding}", iteration, held_out, "questions", parts_of(roles))
