"""One thread that owns the model and lets the rows of many callers join one running batch.

A caller is a dialogue, or a single message, in a thread of its own: it talks through a `Voice`, which is a generator to
it, and waits there until its rows have been said. So whatever holds a dialogue elsewhere holds it here, too. Rows come
and go between two slices of a few tokens; what a row says does not depend on which others it shares the batch with.

A batch holds rows of one adapter. As long as nobody else waits, more of them join; then they speak to their ends, and
the adapter of whoever has waited longest is worn, for all who wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import ModelError
from ..model.decoding import Decoding, Row
from ..model.generate import Generator
from ..model.render import Rendered
from ..model.sampling import Sampling
from .arrivals import Arrivals

Hear = Callable[[Sequence[int]], None]
"""Told the tokens of a message as they are said, a few at a time, by the engine's thread: it must not wait."""

_READING = ""  # in the place of an adapter: the bare base model reads


class Cancelled(Exception):
    """Nobody waits any more for what was to be said."""


class Ended(Exception):
    """The engine has ended, and nothing more will be said."""


@dataclass(eq=False)
class _Job:
    """What a caller waits for: rows to be said with an adapter, or texts to be read by the base."""

    voice: Voice
    adapter: str
    rows: Sequence[Row] = ()
    texts: Sequence[Rendered] = ()
    losses: list[tuple[float, ...]] = field(default_factory=list)
    told: int = 0  # tokens of its row that the caller has heard
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do for it."""
        return self.voice.cancelled or all(row.finished for row in self.rows)

    def end(self, error: Exception | None = None) -> None:
        """Lets the caller go on."""
        self.error = error
        self.done.set()


class Voice(Generator):
    """A generator for one caller: its rows are sampled by the engine, side by side with everybody else's.

    most: tokens that the caller may say in all; None for as many as its messages may have. hear: see `Hear`; told of
    the first row of a call. read, reused, said: tokens of its prompts, those of them that had been computed before, and
    tokens that were sampled, so far.
    """

    def __init__(self, engine: Engine, *, most: int | None = None, hear: Hear = lambda ids: None) -> None:
        vars(self).update(vars(engine.generator))  # the same policy and states, and no weights of its own
        self._engine, self._most, self.hear_ids = engine, most, hear
        self._adapter = engine.generator.policy.names[0]
        self.read = self.reused = self.said = 0
        self.cancelled = False

    def cancel(self) -> None:
        """Nobody waits any more: the caller gets Cancelled, and its rows leave the batch."""
        self.cancelled = True
        self._engine.look()

    def wear(self, adapter: str) -> None:
        """What this caller says from here on is said with the adapter of this name."""
        self._adapter = adapter

    def carry_on(self, rows: Sequence[Row], *, sampling: Sampling) -> None:
        """As `Generator.carry_on`, and every row gets an equal part of what the caller may still say. Raises Cancelled,
        Ended, and ModelError when the memory does not even suffice for one row at a time."""
        before = sum(len(row.ids) for row in rows)
        for row in rows:
            row.sampling = sampling
            if self._most is not None:
                row.most = min(row.most, len(row.said) + max(0, self._most - self.said) // len(rows))
            row.finished = row.left <= 0
        self._engine.wait_for(_Job(self, self._adapter, rows))
        self.said += sum(len(row.ids) for row in rows) - before
        self.read += before
        self.reused += sum(row.reused for row in rows)

    def losses(self, rows: Sequence[Rendered]) -> list[tuple[float, ...]]:
        """As `Generator.losses`. Raises Cancelled, Ended, ModelError."""
        job = _Job(self, _READING, texts=rows)
        self._engine.wait_for(job)
        return job.losses


class Engine(threading.Thread):
    """Says the rows of all voices, from `start` to `stop`. An error that is none of a caller's ends it, and keeps its
    traceback. at_end: is called when it has ended, whatever the reason. failed: whether it was such an error."""

    def __init__(self, generator: Generator, *, at_end: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="engine", daemon=True)
        self.generator, self.at_end, self.failed = generator, at_end, False
        self.running = 0  # rows in the batch now
        self.slices = 0  # of a few tokens for each row of the batch, so far
        self.ended = False
        self._jobs: list[_Job] = []  # all that are not done, the oldest first
        self._joined: list[_Job] = []  # those of them whose rows are in the batch
        self._changed = threading.Condition()
        self._stopping = False

    def wait_for(self, job: _Job) -> None:
        """Returns when a job is done. Raises Cancelled, Ended, or what made it fail."""
        with self._changed:
            if self.ended or self._stopping:
                raise Ended
            self._jobs.append(job)
            self._changed.notify()
        job.done.wait()
        if job.voice.cancelled:
            raise Cancelled
        if job.error is not None:
            raise job.error

    def look(self) -> None:
        """Somebody was cancelled."""
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread after the slice under way; whoever still waits gets Ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Callers that wait for something to be said, or read."""
        return len(self._jobs)

    def run(self) -> None:
        """The thread: one batch after the other."""
        policy, self.failed = self.generator.policy, True
        try:
            while (adapter := self._next()) is not None:
                if adapter == _READING:
                    self._read()
                    continue
                policy.wear(adapter)
                with policy.speaking() as model, torch.no_grad():
                    self._speak(model, adapter)
            self.failed = False
        finally:
            with self._changed:
                self.ended = True
                for job in self._jobs:
                    job.end(Ended())
                self._jobs = []
            self.at_end()

    def _next(self) -> str | None:
        """The adapter that whoever has waited longest wants to speak with; None when it is time to stop."""
        with self._changed:
            self._drop()
            while not self._jobs and not self._stopping:
                self._changed.wait()
                self._drop()
            return None if self._stopping else self._jobs[0].adapter

    def _drop(self) -> None:
        """Jobs that are over are done."""
        over = [job for job in self._jobs if job.voice.cancelled or (job.over and not job.texts)]
        self._jobs = [job for job in self._jobs if job not in over]
        self._joined = [job for job in self._joined if job not in over]
        for job in over:
            job.end()

    def _read(self) -> None:
        """Reads all texts that wait to be."""
        with self._changed:
            jobs = [job for job in self._jobs if job.adapter == _READING]
        try:
            losses = iter(self.generator.losses([text for job in jobs for text in job.texts]))
        except ModelError as error:
            self._end(jobs, error)
            return
        for job in jobs:
            job.losses = [next(losses) for _ in job.texts]
        self._end(jobs, None)

    def _end(self, jobs: Sequence[_Job], error: Exception | None) -> None:
        with self._changed:
            self._jobs = [job for job in self._jobs if job not in jobs]
            self._joined = [job for job in self._joined if job not in jobs]
            for job in jobs:
                job.end(error)

    def _speak(self, model: Any, adapter: str) -> None:
        """Says rows with the adapter worn, as long as somebody waits for that, or for nothing else."""
        states = self.generator.states
        whatever = Sampling(1.0, 1.0, 1)  # every row has its own
        decoding = Decoding(states, model, whatever, unsayable=self.generator.unsayable, waiting=())
        arrivals = Arrivals(decoding, states, model.get_base_model())
        while (new := self._arrived(decoding, arrivals, adapter)) is not None:
            arrivals.add([row for job in new for row in job.rows])
            due = arrivals.due()
            self._share([tuple(row.ids[:-1]) for row in due], model, adapter)
            decoding.join(due)
            decoding.fill()
            self.running = len(decoding.running)
            self.slices += 1
            try:
                said = states.fits(decoding.advance, rows=len(decoding.running), longest=decoding.longest)
            except ModelError as error:  # not even one row fits, and one was running
                alone = decoding.running
                decoding.start_over()
                failed = [job for job in self._joined if any(row in alone for row in job.rows)]
                decoding.give_up([row for job in failed for row in job.rows])
                self._end(failed, error)
                continue
            if not said:
                decoding.start_over()
            self.running = len(decoding.running)
            self._tell()
        self.running = 0

    def _arrived(self, decoding: Decoding, arrivals: Arrivals, adapter: str) -> list[_Job] | None:
        """The jobs whose rows come now; rows that nobody waits for have left. None when the batch is over and something
        else is next."""
        while True:
            decoding.give_up([row for job in self._joined if job.voice.cancelled for row in job.rows])
            arrivals.add(())
            going = bool(decoding.running or decoding.waiting or arrivals.waiting)
            with self._changed:
                self._drop()
                new = [job for job in self._jobs if job not in self._joined]
                others = [job for job in new if job.adapter != adapter]
                if self._stopping or (new and new[0] in others and not going):
                    return None
                if going or new:
                    joining = [] if going and others else [job for job in new if job not in others]
                    self._joined += joining
                    return joining
                self._changed.wait()

    def _share(self, prompts: Sequence[tuple[int, ...]], model: Any, adapter: str) -> None:
        """Computes once what those who arrive together have in common."""
        states = self.generator.states
        if states.worth_sharing(prompts, adapter=adapter):
            with states.aside(), suppress(ModelError):  # without the memory for it each computes its own
                states.compute_shared(model.get_base_model(), prompts, adapter=adapter)

    def _tell(self) -> None:
        """Callers hear what their rows have said; those whose rows have ended go on."""
        for job in self._joined:
            said = job.rows[0].said
            if len(said) > job.told and not job.voice.cancelled:
                job.voice.hear_ids(said[job.told :])
                job.told = len(said)
        with self._changed:
            done = [job for job in self._joined if job.over]
            self._drop()
        self.generator.meter.count(sampled=sum(len(row.said) for job in done for row in job.rows))
