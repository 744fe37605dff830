"""A second process with the same model, which takes over half of the work.

A small model does not keep two cores busy: its matrices are too small to be cut up, and most of a step is Python. Two
processes with a thread each do. What is asked of the helper does not depend on what either of them did before, and both
compute alike, so that nobody can tell from a record who made it; a helper that dies costs time, never a result.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from ..settings.machine import Machine
from ..settings.sections import ModelSettings
from .generate import Generator
from .loading import load
from .render import Renderer
from .resources import keep_freed_memory
from .second import Second

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

    second: the process, which gets ready now; until it is, and if it ever dies, all work is done here. settings,
    machine: what the model was loaded with. notify: is told, in a sentence, when the helper is no more.
    """

    def __init__(
        self,
        generator: Generator,
        renderer: Renderer,
        *,
        second: Second,
        settings: ModelSettings,
        machine: Machine,
        notify: Callable[[str], None],
    ) -> None:
        self._second, self._generator, self._notify = second, generator, notify
        self._known = _known(generator, renderer)
        self._sent: tuple[int, ...] | None = None  # the weights that the helper has
        self._ready = False
        self._answer: list[Any] | None = None
        states = generator.states
        limits = {"max_batch_tokens": states.max_batch_tokens, "max_cache_bytes": states.cache.max_bytes}
        self._line = second.line
        self._send(pickle.dumps((settings, machine, generator.policy.names, limits)))

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
        self._send(written.getbuffer())

    def _send(self, what: bytes | memoryview) -> None:
        try:
            self._line.send_bytes(what)
        except OSError:
            self._lose()

    def _listen(self, advance: Callable[..., None], *, wait: bool) -> None:
        """Takes up what the helper says, until its answer is there or it has nothing to say. wait: for the answer."""
        try:
            while self._second.running and self._answer is None and (wait or self._line.poll()):
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

    def _lose(self) -> None:
        self._ready = False
        self._second.close()
        self._notify("the second process has ended before its work; this one goes on alone, at half the speed")


def serve(descriptor: int) -> None:
    """The helper's side: gets ready, then does what it is asked until nobody can ask any more. Whatever goes wrong
    ends it, and comes to light where the same work is done again."""
    torch.set_num_threads(1)
    keep_freed_memory()
    line = Connection(descriptor)
    settings, machine, names, limits = pickle.loads(line.recv_bytes())
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
