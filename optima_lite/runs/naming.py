"""Where a run is kept: a folder named after its recipe, its variants, what the command line changed, and its seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..settings import strict_yaml
from ..settings.config import COMMAND_LINE, LoadedRecipe
from ..settings.keys import reference
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..settings.teams import shipped_teams
from .manifest import would_resume

_ELSEWHERE = {"seed", "training.iterations", "evaluation.stop_if_none_right"}  # named anyway, or free to change
_LONGEST = 80  # characters of all changes together


def run_folder(loaded: LoadedRecipe, machine: Machine) -> Path:
    """Where a recipe's run is kept unless told otherwise: the same settings find their run again, whatever their order.

    A run of just these settings in the folder that is named by recipe, variants and seed alone is found there.
    """
    start, end = [loaded.name, *loaded.variants], f"seed{loaded.recipe.seed}"
    short = Path(machine.run_folder) / "-".join([*start, end])
    changes = _changes(loaded)
    if not changes or _holds(short, loaded):
        return short
    return Path(machine.run_folder) / "-".join([*start, changes, end])


def _holds(folder: Path, loaded: LoadedRecipe) -> bool:
    try:
        return would_resume(folder, loaded.recipe.to_dict())
    except RunError:
        return False


def _changes(loaded: LoadedRecipe) -> str:
    """What the command line set, in the order of the schema, such as token_weight0; with a hash where it is cut."""
    keys = [key.path for key in reference(Recipe)]
    leaves = Counter(key.rpartition(".")[2] for key in keys)
    parts = []
    for key in keys:
        if loaded.origins[key] == COMMAND_LINE and key not in _ELSEWHERE:
            leaf = key.rpartition(".")[2]
            parts.append(
                _team(loaded) if key == "team" else f"{leaf if leaves[leaf] == 1 else key}{_value(loaded, key)}"
            )
    text = "-".join(parts)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 9]}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _team(loaded: LoadedRecipe) -> str:
    """The name of a team, with a hash where it is not, key for key, the one that comes along under this name."""
    stated = loaded.recipe.team or {"name": "no_team"}
    name = str(stated.get("name", "team"))
    shipped = shipped_teams().get(name)
    known = strict_yaml.load(shipped.read_text(encoding="utf-8")).value if shipped else {}
    if {"name": name, **known} == stated:
        return name
    return f"{name}_{hashlib.blake2b(json.dumps(stated, sort_keys=True).encode(), digest_size=2).hexdigest()}"


def _value(loaded: LoadedRecipe, key: str) -> str:
    value: Any = loaded.recipe.to_dict()
    for part in key.split("."):
        value = value[part]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    short = re.sub(r"[^\w.]+", "_", text).strip("_")
    exact = "" if re.fullmatch(r"[\w.]{0,24}", text) else hashlib.blake2b(text.encode(), digest_size=2).hexdigest()
    return f"{short[:24]}{exact and f'_{exact}'}"
