"""Teams by name: those that come with the package, files of one's own, and what stands under `team:` in a recipe."""

from __future__ import annotations

import difflib
import importlib.resources
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import grammar, strict_yaml
from .grammar import At
from .layers import Mistake, mistaken, near_names
from .workflow import QUESTION, TASK, Workflow


def shipped_teams() -> dict[str, Path]:
    """The teams that come with the package, by name."""
    try:
        folder = Path(str(importlib.resources.files("optima_lite.teams")))
    except ModuleNotFoundError:  # a source tree that is not installed
        folder = Path(__file__).parents[2] / "teams"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def found(name: str) -> Path:
    """The file of a shipped team, or of that path. Raises ConfigError for none."""
    path = shipped_teams().get(name, Path(name))
    if not os.path.isfile(path):
        beside = Path(name).parent
        files = [str(one) for one in sorted(beside.glob("*.y*ml"))] if beside.is_dir() else []
        near = difflib.get_close_matches(name[:100], files, n=1)
        hint = near_names(name, near or [*shipped_teams()]) + ("" if near else " (or the path of a YAML file)")
        raise ConfigError("there is no such team", where=name, hint=hint)
    return path


@cache
def shipped(name: str) -> Workflow:
    """A team that comes with the package. Raises KeyError when there is none of that name."""
    return named(str(shipped_teams()[name]))


def named(name: str) -> Workflow:
    """The workflow of a shipped team or of a YAML file. Raises ConfigError with every mistake found."""
    mistakes: list[Mistake] = []
    team = _from_file(found(name), mistakes)
    if team is None:
        raise mistaken(mistakes)
    return workflow(team)


def workflow(team: Mapping[str, Any]) -> Workflow:
    """The workflow of a team's own keys. Raises ConfigError with every mistake found."""
    mistakes: list[Mistake] = []
    read = grammar.read(team, lambda _: "team", mistakes)
    if read is None:
        raise mistaken(mistakes)
    return read


def handing_on(team: Mapping[str, Any] | None, transfer: str, steps: int | None) -> dict[str, Any]:
    """A recipe's team whose messages are handed on in another way. steps: of a message; None leaves them as they are.
    Raises ConfigError for a recipe without a team, whose talk goes back and forth, and for a team that cannot."""
    if team is None:
        what = "a talk by protocol goes back and forth, and stream needs steps that form no loop"
        raise ConfigError(
            what, where="transfer", hint="a run of a team such as chain, tree or graph (docs/streaming.md)"
        )
    changed = {**team, "transfer": transfer}
    if steps is not None:
        changed["stream"] = {**(team.get("stream") or {}), "steps": steps}
    workflow(changed)
    return changed


def speakers(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of all who have turns in a run, by `Turn.speaker`. recipe: as a manifest keeps it."""
    if recipe.get("team"):
        return workflow(recipe["team"]).names
    return tuple(recipe.get("protocol", {}).get("roles", ("first", "second")))


def resolved(value: Any, at: At, mistakes: list[Mistake], *, above: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """What stands under `team:` as the team's own keys: it may be the name of a shipped team, or of a YAML file. None
    if it is no team, and what is wrong is added to `mistakes`.

    at, above: where each key is stated, and the keys over the value (see `grammar.read`).
    """
    if isinstance(value, str):
        try:
            return _from_file(found(value), mistakes)
        except ConfigError as error:
            mistakes.append(Mistake(at(above), ".".join(above), f"there is no team {value}; {error.hint}"))
            return None
    return dict(value) if _read(value, at, mistakes, above) else None


def _from_file(path: Path, mistakes: list[Mistake]) -> dict[str, Any] | None:
    try:
        document = strict_yaml.load(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        mistakes.append(Mistake(str(path), "", f"cannot be read: {error}"))
        return None

    def at(keys: tuple[str, ...]) -> str:
        line = document.lines.get(keys)
        return f"{path}:{line}" if line else str(path)

    wrong = [Mistake(f"{path}:{m.line}" if m.line else str(path), ".".join(m.path), m.what) for m in document.mistakes]
    mistakes += wrong
    if wrong or _read(document.value, at, mistakes, ()) is None:
        return None
    return {"name": path.stem, **document.value}


def _read(value: Any, at: At, mistakes: list[Mistake], above: tuple[str, ...]) -> Workflow | None:
    """The workflow that plain values mean, as `grammar.read` finds it, if also the folders are there that it looks
    facts up in. That is asked of a team that is about to be used, not of one that a stored run has used."""
    team = grammar.read(value, at, mistakes, above=above)
    if team is None:
        return None
    gone = [step for step in team.steps if step.index not in (QUESTION, TASK) and not _is_folder(step.index)]
    for step in gone:
        path = (*above, "steps", step.name, "index")
        beside = Path(step.index).expanduser().parent
        folders = [str(one) for one in sorted(beside.iterdir()) if one.is_dir()] if _is_folder(str(beside)) else []
        near = near_names(step.index, [QUESTION, TASK, *folders[:20]])
        mistakes.append(Mistake(at(path), ".".join(path), f"there is no folder {step.index}; {near}"))
    return None if gone else team


def _is_folder(name: str) -> bool:
    return os.path.isdir(os.path.expanduser(name))
