"""What a worker of a cluster is: the agents of a recipe in a process of its own, and the adapters that came last."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import OptimaError
from ..learn.parallel import Place, group
from ..model.checkpoint import weight_files
from ..model.loading import found
from ..settings import plugin
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .cast import Cast, assemble
from .crew import Job
from .doctor import versions
from .lesson import Lesson

Files = Mapping[str, bytes]
"""The content of files, by their names in a folder."""


@dataclass(frozen=True)
class Given:
    """What every worker of a run is made of. code: the name and content of the recipe's plugin. settled: the limits
    that the run has settled on. start: what the run begins with; none for fresh adapters."""

    recipe: dict[str, Any]
    machine: Machine
    code: tuple[str, bytes] | None
    settled: Mapping[str, int]
    start: Files | None


@dataclass(frozen=True)
class Adapters:
    """The adapters that the agents speak with, by content. version: tells them from others; files: none for fresh
    ones."""

    version: str
    files: Files


@dataclass(frozen=True)
class Standing:
    """What a worker says of itself when it is ready. weights: a digest of what the model's files are. notes: what the
    user should know. wrong: what keeps it from ever being ready."""

    host: str
    pid: int
    versions: Mapping[str, str]
    weights: str
    settled: Mapping[str, int]
    notes: tuple[str, ...]
    seconds: float
    wrong: OptimaError | None = None


@dataclass(frozen=True)
class Done:
    """What came of a piece of work. told: the progress. counts: tokens, see `meter.Counts`. seconds: that it took, and
    cpu: of the processor."""

    made: Any
    told: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    notes: tuple[str, ...]
    counts: Mapping[str, int]
    seconds: float
    cpu: float


class Worker:
    """An actor. Whatever the user can mend comes back as a value, so that it is not taken for the loss of a worker."""

    def __init__(self) -> None:
        self._cast: Cast | None = None
        self._version: str | None = None
        self._notes: list[str] = []

    def pid(self) -> int:
        """The number of the process."""
        return os.getpid()

    def ready(self, given: Given) -> Standing:
        """Loads the model."""
        begun = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                recipe = _recipe(given, Path(folder))
                start = None if given.start is None else written(given.start, Path(folder) / "start")
                known = dict(given.settled)
                cast = assemble(
                    recipe,
                    machine=given.machine,
                    settle=lambda key, decide: known[key] if key in known else decide(),
                    notify=self._notes.append,
                    start=start,
                )
        except OptimaError as error:
            return Standing(platform.node(), os.getpid(), versions(), "", {}, (), time.monotonic() - begun, error)
        self._cast = cast = replace(cast, start=None)  # from here on adapters come along with the work
        weights = digest(found(recipe.model.name, machine=given.machine))
        notes, seconds = tuple(self._notes), time.monotonic() - begun
        self._notes.clear()
        return Standing(platform.node(), os.getpid(), versions(), weights, cast.settled, notes, seconds)

    def do(self, adapters: Adapters, job: Job[Any], items: Sequence[Any]) -> Done | OptimaError:
        """What a job makes of a piece, by the agents with these adapters."""
        return self._done(adapters, lambda cast, advance: job.do(cast, items, advance))

    def door(self) -> tuple[str, int]:
        """A host and a port by which other workers can reach this one."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), int(free.getsockname()[1])

    def train(
        self, adapters: Adapters, lesson: Lesson, micro_batch: int, place: Place | None = None
    ) -> Done | OptimaError:
        """The files that come of a training step that begins with these adapters. micro_batch: of this worker. place:
        among those that train together; the files of all are alike."""

        def learnt(cast: Cast, advance: Any) -> Files:
            self._version = None  # from here on it is another one
            cast = replace(cast, micro_batch=micro_batch)
            with tempfile.TemporaryDirectory() as folder:
                with group(place) if place else nullcontext():
                    lesson.do(cast, Path(folder), advance, self._notes.append)
                return content(Path(folder))

        return self._done(adapters, learnt)

    def _done(self, adapters: Adapters, work: Any) -> Done | OptimaError:
        cast = self._cast
        assert cast is not None, "a worker is only asked when it is ready"
        told: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        before, begun, cpu = asdict(cast.meter.counts), time.monotonic(), time.process_time()
        try:
            self._speak_with(cast, adapters)
            made = work(cast, lambda *what, **how: told.append((what, how)))
        except OptimaError as error:
            return error
        counts = {name: count - before[name] for name, count in asdict(cast.meter.counts).items()}
        notes = tuple(self._notes)
        self._notes.clear()
        return Done(made, tuple(told), notes, counts, time.monotonic() - begun, time.process_time() - cpu)

    def _speak_with(self, cast: Cast, adapters: Adapters) -> None:
        if adapters.version == self._version:
            return
        self._version = None
        if adapters.files:
            with tempfile.TemporaryDirectory() as folder:
                cast.policy.load_adapter(written(adapters.files, Path(folder)))
        else:
            cast.begin()
        self._version = adapters.version


def _recipe(given: Given, folder: Path) -> Recipe:
    recipe = Recipe.from_dict(given.recipe, where="the recipe of the run")
    if given.code is None:
        return recipe.with_code(None)
    name, source = given.code
    return recipe.with_code(plugin.load_file(written({name: source}, folder) / name))


def content(folder: Path) -> Files:
    """All files of a folder and what is below it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(files: Files, folder: Path) -> Path:
    """The folder, with these files in it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def digest(model: Path) -> str:
    """What tells a model from another: its configuration, and the names, shapes and sizes of its weights."""
    whole = hashlib.blake2b((model / "config.json").read_bytes(), digest_size=8)
    for file in weight_files(model):
        with file.open("rb") as stream:
            length = stream.read(8)
            whole.update(length + stream.read(int.from_bytes(length, "little")))
        whole.update(str(file.stat().st_size).encode())
    return whole.hexdigest()
