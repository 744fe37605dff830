"""The workers of a Ray cluster that a run has: who is hired, getting ready, idle, at work, late, refused or lost.

Workers may come and go. Ray starts their processes, carries what they say and knows what there is room for; whom a run
can use is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ..errors import ModelError, RunError
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .cast import LIMITS, Cast, Settle, outline
from .doctor import versions
from .joining import actor_of, needs, room, wanted
from .worker import Given, Standing, Worker, content

LOOK = 2.0  # seconds after which it is looked at who is there
TRIES = 3  # workers that a piece, a training step, or the start of a worker may cost
_SAY = 60.0  # seconds after which it is said that nobody is there


class Staff:
    """idle: who can be given work. busy: who is at work on what is wanted, by what they are to answer. standing: what
    each has said when it was ready. cast: without the weights of the model; there when the first worker is."""

    cast: Cast

    def __init__(
        self,
        recipe: Recipe,
        *,
        machine: Machine,
        settle: Settle,
        settled: Mapping[str, Any],
        notify: Callable[[str], None],
        start: Path | None,
    ) -> None:
        self._recipe, self._machine, self._cluster = recipe, machine, machine.cluster
        self._settle, self._notify, self._start = settle, notify, start
        code = recipe.task.code
        source = None if code is None else (code.path.name, code.path.read_bytes())
        known = {name: int(settled[name]) for name in LIMITS if name in settled}
        self._given = Given(recipe.to_dict(), machine, source, known, None if start is None else content(start))
        self.idle: list[Any] = []
        self.busy: dict[Any, Any] = {}
        self.standing: dict[Any, Standing] = {}
        self._coming: dict[Any, tuple[Any, float]] = {}  # by what they are to answer, who gets ready, and until when
        self._late: dict[Any, tuple[Any, float]] = {}  # the same, whose answer is wanted no more
        self._refused: list[float] = []  # until when nobody is hired again instead of each who was
        self._failed, self._weights, self.why = 0, "", ""  # why: what the last one was lost with
        self._next = self._seen = time.monotonic()

    @property
    def size(self) -> int:
        """How many can be given work, or have some."""
        return len(self.idle) + len(self.busy)

    @property
    def complete(self) -> bool:
        """Whether all are ready who are hired, as far as the cluster has room for them."""
        most = min(wanted(self._cluster), room(self._cluster))
        return not self._coming or self.size + len(self._late) + self._kept_out() >= most

    @property
    def expected(self) -> bool:
        """Whether anybody else may be idle before long."""
        return bool(self._late) or not self.complete

    def gather(self) -> None:
        """Waits for the first worker, whose limits all others and the run then have, and who are hired then."""
        while not self.idle:
            self.look()

    def look(self) -> Any | None:
        """Waits a moment for an answer; takes up who has become ready, or idle again. Returns an answer that is
        wanted. Says every minute when nobody is there to give one."""
        if time.monotonic() >= self._next:
            self._go_round()
        refs = [*self._coming, *self._late, *self.busy]  # those who always answer do not hide the others
        if not refs:
            time.sleep(LOOK)
            return None
        found, _ = ray.wait(refs, num_returns=1, timeout=LOOK)
        if not found:
            return None
        (ref,) = found
        if ref in self.busy:
            return ref
        self._take_up(ref)
        return None

    def heard(self, ref: Any) -> Any | None:
        """What a worker has answered; None where it cannot any more."""
        try:
            return ray.get(ref, timeout=self._cluster.silence)
        except RayError as error:  # which is also what an error of the worker's own comes as, and it goes on with that
            self.why = (str(error).strip().splitlines() or [""])[-1].strip()[:300]
            return None

    def answered(self, worker: Any) -> bool:
        """Whether the answer of one who is at work is there, though nobody has taken it up yet."""
        refs = [ref for ref, one in self.busy.items() if one is worker]
        return bool(refs) and _there(refs[0])

    def replace(self, worker: Any) -> None:
        """A worker was lost."""
        ray.kill(worker)  # it may live, and keep its GPU, where only the way to it is cut off
        self._notify("a worker was lost; another one is hired")
        self._hire()

    def give_up(self, worker: Any) -> None:
        """A worker has not answered for too long."""
        self.busy = {ref: one for ref, one in self.busy.items() if one is not worker}
        ray.kill(worker)
        self._notify("a worker that did not answer any more was dismissed")

    def dismiss(self, worker: Any) -> None:
        """Another one is hired instead of a worker."""
        self.busy = {ref: one for ref, one in self.busy.items() if one is not worker}
        ray.kill(worker)
        self._hire()

    def forget(self, patience: float) -> None:
        """Nobody wants any more what those who are at work will answer. patience: seconds that they have for it."""
        until = time.monotonic() + patience
        self._late |= {ref: (worker, until) for ref, worker in self.busy.items()}
        self.busy = {}

    def end(self) -> None:
        """Ends all workers."""
        others = [worker for worker, _ in (*self._coming.values(), *self._late.values())]
        for worker in (*self.idle, *self.busy.values(), *others):
            ray.kill(worker)

    def _hire(self) -> None:
        worker = actor_of(Worker, self._cluster).remote()
        self._coming[worker.ready.remote(self._given)] = worker, time.monotonic() + self._cluster.silence

    def _hire_missing(self) -> None:
        """One until the first is there; from then on as many as there is room for."""
        there = self.size + len(self._coming) + len(self._late)
        first = not hasattr(self, "cast")
        for _ in range(1 - there if first else wanted(self._cluster) - there - self._kept_out()):
            self._hire()

    def _kept_out(self) -> int:
        return sum(until > time.monotonic() for until in self._refused)

    def _go_round(self) -> None:
        """However many answers come in meanwhile: whoever has parted is missed, and whoever is new has work."""
        now = time.monotonic()
        self._next = now + LOOK
        for kept in (self._late, self._coming):
            for ref in [ref for ref, (_, until) in kept.items() if now > until and not _there(ref)]:
                self.give_up(kept.pop(ref)[0])
        self._hire_missing()
        if self.size:
            self._seen = now
        elif now - self._seen > _SAY:
            self._seen = now
            what = f"no worker is there: waiting for the cluster, {needs(self._cluster)}"
            self._notify(f"{what}; Ctrl-C leaves a run that can be resumed")

    def _take_up(self, ref: Any) -> None:
        late = ref in self._late
        worker, _ = (self._late if late else self._coming).pop(ref)
        said = self.heard(ref)
        if said is None:
            self.replace(worker) if late else self._fail(worker)
        elif late or self._agrees(said):
            self._failed = 0
            self.idle.append(worker)
            if not late:
                self.standing[worker] = said
                self._hire_missing()
        else:
            ray.kill(worker)

    def _fail(self, worker: Any) -> None:
        """A worker has ended before it was ready. Raises RunError when others did, too, and none is there."""
        self._failed += 1
        if self._failed < TRIES:
            self.replace(worker)
            return
        ray.kill(worker)
        what = f"{TRIES} workers ended before they were ready, the last one with: {self.why}"
        if not (self.size or self._late):
            raise RunError(what, where="cluster", hint="Ray's logs have more of it")
        self._failed = 0
        self._refuse(f"{what}; the others go on")

    def _refuse(self, told: str) -> None:
        self._notify(told)
        self._refused.append(time.monotonic() + self._cluster.silence)

    def _agrees(self, said: Standing) -> bool:
        """Whether a worker may work for this run: it must have the versions and the weights of the others. Raises what
        it has met where it is the first."""
        for note in said.notes:
            self._notify(note)
        own = versions()
        differing = [name for name in own if said.versions.get(name) != own[name]]
        why = [f"{name} {said.versions.get(name, 'missing')} instead of {own[name]}" for name in differing]
        if said.wrong is None and self._weights and said.weights != self._weights:
            why.append("other weights of the model")
        if said.wrong is not None and not why:
            if not hasattr(self, "cast"):
                said.wrong.where = f"{said.wrong.where or 'a worker'}, on {said.host}"
                raise said.wrong
            self._refuse(f"the worker on {said.host} is refused: {said.wrong.what}")
        elif why:
            self._refuse(f"the worker on {said.host} is refused, because it has {', '.join(why)}")
        else:
            self._accept(said)
            return True
        if len(self._refused) >= TRIES and not (self.size or self._late):
            what = "no worker of the cluster has what this run needs"
            raise ModelError(what, where="cluster", hint="the same versions everywhere, and the same model files")
        return False

    def _accept(self, said: Standing) -> None:
        self._weights = said.weights
        if not hasattr(self, "cast"):
            settled = {name: self._settle(name, partial(int, value)) for name, value in said.settled.items()}
            self.cast = outline(self._recipe, machine=self._machine, settled=settled, start=self._start)
            self._given = replace(self._given, settled=settled)


def _there(ref: Any) -> bool:
    return bool(ray.wait([ref], num_returns=1, timeout=0)[0])
