"""The benchmark of a cluster: what it foretells and what it measures are on the same clock."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray")

from optima_lite.stage.cluster import Took

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/bench_cluster.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_cluster", SCRIPT)
    assert spec and spec.loader
    module = sys.modules["bench_cluster"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_workers_are_foretold_from_the_pieces_of_one_phase_by_phase(bench: Any) -> None:
    """Five pieces of a phase are three rounds of two; workers that share a core take twice the seconds, not the CPU."""
    phases = (tuple(Took(1, 3.0, 1.0) for _ in range(5)), tuple(Took(1, 6.0, 2.0) for _ in range(4)))
    one = bench.Measured(40, 39.0, 0.0, phases, [])
    assert (one.pieces, one.cpu, one.own_clocks) == (9, 13.0, 13.0)
    assert bench.foretold(one, 1) == pytest.approx((39.0, 13.0))
    assert bench.foretold(one, 2) == pytest.approx((9.0 + 12.0, 3.0 + 4.0))
    shared = tuple(tuple(Took(number % 2, 2 * it.seconds, it.cpu) for number, it in enumerate(own)) for own in phases)
    two = bench.Measured(40, 42.0, 0.0, shared, [])
    assert two.own_clocks == 3.0 + 4.0
    assert bench.row("2", two, *bench.foretold(one, 2)) == "| 2 | 42.0 | 21.0 | 1.0 | 7.0 | 7.0 | 0.0 | 13.0 | 9 |"
