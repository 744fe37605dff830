"""The questions that nobody may learn from: those that a run is judged by, in training and at the end."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Question
from ..settings.recipe import Recipe
from . import world
from .questions import ALL, questions

JUDGING = ("validation", "held_out")


class KeptApart:
    """The validation and held-out questions of a recipe's task: all of a file's; of a plugin's those that the recipe
    asks. Raises DataError for a file that cannot be used."""

    def __init__(self, recipe: Recipe) -> None:
        self._world = recipe.task.name == "world"
        self._facts: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for split, question in () if self._world else _judging(recipe):
            self._facts.setdefault(_folded(question.text), []).append((split, _facts(question)))

    def split_of(self, question: Question) -> str | None:
        """The split that a question is kept apart in; None for one that may be learnt from.

        It is the same question as one there when the texts are the same, and one has all the facts of the other: often
        the facts that are not needed have been left out. In the bundled world it belongs where any of its facts does.
        """
        if self._world:
            facts = (fact for hand in question.contexts for fact in hand)
            return next((split for fact in facts if (split := _split_of(fact)) in JUDGING), None)
        own = _facts(question)
        alike = self._facts.get(_folded(question.text), [])
        return next((split for split, facts in alike if facts <= own or own <= facts), None)


def _judging(recipe: Recipe) -> Iterator[tuple[str, Question]]:
    asked = {"validation": recipe.evaluation.validation_questions, "held_out": recipe.evaluation.questions}
    for split in JUDGING:
        count = asked[split] if recipe.task.endless else ALL
        yield from ((split, question) for question in questions(recipe.task, split, count, seed=0))


def _split_of(fact: str) -> str | None:
    """Where a fact of the bundled world belongs; None for what is none of its facts."""
    parts = fact.split()
    return world.split_of(world.Fact(*parts)) if len(parts) == len(world.Fact._fields) else None


def _facts(question: Question) -> frozenset[str]:
    return frozenset(_folded(fact) for hand in question.contexts for fact in hand)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
