"""Requests go on in the order in which they came, as many at a time as fit, and none is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from optima_lite.serve.admission import Admission, Full


def test_they_go_on_in_order_and_never_more_than_fit() -> None:
    async def scene() -> None:
        admission, order, loads = Admission(100), list[int](), list[float]()

        async def one(number: int, share: float) -> None:
            async with admission.place(share):
                order.append(number)
                loads.append(admission.load)
                await asyncio.sleep(0)

        shares = [0.4, 0.4, 0.4, 3.0, 0.1, 0.9]
        await asyncio.gather(*(one(k, share) for k, share in enumerate(shares)))
        assert order == [*range(len(shares))]
        assert max(load for load, share in zip(loads, shares, strict=True) if share < 1) <= 1
        assert loads[3] == 3.0, "who needs more than all of it goes on, alone"
        assert admission.load == 0

    asyncio.run(scene())


def test_who_goes_away_while_waiting_leaves_no_trace() -> None:
    async def scene() -> None:
        admission, spoken = Admission(100), list[int]()

        async def one(number: int) -> None:
            async with admission.place(0.9):
                spoken.append(number)
                await asyncio.sleep(0.001)

        tasks = [asyncio.ensure_future(one(k)) for k in range(6)]
        await asyncio.sleep(0)
        for k in (0, 2, 4):  # one that goes on, and two that wait
            tasks[k].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert spoken == [0, 1, 3, 5] and admission.load == 0
        async with asyncio.timeout(1), admission.place(1.0):
            pass

    asyncio.run(scene())


def test_a_full_line_takes_nobody() -> None:
    admission = Admission(3)
    with admission.counted(2):
        with pytest.raises(Full), admission.counted(2):
            pass
        with admission.counted(1):
            assert admission.unanswered == 3
    assert admission.unanswered == 0
