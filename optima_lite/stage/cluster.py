"""Workers of a Ray cluster do the work of a run; the driver gives it out, and alone writes the run folder.

Results do not depend on who works: a piece goes to another worker when one is lost, and to a second one when one is
slow. Workers may come and go. The driver loads no weights. Ray starts the processes, carries what they say and knows
who is there; who does what is decided in `schedule`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from ..errors import ModelError, OptimaError, RunError
from ..learn.halving import OutOfMemory
from ..learn.parallel import Place
from ..model.resources import cores
from ..records import Question
from ..runs.progress import Advance
from ..settings.machine import Cluster, Machine
from ..settings.recipe import Recipe
from .cast import Cast, outline
from .crew import Job
from .doctor import versions
from .lesson import Lesson
from .schedule import Schedule
from .worker import Adapters, Done, Given, Standing, Worker, content, written

Made = TypeVar("Made")
_LOST = (RayActorError, ObjectLostError)
_LOOK = 2.0  # seconds after which it is looked at who is there
_PATIENCE = 1.5  # times as long as usual, after which an idle worker does the piece of another as well
_GIVE_UP = 10.0  # times as long as usual, after which a worker whose piece somebody else has done is dismissed
_TRIES = 3  # workers that a piece, or the start of a worker, may cost
_SAY = 60.0  # seconds after which it is said that nobody is there


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


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """This process belongs to the cluster in the `with` block. Raises RunError where there is none."""
    _connect(cluster)
    try:
        yield
    finally:
        ray.shutdown()


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
        self._start, self._clock = start, time.monotonic
        code = recipe.task.code
        source = None if code is None else (code.path.name, code.path.read_bytes())
        begun = None if start is None else content(start)
        self._given = Given(recipe.to_dict(), machine, source, {}, begun)
        self.speak_with(None)
        self._idle: list[Any] = []
        self._standing: dict[Any, Standing] = {}  # what each has said when it was ready
        self._busy: dict[Any, Any] = {}  # by what they are to answer, who is at work on what is still wanted
        self._coming: dict[Any, Any] = {}  # the same, who is getting ready
        self._late: dict[Any, tuple[Any, float]] = {}  # the same, whose answer is wanted no more, and until when
        self._failed, self._refused, self._weights, self._said_last = 0, 0, "", 0.0
        self.took: list[tuple[float, float]] = []  # seconds, and those of the processor, of each piece that was done

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
        late = [worker for worker, _ in self._late.values()]
        for worker in (*self._idle, *self._busy.values(), *self._coming.values(), *late):
            ray.kill(worker)

    def _hire(self) -> None:
        worker = _kind(self._machine.cluster).remote()
        self._coming[worker.ready.remote(self._given)] = worker

    def _staff(self) -> None:
        """As many as there is room for, when the first one is there."""
        there = len(self._idle) + len(self._busy) + len(self._coming) + len(self._late) + self._refused
        for _ in range(_wanted(self._machine.cluster) - there):
            self._hire()

    def _look(self) -> Any | None:
        """Waits a moment for an answer; takes up who has become ready, or idle again. Returns an answer that is
        wanted."""
        refs = [*self._busy, *self._coming, *self._late]
        if not refs:
            time.sleep(_LOOK)
        found, _ = ray.wait(refs, num_returns=1, timeout=_LOOK) if refs else ([], [])
        for ref, (worker, until) in list(self._late.items()):
            if ref not in found and self._clock() > until:
                del self._late[ref]
                ray.kill(worker)
                self._notify("a worker that did not answer any more was dismissed")
        if not found:
            if hasattr(self, "cast"):
                self._staff()
            return None
        (ref,) = found
        if ref in self._busy:
            return ref
        worker = self._coming.pop(ref, None)
        known = worker is None
        if worker is None:
            worker, _ = self._late.pop(ref)
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

    def _said(self, ref: Any) -> Any | None:
        """What a worker has answered; None where it is no more."""
        try:
            said = ray.get(ref)
        except _LOST:
            return None
        if isinstance(said, OptimaError):
            raise said
        return said

    def _fail(self) -> None:
        self._failed += 1
        if self._failed >= _TRIES:
            hint = "`optima-lite doctor --cluster` says what each worker lacks; Ray's logs are in its session folder"
            raise RunError(f"{_TRIES} workers ended before they were ready", where="cluster", hint=hint)
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
                ref = self._waited(schedule)
                if ref is not None:
                    self._take(ref, schedule, pieces, advance)
                yield from schedule.take()
        finally:
            until = self._clock() + _GIVE_UP * max(schedule.usual, _LOOK)
            self._late |= {ref: (worker, until) for ref, worker in self._busy.items()}
            self._busy.clear()

    def train(self, lesson: Lesson, folder: Path, advance: Advance, notify: Callable[[str], None]) -> None:
        """See `Crew`. One worker trains, or as many as the machine file says; the others rest."""
        cluster = self._machine.cluster
        number = min(cluster.trainers, _wanted(cluster)) if lesson.shared else 1
        micro_batch, lost = self.cast.micro_batch, 0
        while lost < _TRIES:
            outcome = self._trained(number, lesson, micro_batch)
            if isinstance(outcome, Done):
                self._tell(outcome, advance)
                written(outcome.made, folder)
                return
            if isinstance(outcome, OutOfMemory) and micro_batch > 1:
                micro_batch //= 2
                notify(f"out of memory: the step begins anew with {micro_batch} examples at a time")
            elif isinstance(outcome, OptimaError):
                raise outcome
            else:
                lost += 1
                notify("a worker that trained was lost; the step begins anew")
        raise RunError(f"a training step cost {_TRIES} workers", where=lesson.name, hint="the same command resumes")

    def _trained(self, number: int, lesson: Lesson, micro_batch: int) -> Done | OptimaError | None:
        """What comes of a training step with so many workers; None where one of them was lost. Then, and after an
        error, the others of the group are dismissed, because they wait for one that will not come."""
        while len(self._idle) < number:
            self._look()
        group, self._idle = self._idle[:number], self._idle[number:]
        places = self._places(group)
        if places is None:
            self._dismissed(group)
            return None
        for worker, place in zip(group, places, strict=True):
            self._busy[worker.train.remote(self._adapters, lesson, micro_batch, place)] = worker
        outcomes: list[Done] = []
        while len(outcomes) < number:
            ref = self._look()
            if ref is None:
                continue
            worker = self._busy.pop(ref)
            try:
                outcome: Done | OptimaError | None = ray.get(ref)
            except _LOST:
                outcome = None
            except RayTaskError:
                if number == 1:
                    raise
                outcome = None  # what a worker of a group meets when another one is lost
            if not isinstance(outcome, Done):
                self._dismissed([one for one in group if one is worker or one in self._busy.values()])
                return outcome
            outcomes.append(outcome)
            self._idle.append(worker)
        return outcomes[0]

    def _places(self, group: Sequence[Any]) -> list[Place | None] | None:
        """Where each of a group of trainers stands; None where the first is no more."""
        if len(group) == 1:
            return [None]
        try:
            host, port = ray.get(group[0].door.remote())
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

    def _waited(self, schedule: Schedule[Any]) -> Any | None:
        """An answer, if one comes in a moment. Says every minute when nobody is there to give one."""
        for worker in schedule.silent(self._clock(), times=_GIVE_UP):
            self._lose(worker, schedule)
            ray.kill(worker)
        if self._busy or self._idle:
            self._said_last = self._clock()
        elif self._clock() - self._said_last > _SAY:
            self._said_last = self._clock()
            self._notify("no worker is there: waiting for the cluster; Ctrl-C leaves a run that can be resumed")
        return self._look()

    def _take(self, ref: Any, schedule: Schedule[Any], pieces: Sequence[Sequence[Any]], advance: Advance) -> None:
        worker = self._busy.pop(ref)
        done: Done | None = self._said(ref)
        if done is None:
            given_up = schedule.lose(worker)
            self._replace()
            if given_up is not None:
                asked = ", ".join(filter(None, map(_about, pieces[given_up])))
                what = f"a piece of work has cost {_TRIES} workers: questions {asked[:500]}"
                raise RunError(what, where="cluster", hint="a smaller cluster.chunk; the same command resumes")
            return
        self._idle.append(worker)
        self.took.append((done.seconds, done.cpu))
        if schedule.answer(worker, done.made, self._clock()):
            self._tell(done, advance)

    def _tell(self, done: Done, advance: Advance) -> None:
        for what, how in done.told:
            advance(*what, **how)
        for note in done.notes:
            self._notify(note)
        self.cast.meter.count(**done.counts)

    def _lose(self, worker: Any, schedule: Schedule[Any]) -> None:
        self._busy = {ref: one for ref, one in self._busy.items() if one is not worker}
        schedule.lose(worker)
        self._notify("a worker that did not answer any more was dismissed")


_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def _about(item: Any) -> str | None:
    """The id of the question that an item is about."""
    question = item if isinstance(item, Question) else getattr(item, "question", None)
    return getattr(question, "id", None)


def _connect(cluster: Cluster) -> None:
    """Joins the cluster, or begins one on this machine. Raises RunError where there is none."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # how Ray will have it; else it says so at length
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as this process, which rests while they work
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    try:
        if cluster.address == "local":
            wanted = 0 if cluster.workers == "auto" else cluster.workers
            ray.init(address="local", num_cpus=max(cores(), wanted), include_dashboard=False, **how)
        else:
            ray.init(address=cluster.address, **how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster can be reached: {str(error).splitlines()[0][:300]}"
        hint = 'cluster.address = "local" begins one on this machine; `ray start --head` one for several'
        raise RunError(what, where="cluster.address", hint=hint) from error


def _gpus(cluster: Cluster) -> float:
    """GPUs of a worker."""
    if cluster.gpus_per_worker != "auto":
        return cluster.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


def _wanted(cluster: Cluster) -> int:
    """How many workers there should be now."""
    if cluster.workers != "auto":
        return cluster.workers
    resources, gpus = ray.cluster_resources(), _gpus(cluster)
    return max(1, int(resources.get("GPU", 0) / gpus) if gpus else int(resources.get("CPU", 1)))


def _kind(cluster: Cluster) -> Any:
    """What Ray makes a worker of. Ray does not start it again: a new one is hired, and the piece does not wait for
    it."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment: Mapping[str, str] = {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    options = {"num_cpus": 1, "num_gpus": _gpus(cluster), "max_restarts": 0, "max_task_retries": 0}
    return ray.remote(Worker).options(
        **options, scheduling_strategy="SPREAD", runtime_env={"env_vars": dict(environment)}
    )
