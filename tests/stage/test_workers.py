"""What a driver makes of workers that freeze, vanish or never come, on a clock and with actors that are made up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray")

from ray.exceptions import RayActorError

from optima_lite.errors import ModelError, RunError
from optima_lite.learn.parallel import PeerLost, Place
from optima_lite.learn.sft import fine_tune
from optima_lite.model.meter import Meter
from optima_lite.records import Question
from optima_lite.runs.folder import IMITATED
from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Cluster, Machine
from optima_lite.stage import cluster
from optima_lite.stage.cluster import Workers
from optima_lite.stage.doctor import versions
from optima_lite.stage.joining import joined
from optima_lite.stage.lesson import Lesson
from optima_lite.stage.worker import Done, Standing

DIES, PARTED = "dies", "parted"
Takes = float | str
"""Seconds until a worker answers, inf when it is frozen; or what becomes of it a second later."""


READY = Standing("here", 1, versions(), "the same", {}, (), 1.0)


def silent(*what: Any, **how: Any) -> None:
    pass


@dataclass(eq=False)
class Ref:
    """at: when the answer is there."""

    at: float
    answer: Any


@dataclass(eq=False)
class Actor:
    """takes: for getting ready, then for each piece or step; a second for whatever comes later."""

    world: World
    takes: list[Takes]
    standing: Standing = READY

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Callable[..., Any]] = {
            "ready": lambda given: self.standing,
            "do": lambda adapters, job, items: Done([*items], (), (), {}, 1.0, 1.0),
            "door": lambda: ("here", 1),
            "train": self._trained,
        }
        answer = answers[name]
        return SimpleNamespace(remote=lambda *what: self._ref(answer(*what), now=name == "door"))

    def _trained(self, adapters: Any, lesson: Lesson, micro_batch: int, place: Place | None) -> Done:
        self.world.groups.append(1 if place is None else place.world)
        return Done({"adapter": b"learnt"}, (), (), {}, 1.0, 1.0)

    def _ref(self, made: Any, *, now: bool) -> Ref:
        takes = 0.0 if now else self.takes.pop(0) if self.takes else 1.0
        if takes == DIES:
            return Ref(self.world.now + 1, RayActorError())
        if takes == PARTED:
            return Ref(self.world.now + 1, PeerLost("another one was lost"))
        assert isinstance(takes, float)
        return Ref(self.world.now + takes, made)


@dataclass
class World:
    """What stands for Ray and for the time. hired: what the actors take, in the order in which they come."""

    hired: Iterator[list[Takes]]
    standings: Iterator[Standing]
    now: float = 0.0
    killed: list[Actor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # how many train with each that begins to

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, refs: Sequence[Ref], *, num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
        first = min(refs, key=lambda ref: ref.at)
        there = first.at <= self.now + timeout
        self.now = max(self.now, first.at) if there else self.now + timeout
        return ([first], []) if there else ([], [*refs])

    def get(self, ref: Ref, *, timeout: float) -> Any:
        assert ref.at <= self.now, "it is there already"
        if isinstance(ref.answer, RayActorError):
            raise ref.answer
        return ref.answer

    def put(self, what: Any) -> Any:
        return what

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)

    def actor_of(self, worker: type, settings: Cluster) -> Any:
        return SimpleNamespace(remote=lambda: Actor(self, next(self.hired), next(self.standings)))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Workers, World]]:
    def made(*takes: list[Takes], standings: Sequence[Standing] = (), **settings: Any) -> tuple[Workers, World]:
        """Workers of whom the first is ready; those beyond `takes` never come. standings: what the first ones say of
        themselves, where it is not what all others do."""

        def hired() -> Iterator[list[Takes]]:
            yield from takes
            while True:
                yield [inf]

        world = World(hired(), chain(standings, repeat(READY)))
        cast = SimpleNamespace(meter=Meter(), micro_batch=8)
        stands_for = {"ray": world, "time": world, "actor_of": world.actor_of, "outline": lambda *a, **how: cast}
        for name, thing in stands_for.items():
            monkeypatch.setattr(cluster, name, thing)
        recipe = load_recipe("quickstart").recipe
        machine = Machine(cluster=Cluster(engine="ray", **settings))
        found = Workers(
            recipe, machine=machine, settle=lambda key, decide: decide(), notify=world.notes.append, start=None
        )
        found.gather()
        return found, world

    return made


def test_where_nobody_listens_it_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match=f"nobody answers at {address}"), joined(Cluster(address=address)):
        pass


def mapped(found: Workers, pieces: int) -> bool:
    """Whether all pieces came out, in order."""
    asked = [[Question(f"q{number}", "?", "!", ())] for number in range(pieces)]
    return [*found.map(None, asked, silent)] == asked  # type: ignore[arg-type]


GONE = "a worker that did not answer any more was dismissed"


def test_a_worker_that_freezes_alone_is_lost_after_a_multiple_of_what_is_usual(workers: Any) -> None:
    found, world = workers([1.0, 30.0, 30.0, inf], [5.0], workers=1)
    assert mapped(found, 4)
    # Two pieces, 20 times as long as they took, another worker, two pieces
    assert world.now == pytest.approx(1 + 60 + 20 * 30 + 5 + 2, abs=5)
    assert world.notes == [GONE] and len(world.killed) == 1


def test_before_anything_is_known_the_machine_file_says_how_long(workers: Any) -> None:
    found, world = workers([1.0, inf], [inf], [1.0], workers=1, silence=100)
    assert mapped(found, 2)
    assert world.notes.count(GONE) == 2, "the first at its piece, the second while it got ready"
    assert world.now == pytest.approx(1 + 100 + 100 + 3, abs=8)
    assert "no worker is there: waiting for the cluster; Ctrl-C leaves a run that can be resumed" in world.notes


def test_a_piece_that_freezes_three_workers_names_its_questions(workers: Any) -> None:
    found, _ = workers([1.0, 1.0, inf], [1.0, inf], [1.0, inf], workers=1)
    with pytest.raises(RunError, match=r"has cost 3 workers: questions q1\n") as told:
        mapped(found, 3)
    assert "cluster.silence" in str(told.value.hint)


def test_one_that_answers_in_time_is_not_dismissed_however_slow(workers: Any) -> None:
    found, world = workers([1.0, 1.0, 299.0, 299.0], workers=1)
    assert mapped(found, 3)
    assert world.notes == [] == world.killed


OLDER = replace(READY, host="an older machine", versions=versions() | {"torch": "1.0"})
OTHER = replace(READY, host="another machine", weights="others")


def test_who_has_other_versions_or_weights_is_refused_by_name(workers: Any) -> None:
    found, world = workers([1.0], [1.0], [1.0], [1.0], standings=[OLDER, READY, OTHER], workers=4)
    found.complete()
    assert mapped(found, 4)
    own = versions()["torch"]
    assert f"the worker on an older machine is refused, because it has torch 1.0 instead of {own}" in world.notes
    assert "the worker on another machine is refused, because it has other weights of the model" in world.notes
    assert len(world.killed) == 2 and found.size == 2


def test_where_all_are_refused_the_run_does_not_begin(workers: Any) -> None:
    with pytest.raises(ModelError, match="no worker of the cluster has what this run needs"):
        workers([1.0], [1.0], [1.0], standings=[OLDER] * 3, workers=3)


LESSON = Lesson(fine_tune, {"shared": [None] * 32}, load_recipe("quickstart").recipe.training, 0, IMITATED)  # type: ignore[dict-item]


@pytest.mark.parametrize("dies_first", [True, False])
def test_a_step_begins_anew_with_those_who_are_left(dies_first: bool, workers: Any, tmp_path: Path) -> None:
    """One of two is lost, which the other one notices, before or after the driver does; no third one comes."""
    lost: list[list[Takes]] = [[1.0, DIES], [1.0, PARTED]]
    found, world = workers(*(lost if dies_first else lost[::-1]), [30.0], workers=2, trainers=2)
    found.train(LESSON, tmp_path, silent, world.notes.append)
    assert world.groups == [2, 2, 1]
    assert (tmp_path / "adapter").read_bytes() == b"learnt"
    assert "a worker that trained was lost; the step begins anew" in world.notes
    assert "1 instead of 2 train, because no more workers are there" in world.notes
    assert mapped(found, 3), "and goes on"


def test_a_trainer_that_freezes_is_lost_in_the_end(workers: Any, tmp_path: Path) -> None:
    found, world = workers([1.0, inf], [1.0], workers=1, silence=100)
    found.train(LESSON, tmp_path, silent, world.notes.append)
    steps = 2 * LESSON.settings.epochs
    assert world.now == pytest.approx(1 + 100 + 60 * steps + 2, abs=5)
    assert world.groups == [1, 1] and len(world.killed) == 1


def test_three_workers_are_what_a_step_may_cost(workers: Any, tmp_path: Path) -> None:
    found, world = workers(*([1.0, DIES] for _ in range(4)), workers=1)
    with pytest.raises(RunError, match="a training step cost 3 workers"):
        found.train(LESSON, tmp_path, silent, world.notes.append)
    assert world.groups == [1, 1, 1]
