"""The prompts that a run has chosen, or has begun with: as records, and as YAML to paste into a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import RunError
from ..records import Prompt, from_json
from ..settings.workflow import Workflow
from .disk import read_json
from .folder import STARTED, RunFolder, stage_name

PROMPTS = "4_prompts"  # of an iteration, beside 5_verdict, which says whether they are in force
BEGUN = "prompts.json"  # in the folder STARTED
PASTE = "prompts.yaml"  # of a run, see `as_yaml`

Chosen = Mapping[str, Prompt]
"""By the role's name."""


def chosen(run: RunFolder, iteration: int | None) -> Chosen:
    """The prompts in force after an iteration, or before the first for None, of the roles that have other ones than the
    recipe says. Raises RunError for a file that holds none."""
    found = read_prompts(run.folder / STARTED / BEGUN)
    for number in run.trained():
        if iteration is not None and number <= iteration and "prompts" not in run.undone(number):
            found = {**found, **read_prompts(run.folder / f"{stage_name(number, PROMPTS)}.json")}
    return found


def read_prompts(path: Path) -> Chosen:
    """The prompts in a file, none without one. Raises RunError for a file that holds something else."""
    try:
        return {role: from_json(Prompt, value) for role, value in (read_json(path) or {}).items()}
    except (AttributeError, ValueError) as error:
        raise RunError("holds no prompts by role", where=path) from error


def require_roles(prompts: Chosen, team: Workflow, *, where: Path) -> None:
    """Raises RunError where prompts were chosen for roles that a team does not have."""
    there = [role.name for role in team.roles]
    if missing := [role for role in prompts if role not in there]:
        what = f"this run has chosen prompts for {', '.join(missing)}, and the roles of the team are {', '.join(there)}"
        raise RunError(what, where=where, hint="a team with roles of the same names")


def has_adapters(folder: Path) -> bool:
    """Whether trained weights lie in a folder, of one adapter or of several."""
    return any(folder.rglob("adapter_model*"))


def as_yaml(systems: Mapping[str, str]) -> str:
    """The lines of a recipe with which its roles have these system prompts. JSON's texts are YAML's, too."""
    lines = [f"    {_key(role)}: {json.dumps(system, ensure_ascii=False)}" for role, system in systems.items()]
    return "\n".join(["prompts:", "  system:", *lines]) + "\n"


def _key(role: str) -> str:
    return role if role.isidentifier() else json.dumps(role, ensure_ascii=False)
