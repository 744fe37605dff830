"""The phases of a prompt search, before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from ...runs.progress import PhaseStarted
from ...settings.recipe import Recipe
from ...stage.evaluate import parts_of

PARTS = ("sample siblings", "read siblings")  # of an evaluation's dialogues


def improvement(recipe: Recipe, *, roles: int) -> Iterator[PhaseStarted]:
    """What so many agents go through. How many prompts there are shows on the way: a guess that all are evaluated."""
    how = recipe.prompt_search
    each = how.questions * how.repeats
    yield PhaseStarted("own prompts", 0, each, "dialogues", PARTS)
    yield PhaseStarted("search", 0, (how.evaluations - 1) * each, "dialogues", PARTS)
    for name in ("own", "chosen"):
        yield PhaseStarted(f"confirm {name}", 0, how.confirmation_questions, "questions", parts_of(roles))
    for decoding in ("sampled", "greedy"):
        yield PhaseStarted(f"evaluate {decoding}", 0, recipe.evaluation.questions, "questions", parts_of(roles))
