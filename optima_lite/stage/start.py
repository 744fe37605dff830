"""Where a run begins: with fresh adapters and the recipe's prompts, or with those of an earlier run, its `start`.

What the earlier run has trained or chosen is copied into the new folder, so that it needs the earlier one no more and a
resume begins where the run did.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import RunError
from ..records import to_json
from ..runs.chosen import BEGUN, Chosen, chosen, has_adapters, require_roles
from ..runs.folder import STARTED, RunFolder
from ..runs.opened import find_run
from ..runs.steps import learnt_from
from ..runs.store import Run
from ..runs.summary import preparation_tokens
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..team.talks import team_of


def begin(run: Run, recipe: Recipe, *, machine: Machine, notify: Callable[[str], None]) -> Path | None:
    """The folder of the adapters and prompts that the run begins with, in the run's own; None for fresh ones.

    notify: is told where they come from. Raises RunError as `source` does.
    """
    if recipe.start is None:
        return None
    place = run.folder / STARTED
    if not place.is_dir():
        earlier, adapter, prompts = source(recipe, machine=machine)
        spent = preparation_tokens(earlier).get(earlier.trained()[-1])
        taught = learnt_from(earlier)
        told = {"taught": taught} if taught else {}
        run.write_json(f"{STARTED}.json", {"run": str(earlier.folder), "preparation": spent, **told})

        def copy(folder: Path) -> None:
            if adapter:
                shutil.copytree(adapter, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(BEGUN))
            if prompts:
                (folder / BEGUN).write_text(json.dumps(to_json(prompts), ensure_ascii=False), encoding="utf-8")

        run.folder_stage(STARTED, copy)
    notify(f"this run begins where {recipe.start} ended")
    return place


def source(recipe: Recipe, *, machine: Machine) -> tuple[RunFolder, Path | None, Chosen]:
    """The run that a recipe starts from, the folder of the adapters in force there, and the prompts chosen there.

    Raises RunError where there is no such run, it has neither trained nor chosen anything, the model of its adapters is
    another one, or its prompts are for other roles.
    """
    earlier = find_run(str(recipe.start), machine)
    trained = earlier.trained()
    adapter = (earlier.adapter(trained[-1]) or _begun(earlier)) if trained else None
    prompts = chosen(earlier, trained[-1]) if trained else {}
    if adapter is None and not prompts:
        hint = "name a run whose training has come to the end of a step, or whose search has chosen prompts"
        raise RunError("start: this run has no trained adapter and no prompts", where=earlier.folder, hint=hint)
    require_roles(prompts, team_of(recipe), where=earlier.folder)
    if adapter is None:
        return earlier, None, prompts
    theirs = earlier.manifest["recipe"].get("model", {})
    for key in ("name", "lora_rank"):
        own = getattr(recipe.model, key)
        if theirs.get(key) != own:
            what = f"start: this run's model.{key} is {theirs.get(key)}, and this recipe's is {own}"
            raise RunError(what, where=earlier.folder, hint=f"model.{key}={theirs.get(key)}")
    return earlier, adapter, prompts


def _begun(run: RunFolder) -> Path | None:
    """The folder of the adapters that a run has itself begun with; None for fresh ones."""
    return run.folder / STARTED if has_adapters(run.folder / STARTED) else None
