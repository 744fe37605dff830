"""Two processes do the work of one: the same records, whoever makes them, also when one of them dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")


import optima_lite.stage.helper  # noqa: E402
from optima_lite.model import second  # noqa: E402
from optima_lite.records import Question, Rollouts  # noqa: E402
from optima_lite.runs.store import Run  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.stage.cast import Cast  # noqa: E402
from optima_lite.stage.crew import Alone, Crew  # noqa: E402
from optima_lite.stage.dialogues import Talk  # noqa: E402
from optima_lite.stage.helper import Helped, helped  # noqa: E402
from optima_lite.stage.stage import Stage  # noqa: E402
from optima_lite.tasks.questions import questions  # noqa: E402


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "cores", lambda: 2)
    monkeypatch.setattr(optima_lite.stage.helper, "free_memory", lambda: 1 << 40)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def helper(two_cores: None, cast: Cast, notes: list[str]) -> Iterator[Helped]:
    with helped(cast, machine=Machine(), notify=notes.append) as found:
        assert isinstance(found, Helped)
        while not found.ready():
            time.sleep(0.05)
        yield found


def talk(cast: Cast, crew: Crew, advance: Any = lambda done, tokens: None) -> list[Rollouts]:
    drawn = questions(cast.recipe.task, "train", 5, seed=0)
    job = Talk(cast.team.speakers, 2, cast.sampling(cast.team), (0, 0), ())
    return [made for part in crew.map(job, [drawn[:3], drawn[3:]], advance) for made in part]


def note(told: list[tuple[int, ...]], done: int, tokens: int) -> None:
    told.append((done, tokens))


def test_the_records_are_the_same_whoever_makes_them(cast: Cast, helper: Helped, notes: list[str]) -> None:
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
        assert shared == talk(cast, Alone(cast))
        assert here == counts.sampled - between == sum(tokens for _, tokens in told)
        assert sum(done for done, _ in told) == 10
    assert notes == []
    expected = talk(cast, Alone(cast))
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


@dataclass(frozen=True)
class Seeing:
    """A job that enters what it is given."""

    seen: list[Sequence[Question]]

    def do(self, cast: Cast, items: Sequence[Question], advance: Any) -> list[Question]:
        self.seen.append(items)
        return [*items]


def test_a_chunk_is_worked_on_in_the_same_parts_on_one_core(cast: Cast, tmp_path: Path) -> None:
    assert cast.parts == 2
    asked = questions(cast.recipe.task, "train", 6, seed=0)
    job = Seeing([])
    cast = replace(cast, chunk=5)
    with Run.open(tmp_path / "run", {"recipe": cast.recipe.to_dict(), "versions": {}}) as run:
        stage = Stage(cast, run, lambda event: None, Alone(cast))
        for _ in range(2):
            made = stage.made("stage/all", Question, asked, job=job, each=1, advance=lambda done, stored=False: None)
            assert made == asked
    assert job.seen == [asked[:3], asked[3:5], asked[5:]]


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
        monkeypatch.setattr(optima_lite.stage.helper, "free_memory", lambda: 1 << 30)
    with helped(cast, machine=machine, notify=lambda text: None) as found:
        assert type(found) is Alone
