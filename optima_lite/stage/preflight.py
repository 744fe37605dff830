"""`check` and `doctor`: what will and what won't work, and how to mend it, before anything costs time.

Everything here only looks, except for the probe on a GPU, which loads the model and tries each phase for a moment.
Nothing is written.
"""

from __future__ import annotations

import enum
import importlib.metadata
import os
import platform
import shutil
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError, OptimaError, RunError
from ..learn import reward
from ..model.memory import GIB, OVERHEAD, Limits, Phase, Setup, Shape, forecast, known, of_one_batch, planned
from ..model.resources import cores, free_memory, total_memory
from ..runs.store import would_resume
from ..settings.config import LoadedRecipe, Machine, ModelSettings, Recipe
from ..statistics import FEWEST
from ..tasks import answers

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


def check(
    loaded: LoadedRecipe, *, machine: Machine, folder: Path, vram: float | None = None, probe: bool = True
) -> Iterator[Finding]:
    """What a run of this recipe needs from this machine; a task file that is not named yet is a note, not a problem.

    vram: forecast the memory for a card of so many GiB, instead of for this machine. probe: where there is a GPU, and
    the forecast is for it, measure each phase, too.
    """
    recipe = loaded.recipe
    plan = (
        f"{recipe.training.iterations} iterations of {recipe.training.questions} questions x "
        f"{recipe.sampling.rollouts} dialogues of up to {recipe.protocol.max_turns} x "
        f"{recipe.sampling.max_turn_tokens} tokens; {recipe.evaluation.questions} held-out questions"
    )
    yield Finding("recipe", Status.OK, f"{loaded.name}: {plan}")
    model = _model(loaded, machine)
    yield model
    yield _data(loaded)
    yield from _judge(recipe)
    yield from _extras(recipe)
    yield _gpu()
    yield _disk(folder)
    yield _run_folder(loaded.recipe, folder)
    if model.status is not Status.PROBLEM:
        yield from _forecast(loaded.recipe, machine, vram=vram, probe=probe)


def require(recipe: Recipe, *, machine: Machine) -> None:
    """Raises the OptimaError that the model's folder, the data or a missing extra would raise later; for use
    before a run folder is made, which would bind the run to a wrong path."""
    from ..model import checkpoint
    from ..model.policy import locate
    from ..tasks.questions import questions

    source = Path(locate(recipe.model.name, machine=machine))
    if source.is_dir():
        checkpoint.read(source)
    answers.require(recipe.task.metric)
    reward.require(recipe.reward)
    require_enough_to_judge(recipe)
    for split in ("train", "validation", "held_out"):
        questions(recipe.task, split, 1, seed=0)


def require_enough_to_judge(recipe: Recipe) -> None:
    """Raises ConfigError when steps are to be undone on the word of too few validation questions."""
    asked, undo = recipe.evaluation.validation_questions, recipe.training.on_worse
    if undo != "keep" and asked < FEWEST:
        what = f"evaluation.validation_questions is {asked}, too few to tell a worse step from bad luck, and "
        hint = f"evaluation.validation_questions={FEWEST} or more, or training.on_worse=keep"
        raise ConfigError(f"{what}training.on_worse is {undo}", hint=hint)


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


def _forecast(recipe: Recipe, machine: Machine, *, vram: float | None, probe: bool) -> Iterator[Finding]:
    """Memory phase by phase, the sizes that will be used, and what does not fit."""
    config = _model_config(recipe.model, machine)
    shape = Shape.from_config(config) if config else known(recipe.model.name)
    if shape is None:
        yield Finding("memory", Status.NOTE, "no forecast: the model's config.json is not here yet")
        return
    room, setup = _room(machine, vram), _setup(recipe.model, config, gpu=vram is not None)
    longest = int(config.get("max_position_embeddings", 8192))
    rows = min(recipe.model.max_length or longest, longest)
    limits, phases = planned(recipe, machine, shape, setup, row_tokens=rows, room=room)
    for phase in phases:
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in phase.parts.items() if size >= GIB / 20)
        yield Finding(
            f"memory to {phase.name}",
            Status.OK if phase.total <= room else Status.PROBLEM,
            f"{_gib(phase.total)} of {_gib(room)} GiB (forecast)" + (f": {parts}" if parts else ""),
            None if phase.total <= room else _advice(recipe, machine, shape, setup, rows=rows, room=room),
        )
    yield Finding(
        "batches",
        Status.OK,
        f"{limits.batch_tokens:,} tokens while sampling, {_gib(limits.cache_bytes)} GiB of attention states kept; "
        f"{limits.micro_batch} training examples at a time, of up to {rows:,} tokens",
    )
    if probe and vram is None and setup.gpu and all(phase.total <= room for phase in phases):
        limits = of_one_batch(shape, setup, limits)
        names = [phase.name for phase in phases]
        yield from _probe(recipe, machine, limits, [p for p in forecast(shape, setup, limits) if p.name in names])


def _probe(recipe: Recipe, machine: Machine, limits: Limits, phases: Sequence[Phase]) -> Iterator[Finding]:
    """Every phase once on made-up rows of full length, measured beside its forecast."""
    from ..model.policy import load
    from .probe import measure

    expected = {phase.name: phase.total for phase in phases}
    try:
        for name, peak in measure(load(recipe.model, machine=machine, seed=0), limits, phases=[*expected]):
            off = expected[name] / peak - 1
            detail = f"{_gib(peak)} GiB at most; the forecast is {_gib(expected[name])} GiB ({off:+.0%})"
            yield Finding(f"measured: {name}", Status.OK if abs(off) <= 0.1 else Status.NOTE, detail)
    except OptimaError as error:
        yield Finding("measured", Status.PROBLEM, error.what, error.hint)


