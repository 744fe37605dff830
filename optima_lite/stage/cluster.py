"""Workers of a Ray cluster do the work of a run; the driver gives it out, and alone writes the run folder.

Results do not depend on who works: a piece goes to another worker when one is lost, and to a second one when one is
slow. The driver loads no weights. Who is there is known to `staff`; who does what is decided in `schedule`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray
from ray.exceptions import RayError

from ..errors import OptimaError, RunError
from ..learn.halving import OutOfMemory
from ..learn.parallel import PeerLost, Place
from ..learn.sft import planned_steps
from ..records import Question
from ..runs.progress import Advance
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .cast import Cast, Settle
from .crew import Job
from .joining import joined, wanted
from .lesson import Lesson
from .schedule import Schedule
from .staff import LOOK, TRIES, Staff
from .worker import Adapters, Done, Standing, content, written

Made = TypeVar("Made")
_PATIENCE = 1.5  # times as long as usual, after which an idle worker does the piece of another as well
_GIVE_UP = 10.0  # times as long as usual, after which a worker whose piece somebody else has done is dismissed
_FROZEN = 20.0  # times as long as usual, after which any worker counts as lost
_LEAST = 300.0  # seconds that any worker may take for a piece
_STEP = 60.0  # seconds that those who train may take for a step of the optimiser
_WAIT = 60.0  # seconds for which more trainers are waited for


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
    settle: Settle,
    settled: Mapping[str, Any],
    notify: Callable[[str], None],
    start: Path | None = None,
) -> Iterator[Workers]:
    """The workers of the machine's cluster, for the `with` block, to be gathered in it; at its end none of them is
    running any more.

    settle: of the run: what the first worker finds, all others get. settled: what the run has found before, by the
    names of its manifest; the first worker, too, gets that. Raises RunError where there is no such cluster.
    """
    with joined(machine.cluster):
        staff = Staff(recipe, machine=machine, settle=settle, settled=settled, notify=notify, start=start)
        try:
            yield Workers(staff, machine=machine, notify=notify, start=start)
        finally:
            staff.end()


class Workers:
    """A crew, see `crew.Crew`. cast: without the weights of the model. took: each piece that was done, in the order of
    the answers."""

    def __init__(self, staff: Staff, *, machine: Machine, notify: Callable[[str], None], start: Path | None) -> None:
        self._staff, self._cluster, self._notify, self._start = staff, machine.cluster, notify, start
        self.took: list[Took] = []
        self.speak_with(None)

    @property
    def cast(self) -> Cast:
        """Of the staff."""
        return self._staff.cast

    @property
    def size(self) -> int:
        """How many can be given work, or have some."""
        return self._staff.size

    def gather(self) -> None:
        """Waits for the first worker, and hires the others."""
        self._staff.gather()

    def coming(self) -> Iterator[None]:
        """Waits until all are ready whom there is room for; takes a breath every two seconds or less."""
        while not (self.size and self._staff.complete):
            self._staff.look()
            yield

    def each(self, job: Job[Any], items: Sequence[Any]) -> Iterator[tuple[Standing, Done | None]]:
        """What each idle worker says of itself, and what it makes of the same items; None for one that was lost."""
        for worker in self._staff.idle:
            yield self._staff.standing[worker], self._said(worker.do.remote(self._adapters, job, list(items)))

    def _said(self, ref: Any) -> Done | None:
        """What a worker has made; None where it is no more. Raises the error that it met."""
        said = self._staff.heard(ref)
        if isinstance(said, OptimaError):
            raise said
        return said

    def map(self, job: Job[Made], pieces: Sequence[Sequence[Any]], advance: Advance) -> Iterator[list[Made]]:
        """See `Crew`. Raises RunError naming the questions of a piece that has cost three workers."""
        schedule: Schedule[list[Made]] = Schedule(len(pieces), patience=_PATIENCE, tries=TRIES)
        try:
            while schedule.open:
                self._give(schedule, job, pieces)
                ref = self._staff.look()
                if ref is not None:
                    self._take(ref, schedule, pieces, advance)
                self._miss(schedule, pieces)
                yield from schedule.take()
        finally:
            self._staff.forget(_GIVE_UP * max(schedule.usual, LOOK))

    def train(self, lesson: Lesson, folder: Path, advance: Advance, notify: Callable[[str], None]) -> None:
        """See `Crew`. One worker trains, or as many as the machine file says; the others rest. Raises RunError when it
        has cost three workers."""
        micro_batch, lost = self.cast.micro_batch, 0
        while lost < TRIES:
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
        what = f"a training step cost {TRIES} workers, the last one with: {self._staff.why}"
        raise RunError(what, where=lesson.name, hint="the same command resumes")

    def _group(self, lesson: Lesson) -> list[Any]:
        """The workers that train, who are idle no more. Where there are not as many as wanted within a minute, those
        that are there, as far as they can share a batch evenly."""
        staff, until = self._staff, time.monotonic() + _WAIT
        most = min(self._cluster.trainers, wanted(self._cluster))
        while not staff.idle or (len(staff.idle) < most and staff.expected and time.monotonic() < until):
            staff.look()
        number = min(most, len(staff.idle))
        while number < most and lesson.settings.batch_size % number:
            number -= 1
        if number < most:
            self._notify(f"{number} instead of {most} train, because no more workers are there")
        group, staff.idle = staff.idle[:number], staff.idle[number:]
        return group

    def _trained(self, group: Sequence[Any], lesson: Lesson, micro_batch: int) -> Done | OptimaError | None:
        """What comes of a training step by these workers; None where one of them was lost. Then, and after an error,
        the others are dismissed, because they wait for one that will not come."""
        staff, places = self._staff, self._places(group)
        if places is None:
            self._dismissed(group)
            return None
        for worker, place in zip(group, places, strict=True):
            staff.busy[worker.train.remote(self._adapters, lesson, micro_batch, place)] = worker
        steps = sum(planned_steps(len(rows), lesson.settings) for rows in lesson.rows.values())
        until, outcome = time.monotonic() + self._cluster.silence + steps * _STEP, None
        while staff.busy:
            ref = staff.look()
            if ref is None and time.monotonic() < until:
                continue
            outcome = None if ref is None else staff.heard(ref)
            if not isinstance(outcome, Done):
                self._dismissed([one for one in group if one not in staff.idle])
                return outcome
            staff.idle.append(staff.busy.pop(ref))
        return outcome

    def _places(self, group: Sequence[Any]) -> list[Place | None] | None:
        """Where each of a group of trainers stands; None where the first is no more."""
        if len(group) == 1:
            return [None]
        try:
            host, port = ray.get(group[0].door.remote(), timeout=_WAIT)
        except RayError:
            return None
        return [Place(rank, len(group), host, port) for rank in range(len(group))]

    def _dismissed(self, group: Sequence[Any]) -> None:
        """Others are hired instead of a group."""
        for worker in group:
            self._staff.dismiss(worker)

    def speak_with(self, adapter: Path | None) -> None:
        """See `Crew`."""
        folder = adapter or self._start
        files = {} if folder is None else {n: d for n, d in content(folder).items() if Path(n).name in _ADAPTER}
        version = hashlib.blake2b(digest_size=8)
        for name, data in sorted(files.items()):
            version.update(name.encode() + data)
        self._adapters = ray.put(Adapters(version.hexdigest() if files else "fresh", files))

    def _give(self, schedule: Schedule[Any], job: Job[Any], pieces: Sequence[Sequence[Any]]) -> None:
        staff = self._staff
        for worker in list(staff.idle):
            piece = schedule.give(worker, time.monotonic())
            if piece is None:
                return
            staff.idle.remove(worker)
            staff.busy[worker.do.remote(self._adapters, job, list(pieces[piece]))] = worker

    def _miss(self, schedule: Schedule[Any], pieces: Sequence[Sequence[Any]]) -> None:
        """Dismisses workers that ought to have answered by now, and have not."""
        longest = max(_LEAST, _FROZEN * schedule.usual) if schedule.usual else self._cluster.silence
        for worker in schedule.silent(time.monotonic(), times=_GIVE_UP, longest=longest):
            if not self._staff.answered(worker):
                self._staff.give_up(worker)
                self._lose(worker, schedule, pieces)

    def _take(self, ref: Any, schedule: Schedule[Any], pieces: Sequence[Sequence[Any]], advance: Advance) -> None:
        staff = self._staff
        worker, done = staff.busy.pop(ref), self._said(ref)
        if done is None:
            staff.replace(worker)
            self._lose(worker, schedule, pieces)
            return
        staff.idle.append(worker)
        self.took.append(Took(staff.standing[worker].pid, done.seconds, done.cpu))
        if schedule.answer(worker, done.made, time.monotonic()):
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
            asked = ", ".join(filter(None, map(_about, pieces[given_up])))[:500]
            last = f", the last one with: {self._staff.why}" if self._staff.why else ""
            what = f"a piece of work has cost {TRIES} workers: questions {asked}{last}"
            hint = "a smaller cluster.chunk, or more cluster.silence; the same command resumes"
            raise RunError(what, where="cluster", hint=hint)


_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def _about(item: Any) -> str | None:
    """The id of the question that an item is about."""
    question = item if isinstance(item, Question) else getattr(item, "question", None)
    return getattr(question, "id", None)
