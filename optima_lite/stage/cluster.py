"""Workers of a Ray cluster do the work of a run; the driver gives it out, and alone writes the run folder.

Results do not depend on who works: a piece goes to another worker when one is lost, and to a second one when one is
slow. Workers may come and go. The driver loads no weights. Ray starts the processes, carries what they say and knows
who is there; who does what is decided in `schedule`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

from ..errors import ModelError, OptimaError, RunError
from ..learn.halving import OutOfMemory
from ..learn.parallel import PeerLost, Place
from ..learn.sft import planned_steps
from ..records import Question
from ..runs.progress import Advance
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .cast import Cast, outline
from .crew import Job
from .doctor import versions
from .joining import actor_of, joined, wanted
from .lesson import Lesson
from .schedule import Schedule
from .worker import Adapters, Done, Given, Standing, Worker, content, written

Made = TypeVar("Made")
_LOST = (RayActorError, ObjectLostError, GetTimeoutError)
_LOOK = 2.0  # seconds after which it is looked at who is there
_PATIENCE = 1.5  # times as long as usual, after which an idle worker does the piece of another as well
_GIVE_UP = 10.0  # times as long as usual, after which a worker whose piece somebody else has done is dismissed
_FROZEN = 20.0  # times as long as usual, after which any worker counts as lost
_LEAST = 300.0  # seconds that any worker may take for a piece
_STEP = 60.0  # seconds that those who train may take for a step of the optimiser
_TRIES = 3  # workers that a piece, or the start of a worker, may cost
_SAY = 60.0  # seconds after which it is said that nobody is there, and for which a trainer is waited for


class Took(NamedTuple):
    """What a piece has taken a worker, which is a process: seconds, and cpu: seconds of the processor."""

    pid: int
    seconds: float
    cpu: float


@contextmanager
def clustered(
    recipe: Recipe,
    *,
    machine: Machine,
    settle: Callable[[str, Callable[[], int]], int],
    notify: Callable[[str], None],
    start: Path | None = None,
) -> Iterator[Workers]:
    """The workers of the machine's cluster, for the `with` block, to be gathered in it; at its end none of them is
    running any more.

    settle: of the run: what the first worker finds, all others get. Raises RunError where there is no such cluster.
    """
    with joined(machine.cluster):
        workers = Workers(recipe, machine=machine, settle=settle, notify=notify, start=start)
        try:
            yield workers
        finally:
            workers.dismiss()


class Workers:
    """A crew, see `crew.Crew`. cast: without the weights of the model."""

    cast: Cast

    def __init__(
        self,
        recipe: Recipe,
        *,
        machine: Machine,
        settle: Callable[[str, Callable[[], int]], int],
        notify: Callable[[str], None],
        start: Path | None,
    ) -> None:
        self._recipe, self._machine, self._settle, self._notify = recipe, machine, settle, notify
        self._start, self._clock, self._silence = start, time.monotonic, machine.cluster.silence
        code = recipe.task.code
        source = None if code is None else (code.path.name, code.path.read_bytes())
        begun = None if start is None else content(start)
        self._given = Given(recipe.to_dict(), machine, source, {}, begun)
        self.speak_with(None)
        self._idle: list[Any] = []
        self._standing: dict[Any, Standing] = {}  # what each has said when it was ready
        self._busy: dict[Any, Any] = {}  # by what they are to answer, who is at work on what is still wanted
        self._coming: dict[Any, tuple[Any, float]] = {}  # the same, who is getting ready, and until when
        self._late: dict[Any, tuple[Any, float]] = {}  # the same, whose answer is wanted no more
        self._failed, self._refused, self._weights, self._said_last = 0, 0, "", self._clock()
        self._why = ""  # the last one was lost
        self.took: list[Took] = []  # each piece that was done, in the order of the answers

    # --- Who is there --------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Waits for the first worker, whose limits all others and the run then have."""
        while not self._idle:
            if not self._coming:
                self._hire()
            self._look()
        self._staff()

    @property
    def size(self) -> int:
        """How many can be given work, or have some."""
        return len(self._idle) + len(self._busy)

    def complete(self) -> None:
        """Waits until nobody is getting ready any more."""
        while self._coming:
            self._look()

    def each(self, job: Job[Any], items: Sequence[Any]) -> Iterator[tuple[Standing, Done]]:
        """What each idle worker says of itself, and what it makes of the same items. Who is lost is left out."""
        for worker in self._idle:
            done = self._said(worker.do.remote(self._adapters, job, list(items)))
            if done is not None:
                yield self._standing[worker], done

    def dismiss(self) -> None:
        """Ends all workers."""
        others = [worker for worker, _ in (*self._coming.values(), *self._late.values())]
        for worker in (*self._idle, *self._busy.values(), *others):
            ray.kill(worker)

    def _hire(self) -> None:
        worker = actor_of(Worker, self._machine.cluster).remote()
        self._coming[worker.ready.remote(self._given)] = worker, self._clock() + self._silence

    def _staff(self) -> None:
        """As many as there is room for, when the first one is there."""
        there = len(self._idle) + len(self._busy) + len(self._coming) + len(self._late) + self._refused
        for _ in range(wanted(self._machine.cluster) - there):
            self._hire()

    def _look(self) -> Any | None:
        """Waits a moment for an answer; takes up who has become ready, or idle again. Returns an answer that is
        wanted. Says every minute when nobody is there to give one."""
        refs = [*self._busy, *self._coming, *self._late]
        if not refs:
            time.sleep(_LOOK)
        found, _ = ray.wait(refs, num_returns=1, timeout=_LOOK) if refs else ([], [])
        if self._busy or self._idle:
            self._said_last = self._clock()
        elif self._clock() - self._said_last > _SAY:
            self._said_last = self._clock()
            self._notify("no worker is there: waiting for the cluster; Ctrl-C leaves a run that can be resumed")
        if not found:
            for kept in (self._late, self._coming):
                for ref in [ref for ref, (_, until) in kept.items() if self._clock() > until]:
                    worker, _ = kept.pop(ref)
                    self._give_up(worker)
            if hasattr(self, "cast"):
                self._staff()
            return None
        (ref,) = found
        if ref in self._busy:
            return ref
        known = ref in self._late
        worker, _ = (self._late if known else self._coming).pop(ref)
        said = self._said(ref)
        if said is None:
            self._replace() if known else self._fail()
        elif known or self._agrees(said):
            self._failed = 0
            self._idle.append(worker)
            if not known:
                self._standing[worker] = said
        else:
            ray.kill(worker)
        return None

    def _give_up(self, worker: Any) -> None:
        self._busy = {ref: one for ref, one in self._busy.items() if one is not worker}
        ray.kill(worker)
        self._notify("a worker that did not answer any more was dismissed")

    def _said(self, ref: Any) -> Any | None:
        """What a worker has answered; None where it is no more. Raises the error that it met."""
        said = self._heard(ref)
        if isinstance(said, OptimaError):
            raise said
        return said

    def _heard(self, ref: Any) -> Any | None:
        try:
            return ray.get(ref, timeout=self._silence)
        except _LOST as error:
            self._why = (str(error).strip().splitlines() or [""])[-1].strip()
            return None

    def _fail(self) -> None:
        self._failed += 1
        if self._failed >= _TRIES:
            what = f"{_TRIES} workers ended before they were ready, the last one with: {self._why[:300]}"
            raise RunError(what, where="cluster", hint="Ray's logs have more of it")
        self._replace()

    def _replace(self) -> None:
        self._notify("a worker was lost; another one is hired")
        self._hire()

    def _agrees(self, said: Standing) -> bool:
        """Whether a worker may work for this run: it must have the versions and the weights of the others."""
        for note in said.notes:
            self._notify(note)
        own = versions()
        differing = [name for name in own if said.versions.get(name) != own[name]]
        other = [f"{name} {said.versions.get(name)} instead of {own[name]}" for name in differing]
        if self._weights and said.weights != self._weights:
            other.append("other weights of the model")
        if other:
            self._notify(f"the worker on {said.host} is refused, because it has {', '.join(other)}")
            self._refused += 1
            if self._refused >= _TRIES and not (self._idle or self._busy or self._late):
                what = "no worker of the cluster has what this run needs"
                raise ModelError(what, where="cluster", hint="the same versions everywhere, and the same model files")
            return False
        self._weights = said.weights
        if not hasattr(self, "cast"):
            settled = {name: self._settle(name, partial(int, value)) for name, value in said.settled.items()}
            self.cast = outline(self._recipe, machine=self._machine, settled=settled, start=self._start)
            self._given = replace(self._given, settled=settled)
        return True

    # --- What they do --------------------------------------------------------------------------------------

    def map(self, job: Job[Made], pieces: Sequence[Sequence[Any]], advance: Advance) -> Iterator[list[Made]]:
        """See `Crew`. Raises RunError naming the questions of a piece that has cost three workers."""
        schedule: Schedule[list[Made]] = Schedule(len(pieces), patience=_PATIENCE, tries=_TRIES)
        try:
            while schedule.open:
                self._give(schedule, job, pieces)
                ref = self._look()
                if ref is not None:
                    self._take(ref, schedule, pieces, advance)
                else:
                    self._miss(schedule, pieces)
                yield from schedule.take()
        finally:
            until = self._clock() + _GIVE_UP * max(schedule.usual, _LOOK)
            self._late |= {ref: (worker, until) for ref, worker in self._busy.items()}
            self._busy.clear()

    def train(self, lesson: Lesson, folder: Path, advance: Advance, notify: Callable[[str], None]) -> None:
        """See `Crew`. One worker trains, or as many as the machine file says; the others rest. Raises RunError when it
        has cost three workers."""
        micro_batch, lost = self.cast.micro_batch, 0
        while lost < _TRIES:
            outcome = self._trained(self._group(lesson), lesson, micro_batch)
            if isinstance(outcome, Done):
                self._tell(outcome, advance)
                written(outcome.made, folder)
                return
            if isinstance(outcome, OutOfMemory) and micro_batch > 1:
                micro_batch //= 2
                notify(f"out of memory: the step begins anew with {micro_batch} examples at a time")
            elif outcome is None or isinstance(outcome, PeerLost):
                lost += 1
                notify("a worker that trained was lost; the step begins anew")
            else:
                raise outcome
        raise RunError(f"a training step cost {_TRIES} workers", where=lesson.name, hint="the same command resumes")

    def _group(self, lesson: Lesson) -> list[Any]:
        """The workers that train, who are idle no more. Where there are not as many as wanted within a minute, those
        that are there, as far as they can share a batch evenly."""
        cluster, until = self._machine.cluster, self._clock() + _SAY
        most = min(cluster.trainers, wanted(cluster))
        while len(self._idle) < most and not (self._idle and self._clock() > until):
            self._look()
        number = min(most, len(self._idle))
        while number < most and lesson.settings.batch_size % number:
            number -= 1
        if number < most:
            self._notify(f"{number} instead of {most} train, because no more workers are there")
        group, self._idle = self._idle[:number], self._idle[number:]
        return group

    def _trained(self, group: Sequence[Any], lesson: Lesson, micro_batch: int) -> Done | OptimaError | None:
        """What comes of a training step by these workers; None where one of them was lost. Then, and after an error,
        the others are dismissed, because they wait for one that will not come."""
        places = self._places(group)
        if places is None:
            self._dismissed(group)
            return None
        for worker, place in zip(group, places, strict=True):
            self._busy[worker.train.remote(self._adapters, lesson, micro_batch, place)] = worker
        steps = sum(planned_steps(len(rows), lesson.settings) for rows in lesson.rows.values())
        until, outcome = self._clock() + self._silence + steps * _STEP, None
        while self._busy:
            ref = self._look()
            if ref is None and self._clock() < until:
                continue
            outcome = None if ref is None else self._heard(ref)
            if not isinstance(outcome, Done):
                self._dismissed([one for one in group if one not in self._idle])
                return outcome
            self._idle.append(self._busy.pop(ref))
        return outcome

    def _places(self, group: Sequence[Any]) -> list[Place | None] | None:
        """Where each of a group of trainers stands; None where the first is no more."""
        if len(group) == 1:
            return [None]
        try:
            host, port = ray.get(group[0].door.remote(), timeout=_SAY)
        except _LOST:
            return None
        return [Place(rank, len(group), host, port) for rank in range(len(group))]

    def _dismissed(self, group: Sequence[Any]) -> None:
        """Others are hired instead of a group."""
        for worker in group:
            self._busy = {ref: one for ref, one in self._busy.items() if one is not worker}
            ray.kill(worker)
            self._hire()

    def speak_with(self, adapter: Path | None) -> None:
        """See `Crew`."""
        folder = adapter or self._start
        files = {} if folder is None else {n: d for n, d in content(folder).items() if Path(n).name in _ADAPTER}
        version = hashlib.blake2b(digest_size=8)
        for name, data in sorted(files.items()):
            version.update(name.encode() + data)
        self._adapters = ray.put(Adapters(version.hexdigest() if files else "fresh", files))

    def _give(self, schedule: Schedule[Any], job: Job[Any], pieces: Sequence[Sequence[Any]]) -> None:
        for worker in list(self._idle):
            piece = schedule.give(worker, self._clock())
            if piece is None:
                return
            self._idle.remove(worker)
            self._busy[worker.do.remote(self._adapters, job, list(pieces[piece]))] = worker

    def _miss(self, schedule: Schedule[Any], pieces: Sequence[Sequence[Any]]) -> None:
        """Dismisses workers that ought to have answered by now, though nobody has."""
        longest = max(_LEAST, _FROZEN * schedule.usual) if schedule.usual else self._silence
        for worker in schedule.silent(self._clock(), times=_GIVE_UP, longest=longest):
            self._give_up(worker)
            self._lose(worker, schedule, pieces)

    def _take(self, ref: Any, schedule: Schedule[Any], pieces: Sequence[Sequence[Any]], advance: Advance) -> None:
        worker = self._busy.pop(ref)
        done: Done | None = self._said(ref)
        if done is None:
            self._replace()
            self._lose(worker, schedule, pieces)
            return
        self._idle.append(worker)
        self.took.append(Took(self._standing[worker].pid, done.seconds, done.cpu))
        if schedule.answer(worker, done.made, self._clock()):
            self._tell(done, advance)

    def _tell(self, done: Done, advance: Advance) -> None:
        for what, how in done.told:
            advance(*what, **how)
        for note in done.notes:
            self._notify(note)
        self.cast.meter.count(**done.counts)

    def _lose(self, worker: Any, schedule: Schedule[Any], pieces: Sequence[Sequence[Any]]) -> None:
        given_up = schedule.lose(worker)
        if given_up is not None:
            asked = ", ".join(filter(None, map(_about, pieces[given_up])))
            what = f"a piece of work has cost {_TRIES} workers: questions {asked[:500]}"
            hint = "a smaller cluster.chunk, or more cluster.silence; the same command resumes"
            raise RunError(what, where="cluster", hint=hint)


_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def _about(item: Any) -> str | None:
    """The id of the question that an item is about."""
    question = item if isinstance(item, Question) else getattr(item, "question", None)
    return getattr(question, "id", None)
