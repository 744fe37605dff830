"""What a driver makes of workers that freeze, vanish or never come, on a clock and with actors that are made up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from math import inf
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray")

from ray.exceptions import RayActorError, RayError, RayTaskError

from optima_lite.errors import DataError, ModelError, RunError
from optima_lite.learn.parallel import PeerLost, Place
from optima_lite.learn.sft import fine_tune
from optima_lite.model.meter import Meter
from optima_lite.records import Question
from optima_lite.runs.folder import IMITATED
from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Cluster, Machine
from optima_lite.stage import cluster, joining, staff
from optima_lite.stage.cluster import Workers
from optima_lite.stage.doctor import versions
from optima_lite.stage.joining import joined
from optima_lite.stage.lesson import Lesson
from optima_lite.stage.staff import Staff
from optima_lite.stage.worker import Done, Given, Standing

DIES, PARTED = "dies", "parted"
Takes = float | str | tuple[float, Exception]
"""Seconds until a worker answers, inf when it is frozen; or what becomes of it a second later; or after how many
seconds it answers what."""


NOTHING: Mapping[str, int] = MappingProxyType({})
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
    pieces: int = 0

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Callable[..., Any]] = {
            "ready": self._ready,
            "do": self._done,
            "door": lambda: ("here", 1),
            "train": self._trained,
        }
        answer = answers[name]
        return SimpleNamespace(remote=lambda *what: self._ref(answer(*what), now=name == "door"))

    def _ready(self, given: Given) -> Standing:
        self.world.given.append(given)
        return self.standing

    def _done(self, adapters: Any, job: Any, items: Sequence[Any]) -> Done:
        self.pieces += 1
        return Done([*items], (), (), {}, 1.0, 1.0)

    def _trained(self, adapters: Any, lesson: Lesson, micro_batch: int, place: Place | None) -> Done:
        self.world.groups.append(1 if place is None else place.world)
        return Done({"adapter": b"learnt"}, (), (), {}, 1.0, 1.0)

    def _ref(self, made: Any, *, now: bool) -> Ref:
        takes = 0.0 if now else self.takes.pop(0) if self.takes else 1.0
        if isinstance(takes, tuple):
            return Ref(self.world.now + takes[0], takes[1])
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
    actors: list[Actor] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    room: Callable[[float], int] | None = None  # for how many workers, by the time; else for as many as are wanted

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
        if isinstance(ref.answer, RayError):
            raise ref.answer
        return ref.answer

    def put(self, what: Any) -> Any:
        return what

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)

    def actor_of(self, worker: type, settings: Cluster) -> Any:
        def hire() -> Actor:
            self.actors.append(Actor(self, next(self.hired), next(self.standings)))
            return self.actors[-1]

        return SimpleNamespace(remote=hire)

    def wanted(self, settings: Cluster) -> int:
        return settings.workers if self.room is None else self.room(self.now)  # type: ignore[return-value]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Workers, World]]:
    def made(
        *takes: list[Takes], standings: Sequence[Standing] = (), settled: Mapping[str, int] = NOTHING, **settings: Any
    ) -> tuple[Workers, World]:
        """Workers of whom the first is ready; those beyond `takes` never come. standings: what the first ones say of
        themselves, where it is not what all others do. settled: by the run, before."""

        def hired() -> Iterator[list[Takes]]:
            yield from takes
            while True:
                yield [inf]

        world = World(hired(), chain(standings, repeat(READY)))
        cast = SimpleNamespace(meter=Meter(), micro_batch=8)
        both: dict[str, Any] = {"ray": world, "time": world, "wanted": world.wanted}
        theirs = {"actor_of": world.actor_of, "outline": lambda *a, **how: cast, "room": world.wanted}
        for name, thing in (both | theirs | {"needs": lambda settings: "which is small"}).items():
            monkeypatch.setattr(staff, name, thing)
        for name, thing in both.items():
            monkeypatch.setattr(cluster, name, thing)
        machine = Machine(cluster=Cluster(engine="ray", **settings))
        how: dict[str, Any] = {"settle": lambda key, decide: settled.get(key, decide()), "settled": settled}
        those = Staff(load_recipe("quickstart").recipe, machine=machine, **how, notify=world.notes.append, start=None)
        found = Workers(those, machine=machine, notify=world.notes.append, start=None)
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
    waiting = "no worker is there: waiting for the cluster, which is small; Ctrl-C leaves a run that can be resumed"
    assert waiting in world.notes


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
    assert [*found.coming()] and found.size == 2
    assert mapped(found, 4)
    own = versions()["torch"]
    assert f"the worker on an older machine is refused, because it has torch 1.0 instead of {own}" in world.notes
    assert "the worker on another machine is refused, because it has other weights of the model" in world.notes
    assert len(world.killed) == 2 and found.size == 2, "nobody is hired again instead of them"


def test_where_all_are_refused_the_run_does_not_begin(workers: Any) -> None:
    with pytest.raises(ModelError, match="no worker of the cluster has what this run needs"):
        workers([1.0], [1.0], [1.0], standings=[OLDER] * 3, workers=3)


def test_one_that_lacks_something_is_refused_by_name_where_others_are(workers: Any) -> None:
    """The first one's trouble is everybody's."""
    lost = replace(READY, host="a bare machine", wrong=ModelError("no such folder", where="model.name"))
    found, world = workers([1.0, 1.0], [1.0], standings=[READY, lost], workers=2)
    assert mapped(found, 3)
    assert world.notes == ["the worker on a bare machine is refused: no such folder"]
    with pytest.raises(ModelError, match=r"model\.name, on a bare machine: no such folder"):
        workers([1.0], standings=[lost], workers=2)


def test_a_machine_on_which_none_can_begin_does_not_end_the_run(workers: Any) -> None:
    found, world = workers([1.0, 5.0, 5.0, 5.0], *([DIES] for _ in range(3)), workers=2)
    assert mapped(found, 4)
    assert world.notes[-1].startswith("3 workers ended before they were ready, the last one with: ")
    assert world.notes[-1].endswith("; the others go on") and len(world.actors) == 4


def test_whoever_comes_late_has_work_though_answers_never_pause(workers: Any) -> None:
    """And whoever vanishes meanwhile is missed."""
    found, world = workers([1.0], [3.0, inf], [3.0], workers=3)
    world.room = lambda now: 1 if now < 20 else 3
    assert mapped(found, 900)
    first, frozen, third = (actor.pieces for actor in world.actors[:3])
    assert frozen == 1 and third > 300 < first
    assert GONE in world.notes and world.now < 700


def test_what_a_driver_that_slept_finds_answered_is_taken(workers: Any) -> None:
    found, world = workers([1.0], [1.0], workers=2, silence=100)
    for _ in found.map(None, [[1], [2], [3], [4], [5]], silent):
        world.now += 3_600
    assert not world.killed and not world.notes


def test_an_error_of_a_worker_s_own_costs_that_worker_alone(workers: Any) -> None:
    """It may live on, and would keep its GPU."""
    failed = RayTaskError("do", "Traceback ...\nValueError: the card has fallen off the bus", ValueError())
    found, world = workers([1.0, (1.0, failed)], [1.0], workers=1)
    assert mapped(found, 3)
    assert world.killed == [world.actors[0]]
    found, _ = workers(*([1.0, (1.0, failed)] for _ in range(3)), workers=1)
    with pytest.raises(RunError, match=r"3 workers: questions q0, the last one with: ValueError: the card has fallen"):
        mapped(found, 3)


def test_what_goes_wrong_with_an_answer_that_nobody_wants_is_no_matter(workers: Any) -> None:
    """The second worker was slow, and the first one has done its piece."""
    found, world = workers([1.0], [1.0, (9.0, DataError("too late"))], workers=2)
    assert [*found.coming()] and mapped(found, 4) and world.now < 11
    assert mapped(found, 20) and found.size == 2 and not world.killed


def test_the_first_worker_has_the_limits_that_the_run_has_settled_on(workers: Any) -> None:
    _, world = workers([1.0], [1.0], workers=2, settled={"threads": 3, "max_batch_tokens": 512, "seed": 4})
    assert world.given[0].settled == {"threads": 3, "max_batch_tokens": 512}


@pytest.mark.parametrize(("gpus", "number"), [(0, 13), (0.5, 10), (1, 5), (2, 2), (8, 0)])
def test_a_worker_has_its_gpus_on_one_node(gpus: float, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [{"CPU": 8, "GPU": 3}, {"CPU": 4, "GPU": 2.0}, {"CPU": 1}, {"GPU": 8}]
    nodes = [{"Alive": True, "Resources": one} for one in held] + [{"Alive": False, "Resources": {"CPU": 64}}]
    monkeypatch.setattr(joining.ray, "nodes", lambda: nodes)
    cluster = Cluster(gpus_per_worker=gpus)
    assert joining.room(cluster) == number
    assert joining.wanted(cluster) == max(1, number), "the first one waits for a node"


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


def test_nobody_waits_for_a_trainer_that_will_not_come(workers: Any, tmp_path: Path) -> None:
    found, world = workers([1.0], [1.0], standings=[READY, OLDER], workers=2, trainers=2)
    assert [*found.coming()] and world.now < 5
    found.train(LESSON, tmp_path, silent, world.notes.append)
    assert world.groups == [1] and world.now < 10
    assert world.notes[-1] == "1 instead of 2 train, because no more workers are there"


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
