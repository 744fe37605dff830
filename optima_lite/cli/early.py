"""Mistakes that can be told, and first lines that can be said, before the heavy libraries are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from ..settings.config import LoadedRecipe
    from ..settings.machine import Machine

_QUICK = {".jsonl", ".json"}  # files of rows that are read without a library


def say(console: Console, text: str, *, quiet: bool = False) -> None:
    """One line at once, since what follows is silent for some seconds."""
    if not quiet:
        console.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)


def refuse_early(loaded: LoadedRecipe, folder: Path, machine: Machine) -> None:
    """Raises the RunError of a folder with another run and of a start that is none, and the DataError of a file with a
    row that cannot be read."""
    from ..runs.folder import STARTED
    from ..runs.manifest import would_resume
    from ..settings.task import SPLITS
    from ..stage.start import source
    from ..tasks.jsonl import file_of
    from ..tasks.questions import questions

    would_resume(folder, loaded.recipe.to_dict())
    if loaded.recipe.start is not None and not (folder / STARTED).is_dir():
        source(loaded.recipe, machine=machine)
    task = loaded.recipe.task
    for split in SPLITS if task.path is not None else ():
        if file_of(task, split).suffix in _QUICK:
            questions(task, split, 1, seed=0)
