"""Where a run begins: with fresh adapters, or with those of an earlier run that its recipe names as `start`.

The earlier run's adapters are copied into the new folder, so that it needs the earlier one no more and a resume begins
where the run did.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import RunError
from ..runs.folder import STARTED, RunFolder
from ..runs.opened import find_run
from ..runs.store import Run
from ..runs.summary import preparation_tokens
from ..settings.machine import Machine
from ..settings.recipe import Recipe


def begin(run: Run, recipe: Recipe, *, machine: Machine, notify: Callable[[str], None]) -> Path | None:
    """The folder of the adapters that the run begins with, in the run's own; None for fresh ones.

    notify: is told where they come from. Raises RunError as `source` does.
    """
    if recipe.start is None:
        return None
    place = run.folder / STARTED
    if not place.is_dir():
        earlier, adapter = source(recipe, machine=machine)
        spent = preparation_tokens(earlier).get(earlier.trained()[-1])
        run.write_json(f"{STARTED}.json", {"run": str(earlier.folder), "preparation": spent})

        def copy(folder: Path) -> None:
            shutil.copytree(adapter, folder, dirs_exist_ok=True)

        run.folder_stage(STARTED, copy)
    notify(f"this run begins where {recipe.start} ended")
    return place


def source(recipe: Recipe, *, machine: Machine) -> tuple[RunFolder, Path]:
    """The run that a recipe starts from, and the folder of the adapters in force there.

    Raises RunError where there is no such run, it has trained nothing, or its model is another one.
    """
    earlier = find_run(str(recipe.start), machine)
    trained = earlier.trained()
    adapter = earlier.adapter(trained[-1]) if trained else None
    if adapter is None:
        hint = "name a run whose training has come to the end of a step"
        raise RunError("start: this run has no trained adapter", where=earlier.folder, hint=hint)
    theirs = earlier.manifest["recipe"].get("model", {})
    for key in ("name", "lora_rank"):
        own = getattr(recipe.model, key)
        if theirs.get(key) != own:
            what = f"start: this run's model.{key} is {theirs.get(key)}, and this recipe's is {own}"
            raise RunError(what, where=earlier.folder, hint=f"model.{key}={theirs.get(key)}")
    return earlier, adapter
