"""`check` and `doctor`: what will and what won't work, and how to mend it, before anything costs time.

Everything here only looks: nothing is loaded into memory and nothing is written.
"""

from __future__ import annotations

import enum
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .config import LoadedRecipe, Machine
from .errors import OptimaError

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
_PYTHONS = ((3, 11), (3, 14))  # supported: from, up to but without
_DISK_GIB = 1.0


class Status(enum.StrEnum):
    """ok: works. note: works, with something to know. problem: will not work."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. hint: how to mend it, where there is something to mend."""

    subject: str
    status: Status
    detail: str
    hint: str | None = None


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that decide what a run computes; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in ("optima-lite", *PACKAGES):
        version = _version(name)
        if version:
            found[name] = version
    return found


def doctor(machine: Machine) -> Iterator[Finding]:
    """Python, packages against the supported ranges, GPU and memory, disk."""
    yield _python()
    yield from _packages()
    yield _gpu()
    yield _memory()
    yield _disk(Path(machine.run_folder))


def check(loaded: LoadedRecipe, *, machine: Machine, folder: Path) -> Iterator[Finding]:
    """What a run of this recipe needs from this machine; a task file that is not named yet is a note, not a problem."""
    recipe = loaded.recipe
    plan = (
        f"{recipe.training.iterations} iterations of {recipe.training.questions} questions x "
        f"{recipe.sampling.rollouts} dialogues of up to {recipe.protocol.max_turns} x "
        f"{recipe.sampling.max_turn_tokens} tokens; {recipe.evaluation.questions} held-out questions"
    )
    yield Finding("recipe", Status.OK, f"{loaded.name}: {plan}")
    yield _model(loaded, machine)
    yield _data(loaded)
    yield _gpu()
    yield _disk(folder)
    resumes = (folder / "manifest.json").exists()
    yield Finding(
        "run folder", Status.OK, f"{folder} {'holds this run already and will be resumed' if resumes else ''}"
    )


def _python() -> Finding:
    low, high = _PYTHONS
    supported = low <= sys.version_info[:2] < high
    wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
    return Finding(
        "Python",
        Status.OK if supported else Status.PROBLEM,
        platform.python_version(),
        None if supported else f"use Python {wanted}",
    )


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in importlib.metadata.requires("optima-lite") or []]
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        hint = f"pip install '{requirement.name}{requirement.specifier}'"
        if version is None:
            yield Finding(requirement.name, Status.PROBLEM, "not installed", hint)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, Status.PROBLEM, f"{version}, supported: {requirement.specifier}", hint)
        else:
            yield Finding(requirement.name, Status.OK, version)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "GPU",
            Status.NOTE,
            "none that torch can use: fine for the bundled tiny model, too slow for an 8B model",
            "for an NVIDIA card: a recent driver and a CUDA build of torch",
        )
    card = torch.cuda.get_device_properties(0)
    return Finding("GPU", Status.OK, f"{card.name}, {card.total_memory / 2**30:.0f} GiB")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    enough = total >= 4
    return Finding(
        "memory",
        Status.OK if enough else Status.NOTE,
        f"{total:.0f} GiB, {os.cpu_count()} cores",
        None if enough else "4 GiB or more",
    )


def _disk(folder: Path) -> Finding:
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return Finding("disk", Status.PROBLEM, f"{existing} cannot be written", "set run_folder in optima_lite.toml")
    if free < _DISK_GIB:
        return Finding("disk", Status.PROBLEM, f"{free:.1f} GiB free at {existing}", "free some space")
    return Finding("disk", Status.OK, f"{free:.0f} GiB free at {existing}")


def _model(loaded: LoadedRecipe, machine: Machine) -> Finding:
    from .model import check_folder, locate

    name = loaded.recipe.model.name
    try:
        source = locate(name, machine=machine)
        if Path(source).is_dir():
            check_folder(Path(source))
            return Finding("model", Status.OK, source if name == source else f"{name}: {source}")
    except OptimaError as error:
        return Finding("model", Status.PROBLEM, str(error.what), error.hint)
    if machine.offline:
        return Finding("model", Status.NOTE, f"{name}: from the local hub cache, since offline is set")
    return Finding("model", Status.NOTE, f"{name}: from the Hugging Face hub, downloaded once")


def _data(loaded: LoadedRecipe) -> Finding:
    from .tasks import questions

    task, wanted = loaded.recipe.task, loaded.recipe.evaluation.questions
    if task.name == "jsonl" and task.path is None:
        return Finding("data", Status.NOTE, "no file yet", "add task.path=FILE.jsonl to the command")
    try:
        train = questions(task, "train", loaded.recipe.training.questions, seed=loaded.recipe.seed)
        held_out = questions(task, "held_out", wanted, seed=0)
    except OptimaError as error:
        return Finding(
            "data", Status.PROBLEM, f"{error.where}: {error.what}" if error.where else error.what, error.hint
        )
    few = len(held_out) < wanted
    return Finding(
        "data",
        Status.NOTE if few else Status.OK,
        f"{len(train)} training questions an iteration, {len(held_out)} held out"
        + (f" of {wanted} asked for" if few else ""),
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
