"""What may resume: the manifest in a run folder against the one of the command that wants to go on there.

The stored records depend on the stored recipe. So what decides them must be the same, whoever wrote it down and in
whichever version; what only lengthens or stops a run may change.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..settings.keys import reference
from ..settings.layers import differences, undoing
from ..settings.recipe import Recipe
from .disk import read_json, reading
from .lock import LOCK, PID

HOUSEKEEPING = {LOCK, PID, "manifest.json.tmp"}  # all that a start killed before its manifest can have left
_FILES = {"plugin": "another plugin", "demonstrations": "other demonstrations"}  # that a manifest knows by content
_DEFAULTS = {
    key.path: json.loads(key.default) for key in reference(Recipe) if key.default is not None
}  # of recipe keys


def would_resume(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a run of `recipe` in `folder` would go on with one that is there; nothing is written.

    Raises the RunError with which opening it would refuse, except where another process works there.
    """
    refuse_foreign_folder(folder)
    stored = read_json(folder / "manifest.json")
    if stored is not None:
        resume(folder, stored, {"recipe": recipe})
    return stored is not None


def refuse_foreign_folder(folder: Path) -> None:
    """Raises RunError for a file, and for a folder that holds other things than a run."""
    if os.path.exists(folder) and not os.path.isdir(folder):  # unlike Path's methods, no error for any name
        raise RunError("is a file; a run needs a folder", where=folder, hint="--run OTHER")
    with reading(folder):
        present = {path.name for path in folder.iterdir()} if os.path.isdir(folder) else set()
    if present - HOUSEKEEPING and "manifest.json" not in present:
        what = "holds other files and no manifest.json, so it is not a run folder"
        raise RunError(what, where=folder, hint="--run OTHER, or an empty folder")


def check_manifest(folder: Path, manifest: Any) -> None:
    """Raises RunError for a manifest without a recipe."""
    if not isinstance(manifest, dict) or not isinstance(manifest.get("recipe"), dict):
        hint = "restore manifest.json from a backup, or start a new run with --run OTHER"
        raise RunError("is damaged: it holds no recipe", where=folder / "manifest.json", hint=hint)


def resume(folder: Path, stored: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The manifest to go on with: the stored one, with grown iterations; without any records the wanted one.

    Raises RunError if the stored recipe, plugin or demonstrations differ in what the records depend on.
    """
    check_manifest(folder, stored)
    if not any(folder.glob("*/*.jsonl")):  # a start that failed before it computed anything binds nobody
        return wanted
    manifest: dict[str, Any] = copy.deepcopy(stored)
    for file, what in _FILES.items():
        if file in wanted:
            _refuse_other_content(folder, stored.get(file), wanted[file], what)
            manifest[file] = wanted[file]  # where the same file is now
    old, new = manifest["recipe"].get("training"), wanted["recipe"].get("training")
    if isinstance(old, dict) and isinstance(new, dict) and new.get("iterations", 0) > old.get("iterations", 0):
        old["iterations"] = new["iterations"]
    _add_new_keys(manifest["recipe"], wanted["recipe"])
    if "evaluation" in manifest["recipe"] and "evaluation" in wanted["recipe"]:  # it stops a run, and changes none
        manifest["recipe"]["evaluation"]["stop_if_none_right"] = wanted["recipe"]["evaluation"]["stop_if_none_right"]
    changed = differences(manifest["recipe"], wanted["recipe"])
    if changed:
        what = "\n  ".join(["holds a run of another recipe:", *changed])
        raise RunError(what, where=folder, hint=f"--run OTHER to start a new run; {_way_back(manifest, wanted)}")
    return manifest


def _refuse_other_content(folder: Path, stored: Any, wanted: Mapping[str, str], called: str) -> None:
    """Raises RunError where a run was begun with a file of another content. called: what the file is."""
    if isinstance(stored, dict) and stored.get("sha256") != wanted["sha256"]:
        was, now = str(stored.get("sha256"))[:12], wanted["sha256"][:12]
        what = f"holds a run of {called}: {wanted['path']} has changed since (SHA-256 {was}... -> {now}...)"
        raise RunError(what, where=folder, hint="put the file back as it was, or start a new run with --run OTHER")


def _way_back(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """How to resume a run whose recipe differs, also for somebody who changed nothing but the version."""
    settings = undoing(stored["recipe"], wanted["recipe"])
    if settings is None:
        version = (stored.get("versions") or {}).get("optima-lite", "unknown")
        return f"to resume this one, use the version of optima-lite that began it ({version}): it had other settings"
    return f"to resume this one, undo the changes, or add {shlex.join(settings)}"


def _add_new_keys(recipe: dict[str, Any], wanted: Mapping[str, Any], *, above: str = "") -> None:
    """Gives the recipe of an earlier version the keys that it lacks, where the wanted one has their defaults."""
    for name, value in wanted.items():
        dotted = f"{above}{name}"
        if dotted in _DEFAULTS:
            if name not in recipe and _DEFAULTS[dotted] == value:
                recipe[name] = value
        elif isinstance(value, Mapping) and isinstance(section := recipe.get(name, {}), dict):
            _add_new_keys(section, value, above=f"{dotted}.")
            if section:
                recipe[name] = section
