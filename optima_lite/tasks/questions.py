"""Dataset rows to Questions, with the information split between the agents."""

from __future__ import annotations

from ..records import Question
from ..settings.recipe import Recipe
from ..settings.task import SPLITS, TaskSettings
from ..settings.workflow import TASK
from . import benchmarks, documents, jsonl, world
from .jsonl import WHOLE, Part

ALL = 10**9  # more questions than any file holds


def questions(
    settings: TaskSettings, split: str, count: int, *, seed: int, start: int = 0, part: Part = WHOLE
) -> list[Question]:
    """`count` questions of a split (train, validation, held_out), from number `start` on.

    A file's rows are taken in order and start again when they run out, but a call never gives a question twice: where
    the file has fewer than `count`, all of them come. part: of a file's rows, the only ones to be taken; the bundled
    world and a plugin are endless and have no parts. Raises DataError for a file that cannot be used, ConfigError for a
    mistake in a plugin.
    """
    if settings.name == "world":
        return world.questions(split, count, seed=seed, start=start)
    if settings.name == "plugin":
        assert settings.code is not None, "a recipe gets its plugin when it is loaded"
        return settings.code.questions(split, count, seed=seed, start=start)
    if settings.name != "jsonl":
        return benchmarks.questions(settings, split, count, start=start, part=part)
    return jsonl.take(jsonl.load(settings, split=split), count, start=start, part=part)


def facts(settings: TaskSettings, index: str) -> tuple[str, ...]:
    """The facts that a team looks up in, apart from those of a question: of all questions of the task (TASK), whichever
    split they are in, or in a folder. None twice. Raises DataError for a file or folder that cannot be used."""
    if index != TASK:
        return documents.facts_in(index)
    asked = (question for split in SPLITS for question in questions(settings, split, ALL, seed=0))
    return tuple(dict.fromkeys(fact for question in asked for hand in question.contexts for fact in hand))


def training_questions(recipe: Recipe, iteration: int, *, preference: bool) -> list[Question]:
    """What an imitation or a preference step of an iteration asks; the two never ask the same.

    In the endless world, and in a plugin, they take turns. The rows of a file are divided between them once, in the
    proportion of what they ask, so that they stay apart when a step has asked all of its own and begins again. Raises
    as `questions`.
    """
    imitated, preferred = recipe.training.questions, 0 if recipe.schedule == "isft" else recipe.dpo.questions
    both = imitated + preferred
    before, count = (imitated, preferred) if preference else (0, imitated)
    endless = recipe.task.endless
    return questions(
        recipe.task,
        "train",
        count,
        seed=recipe.seed,
        start=iteration * both + before if endless else iteration * count,
        part=(before / both, (before + count) / both),
    )
