"""Whoever answers when, whoever is lost or comes: each piece counts once, and the results come in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.stage.schedule import Schedule

EVENTS = st.sampled_from(["answer", "answer", "answer", "lose", "join", "wait"])


@given(
    pieces=st.integers(0, 12),
    workers=st.integers(0, 4),
    events=st.lists(st.tuples(EVENTS, st.integers(0, 10), st.floats(0.01, 100)), max_size=80),
    patience=st.sampled_from([0.5, 1.5, float("inf")]),
)
def test_each_piece_once_and_in_order(
    pieces: int, workers: int, events: list[tuple[str, int, float]], patience: float
) -> None:
    schedule: Schedule[tuple[int, int]] = Schedule(pieces, patience=patience, tries=1_000)
    idle, clock, came = [*range(workers)], 0.0, workers
    taken: list[tuple[int, int]] = []
    counted: list[int] = []

    def give() -> None:
        for worker in list(idle):
            if schedule.give(worker, clock) is not None:
                idle.remove(worker)

    def answer(worker: int) -> None:
        piece = schedule.busy[worker]
        if schedule.answer(worker, (piece, worker), clock):
            counted.append(piece)
        idle.append(worker)

    for kind, which, seconds in events:
        give()
        clock += seconds
        busy = sorted(schedule.busy)
        if kind == "join":
            idle.append(came)
            came += 1
        elif kind == "answer" and busy:
            answer(busy[which % len(busy)])
        elif kind == "lose" and busy:
            assert schedule.lose(busy[which % len(busy)]) is None
        held = [*schedule.busy.values()]
        assert all(held.count(piece) <= 2 for piece in held), "nobody does what two are doing already"
        taken += schedule.take()
    idle.append(came)  # somebody is there in the end
    while schedule.open:
        give()
        clock += 1
        answer(min(schedule.busy))
        taken += schedule.take()
    assert [piece for piece, _ in taken] == [*range(pieces)]
    assert sorted(counted) == [*range(pieces)]
    assert not [*schedule.take()]


def test_an_idle_worker_does_what_takes_another_unusually_long() -> None:
    schedule: Schedule[str] = Schedule(3, patience=1.5)
    assert [schedule.give(worker, 0.0) for worker in "abc"] == [0, 1, 2]
    assert schedule.answer("a", "0 of a", 10.0) and schedule.answer("b", "1 of b", 10.0)
    assert schedule.give("a", 15.0) is None, "not yet unusual"
    assert schedule.give("a", 15.1) == 2
    assert schedule.give("b", 99.0) is None, "two are enough"
    assert schedule.silent(40.0, times=2.0, longest=40.0) == [], "nobody else has done it"
    assert schedule.silent(41.0, times=2.0, longest=40.0) == ["c"], "it counts as lost"
    assert schedule.answer("a", "2 of a", 25.0)
    assert schedule.silent(20.0, times=2.0, longest=40.0) == []
    assert schedule.silent(26.0, times=2.0, longest=40.0) == ["c"]
    assert not schedule.answer("c", "2 of c", 30.0), "the first answer counts"
    assert [*schedule.take()] == ["0 of a", "1 of b", "2 of a"] and not schedule.open


def test_a_piece_that_costs_too_many_workers_is_given_up() -> None:
    schedule: Schedule[str] = Schedule(2, patience=1.5, tries=3)
    for worker in "abc":
        assert schedule.give(worker, 0.0) == 0
        assert schedule.lose(worker) == (0 if worker == "c" else None)
    assert schedule.lose("nobody") is None
    assert schedule.give("d", 0.0) == 1


def test_a_piece_that_somebody_else_has_in_hand_is_not_given_again() -> None:
    schedule: Schedule[str] = Schedule(2, patience=1.0)
    assert schedule.give("a", 0.0) == 0
    assert schedule.give("b", 0.0) == 1
    schedule.answer("a", "0", 1.0)
    assert schedule.give("a", 5.0) == 1
    assert schedule.lose("b") is None
    assert schedule.give("c", 5.0) is None
    with pytest.raises(KeyError):
        schedule.answer("b", "1", 6.0)
    assert schedule.answer("a", "1", 6.0)
    assert [*schedule.take()] == ["0", "1"]
