"""The benchmark of the prefix cache: all four ways hold the same dialogues, and what it counts adds up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/bench.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec and spec.loader
    module = sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("searches", "dialogues"), [(1, 6), (3, 18)])
def test_every_way_says_the_same(bench: Any, searches: int, dialogues: int) -> None:
    shape = bench.Shape("small", prompt=30, turns=3, turn=5, rollouts=2, searches=searches)
    policy = bench.make_policy(torch.device("cpu"), quick=True)
    line = bench.measure(shape, policy, budget=4096, repetitions=1, console=Console(quiet=True))
    assert line["dialogues"] == line["as_naive"] == dialogues
    turns, odd = divmod(line["decoded"], 5)
    assert odd == 0 and turns <= 3 * dialogues and (turns == 18) == (searches == 1), "a tree goes on from what was said"
    assert line["reused"] > line["prefilled"] > 0
    assert all(line[f"{way}_s"] > 0 for way in bench.WAYS)
    assert line["naive_over_cached"] == pytest.approx(line["naive_s"] / line["cached_s"], rel=0.1)
