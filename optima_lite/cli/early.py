"""Mistakes that can be told, and first lines that can be said, before the heavy libraries are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from ..settings.config import LoadedRecipe

_QUICK = {".jsonl", ".json"}  # files of rows that are read without a library


def say(console: Console, text: str, *, quiet: bool = False) -> None:
    """One line at once, since what follows is silent for some seconds."""
    if not quiet:
        console.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)


def refuse_early(loaded: LoadedRecipe, folder: Path) -> None:
    """Raises the RunError of a folder with another run, and the DataError of a file with a row that cannot be read."""
    from ..runs.manifest import would_resume
    from ..settings.task import SPLITS
    from ..tasks.jsonl import file_of
    from ..tasks.questions import questions

    would_resume(folder, loaded.recipe.to_dict())
    task = loaded.recipe.task
    for split in SPLITS if task.path is not None else ():
        if file_of(task, split).suffix in _QUICK:
            questions(task, split, 1, seed=0)
