"""A second process with the same model, which takes over half of the work.

A small model does not keep two cores busy: its matrices are too small to be cut up, and most of a step is Python. Two
processes with a thread each do. What is asked of the helper does not depend on what either of them did before, and both
compute alike, so that nobody can tell from a record who made it; a helper that dies costs time, never a result.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..settings.machine import Machine
from ..settings.recipe import ModelSettings
from .generate import Generator
from .loading import load
from .render import Renderer

Item = TypeVar("Item")
Made = TypeVar("Made")
Work = Callable[..., list[Made]]
"""work(items, advance=advance): what is made of items, in their order, by frozen values alone. advance: a callable that
is told of progress, with whatever arguments the work has for it."""


def serial(work: Work[Made], parts: Sequence[Sequence[Item]], advance: Callable[..., None]) -> list[Made]:
    """What work makes of all parts, one after the other."""
    return [made for part in parts for made in work(part, advance=advance)]


class Helper:
    """A process that works beside this one. generator, renderer: this process's; the helper has the like.

    notify: is told, in a sentence, when the helper is no more. The process starts at once and is ready seconds later;
    until then, and if it ever dies, all work is done here.
    """

    def __init__(
        self,
        generator: Generator,
        renderer: Renderer,
        *,
        settings: ModelSettings,
        machine: Machine,
        notify: Callable[[str], None],
    ) -> None:
        self._generator, self._notify = generator, notify
        self._known = _known(generator, renderer)
        self._sent: tuple[int, ...] | None = None  # the weights that the helper has
        self._ready = False
        self._answer: list[Any] | None = None
        states = generator.states
        limits = {"max_batch_tokens": states.max_batch_tokens, "max_cache_bytes": states.cache.max_bytes}
        self._process, self._line = _started()
        self._close = weakref.finalize(self, _end, self._process, self._line)
        self._line.send((settings, machine, generator.policy.names, limits))

    def close(self) -> None:
        """Ends the process, whatever it is busy with."""
        self._close()

    def ready(self) -> bool:
        """Whether it can be asked by now."""
        self._answer = None
        if not self._ready:
            self._listen(lambda: None, wait=False)
        return self._ready

    def share(self, work: Work[Made], parts: Sequence[Sequence[Item]], advance: Callable[..., None]) -> list[Made]:
        """What work makes of both parts: of the first here, and of the second there."""
        if len(parts) < 2 or not self.ready():
            return serial(work, parts, advance)
        first, second = parts
        self._ask(work, second)

        def told(*what: Any, **how: Any) -> None:
            advance(*what, **how)
            self._listen(advance, wait=False)

        made = work(first, advance=told)
        self._listen(advance, wait=True)
        return made + (work(second, advance=advance) if self._answer is None else self._answer)

    def _ask(self, work: Work[Made], items: Sequence[Item]) -> None:
        policy, weights = self._generator.policy, None
        if self._sent != self._generator.fingerprint():
            self._sent = self._generator.fingerprint()
            weights = [weight.detach().numpy() for name in policy.names for weight in policy.weights(name)]
        written = io.BytesIO()
        _Pickler(written, self._known).dump((weights, work, list(items)))
        try:
            self._line.send_bytes(written.getbuffer())
        except OSError:
            self._lose()

    def _listen(self, advance: Callable[..., None], *, wait: bool) -> None:
        """Takes up what the helper says, until its answer is there or it has nothing to say. wait: for the answer."""
        try:
            while self._running and self._answer is None and (wait or self._line.poll()):
                kind, *said = self._line.recv()
                if kind == "ready":
                    self._ready = True
                elif kind == "advance":
                    what, how = said
                    advance(*what, **how)
                else:
                    self._answer, counts = said
                    self._generator.meter.count(**counts)
        except (EOFError, OSError):
            self._lose()

    @property
    def _running(self) -> bool:
        return bool(self._close.alive)

    def _lose(self) -> None:
        self._ready = False
        self._close()
        self._notify("the second process has ended before its work; this one goes on alone, at half the speed")


def serve(descriptor: int) -> None:
    """The helper's side: gets ready, then does what it is asked until nobody can ask any more. Whatever goes wrong
    ends it, and comes to light where the same work is done again."""
    torch.set_num_threads(1)
    line = Connection(descriptor)
    settings, machine, names, limits = line.recv()
    policy = load(settings, machine=machine, seed=0, adapters=names)
    generator = Generator(policy, **limits)
    known = _known(generator, Renderer(policy.tokenizer, end_ids=policy.end_ids))
    line.send(("ready",))
    while asked := _received(line):
        weights, work, items = _Unpickler(io.BytesIO(asked), known).load()
        if weights is not None:
            policy.take([torch.from_numpy(weight) for weight in weights])
        before = asdict(generator.counts)
        made = work(items, advance=lambda *what, **how: line.send(("advance", what, how)))
        counts = {name: count - before[name] for name, count in asdict(generator.counts).items()}
        line.send(("done", made, counts))


def _received(line: Connection) -> bytes:
    try:
        return line.recv_bytes()
    except EOFError:
        return b""


def _started() -> tuple[subprocess.Popen[bytes], Connection]:
    root = Path(__file__).resolve().parents[2]  # the folder that holds the package, wherever the caller stands
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    line, other = multiprocessing.Pipe()
    command = f"from {__name__} import serve; serve({other.fileno()})"
    with other:
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the caller
        )
    return process, line


def _end(process: subprocess.Popen[bytes], line: Connection) -> None:
    line.close()
    process.kill()
    process.wait()


def _known(generator: Generator, renderer: Renderer) -> dict[str, object]:
    """What both processes have of their own, and only name to each other."""
    policy = generator.policy
    return {"generator": generator, "renderer": renderer, "policy": policy, "tokenizer": policy.tokenizer}


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, known: Mapping[str, object]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._names = {id(value): name for name, value in known.items()}

    def persistent_id(self, value: object) -> str | None:
        return self._names.get(id(value))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: Mapping[str, object]) -> None:
        super().__init__(file)
        self._known = known

    def persistent_load(self, name: str) -> object:
        return self._known[name]
