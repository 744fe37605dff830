"""The steps of the method by the recipe's schedule, and the phases that they will have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...learn.sft import planned_steps
from ...runs.progress import PhaseStarted
from ...settings.recipe import Recipe
from ...stage.elsewhere import TEACHING
from ...stage.evaluate import decodings, parts_of
from ...team.talks import team_of


def steps(recipe: Recipe, iteration: int) -> Sequence[str]:
    """The training steps of an iteration by the recipe's schedule."""
    if recipe.schedule == "isft" or (recipe.schedule == "idpo" and iteration == 0):
        return ("imitate",)
    return ("prefer",) if recipe.schedule == "idpo" else ("imitate", "prefer")


def improvement(recipe: Recipe, *, roles: int) -> Iterator[PhaseStarted]:
    """The phases in which so many agents are trained and judged."""
    held_out, validation = recipe.evaluation.questions, recipe.evaluation.validation_questions
    yield PhaseStarted("validate untrained", None, validation, "questions", parts_of(roles))
    for iteration in range(recipe.training.iterations):
        for step in steps(recipe, iteration):
            yield from imitation(recipe, iteration) if step == "imitate" else _preference(recipe, iteration)
            yield PhaseStarted(f"validate {step}", iteration, validation, "questions", parts_of(roles))
        last = iteration == recipe.training.iterations - 1
        for decoding in decodings(recipe, iteration, last=last):
            yield PhaseStarted(f"evaluate {decoding}", iteration, held_out, "questions", parts_of(roles))


def imitation(recipe: Recipe, iteration: int) -> Iterator[PhaseStarted]:
    """The phases of an imitation step."""
    questions, training = recipe.training.questions, recipe.training
    rows = max(1, round(questions * recipe.selection.keep_fraction)) * team_of(recipe).views
    yield from dialogues(recipe, iteration)
    yield PhaseStarted("train", iteration, planned_steps(rows, training), "steps", ("train",))


def dialogues(recipe: Recipe, iteration: int) -> Iterator[PhaseStarted]:
    """The phases in which the training questions are talked about, and the dialogues ranked."""
    questions, shown = recipe.training.questions, recipe.teacher.teaches and iteration == 0
    alone = shown and not recipe.teacher.own
    count = questions * (1 if alone else recipe.sampling.rollouts)
    if shown and recipe.teacher.speaker is not None:
        yield PhaseStarted(
            "teach", iteration, min(recipe.teacher.at_most or questions, questions), "dialogues", TEACHING
        )
    if not alone:
        yield PhaseStarted("generate", iteration, count, "dialogues", ("sample siblings",))
    yield PhaseStarted("rank", iteration, count, "dialogues", ("read siblings",))


def _preference(recipe: Recipe, iteration: int) -> Iterator[PhaseStarted]:
    questions, search = recipe.dpo.questions, recipe.search
    dialogues = questions * search.searches * search.rollouts
    yield PhaseStarted("search", iteration, dialogues, "dialogues", ("search",))
    yield PhaseStarted("prefer", iteration, planned_steps(questions, recipe.dpo), "steps", ("train",))
