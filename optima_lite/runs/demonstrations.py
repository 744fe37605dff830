"""A file of demonstrations: rows in a run's own layout, one dialogue each that the team has not said, with its origin.

`optima-lite import` writes such a file, and iteration 0 of a run reads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..records import Origin, Rollouts
from ..settings.recipe import Recipe
from .disk import reading, write_whole
from .rows import read_rows, to_lines

_HINT = "optima-lite import makes such a file (docs/teacher.md)"


def demonstrations_of(recipe: Recipe) -> Path | None:
    """The file of demonstrations that a recipe names; None for none."""
    stated = recipe.teacher.demonstrations
    return None if stated is None else Path(os.path.expanduser(stated))


def read_demonstrations(path: Path) -> list[Rollouts]:
    """The rows of a file. Raises DataError where there is none, it has no rows, or a row holds something else."""
    if not path.is_file():
        raise DataError("no such file of demonstrations", where=path, hint=_HINT)
    rows, lines = read_rows(path, Rollouts)
    if not lines:
        raise DataError("holds no demonstration", where=path, hint=_HINT)
    if len(rows) < lines:
        raise DataError(f"line {len(rows) + 1} is damaged", where=path, hint=_HINT)
    found = list(rows)
    for line, row in enumerate(found, start=1):
        if len(row.dialogues) != 1 or row.dialogues[0].taught is None:
            raise DataError(f"line {line} is no demonstration: it does not say where it comes from", where=path)
    return found


def write_demonstrations(path: Path, rows: Sequence[Rollouts]) -> None:
    """Write a file of demonstrations, whole or not at all. Raises RunError where it cannot be written."""
    write_whole(path, to_lines(rows))


def origin_of(row: Rollouts) -> Origin:
    """Where a demonstration comes from."""
    origin = row.dialogues[0].taught
    assert origin is not None
    return origin


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises RunError if the disk refuses, DataError without a file."""
    try:
        with reading(path), path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