def _advice(recipe: Recipe, machine: Machine, shape: Shape, setup: Setup, *, rows: int, room: int) -> str:
    """The longest rows with which everything fits, if any do."""

    def too_long(length: int) -> bool:
        phases = planned(recipe, machine, shape, setup, row_tokens=length, room=room)[1]
        return any(phase.total > room for phase in phases)

    lengths = range(256, rows, 256)
    if fitting := bisect_left(lengths, True, key=too_long):
        return f"model.max_length={lengths[fitting - 1]} fits"
    return "a smaller model" if setup.quantised else "a smaller model, or model.quantization=nf4"


def _model_config(settings: ModelSettings, machine: Machine) -> dict[str, Any]:
    """The model's config.json, from its folder or from the hub's cache; empty where it is not here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from ..model.checkpoint import check_config
    from ..model.policy import locate

    try:
        source = locate(settings.name, machine=machine)
        path = Path(source) / "config.json"
        if not path.is_file():
            cached = try_to_load_from_cache(source, "config.json")
            path = Path(cached) if isinstance(cached, str) else path
        return check_config(path) if path.is_file() else {}
    except (OptimaError, HFValidationError, ValueError):  # reported with the model
        return {}


def _setup(settings: ModelSettings, config: dict[str, Any], *, gpu: bool) -> Setup:
    import torch

    gpu = gpu or torch.cuda.is_available()
    asked = settings.quantization == "nf4" or (settings.quantization == "auto" and gpu)
    stored = "quantization_config" in config if config else settings.name.lower().endswith("-4bit")
    return Setup(asked or stored, gpu, settings.lora_rank)


def _room(machine: Machine, vram: float | None) -> int:
    """Bytes that a run would have here and now, as it would find them itself; or on the card that is asked about."""
    import torch

    from ..model.policy import card_room

    if vram is not None:
        return int(vram * GIB) - OVERHEAD
    return card_room(machine) if torch.cuda.is_available() else free_memory()


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 10 else f"{size / GIB:.2f}"


def _memory() -> Finding:
    total, free = total_memory() / GIB, free_memory() / GIB
    enough = total >= 4
    return Finding(
        "memory",
        Status.OK if enough else Status.NOTE,
        f"{total:.0f} GiB, {free:.0f} of them free, {cores()} cores",
        None if enough else "4 GiB or more",
    )


def _disk(folder: Path) -> Finding:
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if os.path.exists(path))
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return Finding("disk", Status.PROBLEM, f"{existing} cannot be written", "set run_folder in optima_lite.toml")
    if free < _DISK_GIB:
        return Finding("disk", Status.PROBLEM, f"{free:.1f} GiB free at {existing}", "free some space")
    return Finding("disk", Status.OK, f"{free:.0f} GiB free at {existing}")


def _run_folder(recipe: Recipe, folder: Path) -> Finding:
    try:
        resumes = would_resume(folder, recipe.to_dict())
    except OptimaError as error:
        return Finding("run folder", Status.PROBLEM, str(RunError(error.what, where=error.where)), error.hint)
    return Finding("run folder", Status.OK, f"{folder}{', which holds this run and will be resumed' * resumes}")


def _model(loaded: LoadedRecipe, machine: Machine) -> Finding:
    from ..model import checkpoint
    from ..model.policy import locate

    name = loaded.recipe.model.name
    try:
        source = locate(name, machine=machine)
        if Path(source).is_dir():
            checkpoint.read(Path(source))
            return Finding("model", Status.OK, source if name == source else f"{name}: {source}")
    except OptimaError as error:
        return Finding("model", Status.PROBLEM, str(error.what), error.hint)
    if machine.offline:
        return Finding("model", Status.NOTE, f"{name}: from the local hub cache, since offline is set")
    return Finding("model", Status.NOTE, f"{name}: from the Hugging Face hub, downloaded once")


def _data(loaded: LoadedRecipe) -> Finding:
    from ..tasks.questions import questions

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


def _judge(recipe: Recipe) -> Iterator[Finding]:
    """Whether the validation questions can decide, where they are to."""
    if recipe.training.on_worse != "keep":
        asked = recipe.evaluation.validation_questions
        detail = f"a step is undone when the interval of its change over {asked} validation questions lies below 0"
        yield _needs("keep or revert", detail, partial(require_enough_to_judge, recipe))


def _extras(recipe: Recipe) -> Iterator[Finding]:
    """The extras that this recipe needs; none is mentioned that it does not."""
    if recipe.task.metric == "math":
        yield _needs(
            "extra math", "task.metric math compares answers with math-verify", partial(answers.require, "math")
        )
    if recipe.reward.format_weight:
        checked = f"reward.format_weight checks messages of {', '.join(recipe.reward.schemas)} with jsonschema"
        yield _needs("extra schema", checked, partial(reward.require, recipe.reward))


def _needs(subject: str, detail: str, require: Callable[[], None]) -> Finding:
    try:
        require()
    except OptimaError as error:
        return Finding(subject, Status.PROBLEM, error.what, error.hint)
    return Finding(subject, Status.OK, detail)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
