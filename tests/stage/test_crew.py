"""Two processes do the work of one: the same records, whoever makes them, also when one of them dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import optima_lite.stage.crew  # noqa: E402
from optima_lite.learn.rollout import sample  # noqa: E402
from optima_lite.model import second  # noqa: E402
from optima_lite.model.helper import Helper, serial  # noqa: E402
from optima_lite.records import Rollouts  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.stage.cast import Cast  # noqa: E402
from optima_lite.stage.crew import helped  # noqa: E402
from optima_lite.stage.stage import Stage  # noqa: E402
from optima_lite.tasks.questions import questions  # noqa: E402


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "cores", lambda: 2)
    monkeypatch.setattr(optima_lite.stage.crew, "free_memory", lambda: 1 << 40)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def helper(two_cores: None, cast: Cast, notes: list[str]) -> Iterator[Helper]:
    with helped(cast, machine=Machine(), notify=notes.append) as found:
        assert found is not None
        while not found.ready():
            time.sleep(0.05)
        yield found


def talk(cast: Cast, helper: Helper | None, advance: Any = lambda done, tokens: None) -> list[Rollouts]:
    drawn = questions(cast.recipe.task, "train", 5, seed=0)
    work = partial(sample, cast.pair, rollouts=2, sampling=cast.sampling(cast.pair), seed=(0, 0))
    return Stage(cast, None, lambda event: None, helper).share(work, drawn, advance)  # type: ignore[arg-type]


def note(told: list[tuple[int, ...]], *what: int) -> None:
    told.append(what)


def test_the_records_are_the_same_whoever_makes_them(cast: Cast, helper: Helper, notes: list[str]) -> None:
    """With the adapter as it is at that moment; the second half's progress and tokens are told, too. Then the helper is
    killed while it is busy."""
    counts = cast.meter.counts
    for value in (0.0, 0.02):
        with cast.policy.changing(), torch.no_grad():
            for weight in cast.policy.weights(cast.policy.worn):
                weight += value
        before, told = counts.sampled, list[tuple[int, ...]]()
        shared = talk(cast, helper, partial(note, told))
        here, between = counts.sampled - before, counts.sampled
        assert shared == talk(cast, None)
        assert here == counts.sampled - between == sum(tokens for _, tokens in told)
        assert sum(done for done, _ in told) == 10
    assert notes == []
    expected = talk(cast, None)
    os.kill(helper._second.process.pid, signal.SIGSTOP)
    killed: list[int] = []

    def kill(done: int, tokens: int) -> None:
        if not killed:
            killed.append(helper._second.process.pid)
            os.kill(helper._second.process.pid, signal.SIGKILL)

    assert talk(cast, helper, kill) == expected
    assert killed and len(notes) == 1
    assert "goes on alone" in notes[0]
    assert talk(cast, helper) == expected, "and it is not asked again"


def test_a_chunk_is_worked_on_in_the_same_parts_on_one_core(cast: Cast) -> None:
    assert cast.parts == 2
    seen: list[list[int]] = []

    def work(items: list[int], advance: Any) -> list[int]:
        seen.append(items)
        return items

    stage = Stage(cast, None, lambda event: None)  # type: ignore[arg-type]
    for size in (5, 1):
        assert stage.share(work, [*range(size)], lambda: None) == [*range(size)]
    assert seen == [[0, 1, 2], [3, 4], [0]]
    assert serial(work, [[1], [2]], lambda: None) == [1, 2]


@pytest.mark.parametrize("what", ["threads", "parts", "cores", "memory"])
def test_no_helper_where_it_cannot_help(
    what: str, two_cores: None, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(threads=1) if what == "threads" else Machine()
    if what == "parts":
        cast = replace(cast, parts=1)
    if what == "cores":
        monkeypatch.setattr(second, "cores", lambda: 1)
    if what == "memory":
        monkeypatch.setattr(optima_lite.stage.crew, "free_memory", lambda: 1 << 30)
    with helped(cast, machine=machine, notify=lambda text: None) as found:
        assert found is None
