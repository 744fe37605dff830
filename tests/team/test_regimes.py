"""The table of six regimes against the worth it stands for, and that against agents who throw dice."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from optima_lite.team.regimes import Order, lift, regime, speedup

BASE = 0.5
# Of each regime one case, near enough to its borders that a wrong weight would leave it: p_1 to p_S, gain, loss.
CASES: dict[Order, tuple[tuple[float, ...], float, float]] = {
    ("stream", "serial", "single"): ((0.9, 0.8, 0.5, 0.2), 0.05, 0.05),
    ("stream", "single", "serial"): ((0.9, 0.6, 0.3, 0.1), 0.05, 0.05),
    ("serial", "stream", "single"): ((0.6, 0.6, 0.7, 0.9), 0.05, 0.05),
    ("serial", "single", "stream"): ((0.1, 0.4, 0.7, 0.9), 0.05, 0.05),
    ("single", "serial", "stream"): ((0.1, 0.3, 0.5, 0.8), 0.05, 0.05),
    ("single", "stream", "serial"): ((0.4, 0.3, 0.3, 0.1), 0.05, 0.05),
}


def test_the_table_is_the_order_of_the_worth() -> None:
    chance, found = random.Random(0), Counter[Order]()
    for _ in range(20_000):
        right = [chance.random() for _ in range(chance.randint(2, 8))]
        gain, loss = chance.uniform(0.01, 1), chance.uniform(0.01, 1)
        order = regime(right, gain=gain, loss=loss)
        assert order == lift(right, gain=gain, loss=loss).order
        found[order] += 1
    assert len(found) == 6
    assert min(found.values()) > 200, "every regime was met"


@pytest.mark.parametrize("order", CASES, ids=" > ".join)
def test_agents_who_throw_dice_end_in_that_order(order: Order) -> None:
    """20,000 answers of an agent of S steps; a step is right by a chance that the steps before it have moved."""
    right, gain, loss = CASES[order]
    assert regime(right, gain=gain, loss=loss) == order
    steps, cases = len(right), 20_000
    dice = np.random.default_rng(0)
    upstream = np.where(dice.random((cases, steps)) < right, gain, -loss)
    seen = {
        "stream": np.cumsum(upstream, axis=1),  # the jth step has seen the first j
        "serial": np.repeat(upstream.sum(axis=1, keepdims=True), steps, axis=1),
        "single": np.zeros((cases, steps)),
    }
    throws = dice.random((cases, steps))
    score = {way: (throws < BASE + moved).mean(axis=1) for way, moved in seen.items()}
    expected = lift(right, gain=gain, loss=loss)
    for way in ("stream", "serial"):
        error = (score[way] - score["single"]).std() / cases**0.5
        assert abs((score[way] - score["single"]).mean() - getattr(expected, way)) < 4 * error
    for better, worse in pairwise(order):
        difference = score[better] - score[worse]
        assert difference.mean() > 2 * difference.std() / cases**0.5, f"{better} is not better than {worse}"


def test_what_rows_side_by_side_cost_decides_what_a_stream_gains() -> None:
    assert speedup(4, 4) == pytest.approx(16 / 7)
    assert speedup(4, 4, cost=1) == 1
    assert [round(speedup(4, 4, cost=cost), 2) for cost in (0.1, 0.3)] == [2.03, 1.65]
    assert speedup(4, 1) == 1, "one step leaves nothing to hand on early"
