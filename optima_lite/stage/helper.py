"""A second process with the same agents, which does half of the work.

A small model does not keep two cores busy: its matrices are too small to be cut up, and most of a step is Python. Two
processes with a thread each do. Both compute alike, so that nobody can tell from a record who made it; a helper that
dies costs time, never a result.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from ..model.resources import free_memory, keep_freed_memory
from ..model.second import Second, possible
from ..runs.progress import Advance
from ..settings.machine import Machine
from .cast import Cast, assemble
from .crew import Alone, Crew, Job
from .schedule import Schedule

Made = TypeVar("Made")
_BESIDES = 2 << 30  # bytes that two processes may need besides what their caches may hold
_HERE, _THERE = "here", "there"


@contextmanager
def helped(
    cast: Cast, *, machine: Machine, notify: Callable[[str], None], second: Second | None = None
) -> Iterator[Crew]:
    """Who works in the `with` block: this process alone where nothing can be shared, or the machine has no second core,
    or not the memory. second: a process that was begun already. notify: see `Helped`."""
    room = 2 * cast.team.generator.states.cache.max_bytes + _BESIDES
    alike = torch.get_num_threads() == 1  # as the helper computes; a run of an earlier version may have settled on more
    if cast.parts < 2 or not alike or not possible(cast.recipe, machine) or free_memory() < room:
        yield Alone(cast)
        return
    second = second or Second()
    try:
        yield Helped(cast, second=second, machine=machine, notify=notify)
    finally:
        second.close()


class Helped(Alone):
    """This process and another one beside it, which has the like agents.

    second: the process, which gets ready now; until it is, and if it ever dies, all work is done here. machine: what
    the cast was assembled with. notify: is told, in a sentence, when the helper is no more.
    """

    def __init__(self, cast: Cast, *, second: Second, machine: Machine, notify: Callable[[str], None]) -> None:
        super().__init__(cast)
        self._second, self._notify = second, notify
        self._generator, self._line = cast.team.generator, second.line
        self._sent: tuple[int, ...] | None = None  # the weights that the helper has
        self._ready = False
        self._answer: list[Any] | None = None
        self._send((cast.recipe, machine, dict(cast.settled)))

    def ready(self) -> bool:
        """Whether it can be asked by now."""
        if not self._ready:
            self._listen(lambda *what, **how: None, wait=False)
        return self._ready

    def map(self, job: Job[Made], pieces: Sequence[Sequence[Any]], advance: Advance) -> Iterator[list[Made]]:
        """See `Crew`."""
        schedule: Schedule[list[Made]] = Schedule(len(pieces), patience=float("inf"))

        def told(*what: Any, **how: Any) -> None:
            advance(*what, **how)
            self._hear(schedule, advance, wait=False)

        while schedule.open:
            mine = schedule.give(_HERE, time.monotonic())
            if _THERE not in schedule.busy and self.ready():
                theirs = schedule.give(_THERE, time.monotonic())
                if theirs is not None:
                    self._ask(job, pieces[theirs])
            if mine is not None:
                made = job.do(self.cast, pieces[mine], told)
                schedule.answer(_HERE, made, time.monotonic())
            self._hear(schedule, advance, wait=mine is None)
            yield from schedule.take()

    def _hear(self, schedule: Schedule[list[Made]], advance: Advance, *, wait: bool) -> None:
        """Enters what the helper has done. wait: until it has, or is no more."""
        if _THERE not in schedule.busy:
            return
        self._listen(advance, wait=wait)
        if self._answer is not None:
            schedule.answer(_THERE, self._answer, time.monotonic())
            self._answer = None
        elif not self._ready:
            schedule.lose(_THERE)

    def _ask(self, job: Job[Any], items: Sequence[Any]) -> None:
        policy, weights = self._generator.policy, None
        if self._sent != self._generator.fingerprint():
            self._sent = self._generator.fingerprint()
            weights = [weight.detach().numpy() for name in policy.names for weight in policy.weights(name)]
        self._send((weights, job, list(items)))

    def _send(self, what: object) -> None:
        try:
            self._line.send_bytes(pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL))
        except OSError:
            self._lose()

    def _listen(self, advance: Advance, *, wait: bool) -> None:
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
    recipe, machine, settled = pickle.loads(line.recv_bytes())
    cast = assemble(recipe, machine=machine, settle=lambda key, decide: settled[key] if key in settled else decide())
    policy, generator = cast.policy, cast.team.generator
    line.send(("ready",))
    while asked := _received(line):
        weights, job, items = pickle.loads(asked)
        if weights is not None:
            policy.take([torch.from_numpy(weight) for weight in weights])
        before = asdict(generator.counts)
        made = job.do(cast, items, lambda *what, **how: line.send(("advance", what, how)))
        counts = {name: count - before[name] for name, count in asdict(generator.counts).items()}
        line.send(("done", made, counts))


def _received(line: Connection) -> bytes:
    try:
        return line.recv_bytes()
    except EOFError:
        return b""
