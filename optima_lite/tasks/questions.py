"""Dataset rows to Questions, with the information split between the agents."""

from __future__ import annotations

from ..records import Question
from ..settings.config import TaskSettings
from . import benchmarks, jsonl, world


def questions(settings: TaskSettings, split: str, count: int, *, seed: int, start: int = 0) -> list[Question]:
    """`count` questions of a split (train, validation, held_out), from number `start` on.

    A file's rows are taken in order and start again when they run out, but a call never gives a question twice: where
    the file has fewer than `count`, all of them come. Raises DataError for a file that cannot be used.
    """
    if settings.name == "world":
        return world.questions(split, count, seed=seed, start=start)
    if settings.name != "jsonl":
        return benchmarks.questions(settings, split, count, start=start)
    rows = jsonl.load(settings, split=split)
    return jsonl.take(rows, min(count, len(rows)), start=start)
