"""Calls that come back in time, whatever they do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from optima_lite.tasks import bounded
from optima_lite.tasks.bounded import Worker


def test_a_call_gives_the_function_s_result() -> None:
    worker = Worker("operator:concat", seconds=1)
    assert worker("a\x00\ud800", "\u05d0\n") == "a\x00\ud800\u05d0\n"
    assert worker([1], [2]) == [1, 2]
    assert worker.undecided == 0


def test_a_call_that_takes_for_ever_is_undecided_and_the_next_one_works() -> None:
    worker = Worker("operator:pow", seconds=0.2)
    started = time.monotonic()
    assert worker(10**9, 10**9) is None  # one multiplication in C, where no signal handler would run
    assert time.monotonic() - started < 10
    assert worker(2, 3) == 8
    assert worker.undecided == 1


def test_a_call_that_wants_all_the_memory_is_undecided() -> None:
    worker = Worker("operator:mul", seconds=5)
    assert worker([0], 10**11) is None
    assert worker.undecided == 1


def test_an_exception_is_undecided() -> None:
    worker = Worker("operator:truediv", seconds=1)
    assert worker(1, 0) is None
    assert worker(1, 2) == 0.5
    assert worker.undecided == 1


def test_a_late_reply_answers_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("operator:add", seconds=1)

    def interrupted(*_: object) -> bytes:
        asked(*_)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    assert worker(1, 1) == 2
    asked = bounded._asked
    monkeypatch.setattr(bounded, "_asked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker(1, 2)
    monkeypatch.undo()
    assert worker(1, 3) == 4


def test_threads_take_turns() -> None:
    worker = Worker("operator:mul", seconds=1)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(worker, range(50), range(50))) == [n * n for n in range(50)]


def test_a_function_that_does_not_exist_is_a_bug(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="no worker for operator:none"):
        Worker("operator:none", seconds=1)()
    assert "AttributeError" in capfd.readouterr().err
