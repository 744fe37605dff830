"""`doctor`: what this machine can do. It says so however much is missing, so nothing that can be missing is imported
at the top of this file.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ..settings.machine import Machine
from ..tasks import sandbox
from .findings import Finding, Status

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
_PYTHONS = ((3, 11), (3, 14))  # supported: from, up to but without
_DISK_GIB = 1.0


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that decide what a run computes; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in ("optima-lite", *PACKAGES):
        version = _version(name)
        if version:
            found[name] = version
    return found


def doctor(machine: Machine) -> Iterator[Finding]:
    """Python, packages against the supported ranges, GPU and memory, disk, and whether code that a model
    wrote can be run."""
    yield _python()
    yield from _packages()
    yield gpu()
    yield _memory()
    yield disk(Path(machine.run_folder))
    yield _generated_code(machine)


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


def gpu() -> Finding:
    """The card, as far as torch can use one."""
    try:
        import torch
    except (ImportError, OSError) as error:  # absent, or without a library of the system that it loads
        return Finding("GPU", Status.PROBLEM, f"torch cannot be imported: {error}", "pip install optima-lite")
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
    try:
        from ..model.resources import cores, free_memory, total_memory
    except ImportError as error:
        return Finding("memory", Status.PROBLEM, f"cannot be asked for: {error}", "pip install psutil")
    total, free = total_memory() / 2**30, free_memory() / 2**30
    enough = total >= 4
    return Finding(
        "memory",
        Status.OK if enough else Status.NOTE,
        f"{total:.0f} GiB, {free:.0f} of them free, {cores()} cores",
        None if enough else "4 GiB or more",
    )


def disk(folder: Path) -> Finding:
    """Whether the folder's disk has room and may be written to."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if os.path.exists(path))
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return Finding("disk", Status.PROBLEM, f"{existing} cannot be written", "set run_folder in optima_lite.toml")
    if free < _DISK_GIB:
        return Finding("disk", Status.PROBLEM, f"{free:.1f} GiB free at {existing}", "free some space")
    return Finding("disk", Status.OK, f"{free:.0f} GiB free at {existing}")


def _generated_code(machine: Machine) -> Finding:
    """Only the recipes of programming tasks need it, so its absence is no problem."""
    if reason := sandbox.missing():
        return Finding("generated code", Status.NOTE, f"cannot be run here: {reason}")
    allowed = "and allow_code allows it" if machine.allow_code else "but allow_code is not set, so it is not"
    return Finding("generated code", Status.OK, f"can be contained and run here, {allowed}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
