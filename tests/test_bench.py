"""The benchmark of the prefix cache: all four ways hold the same dialogues, and what it counts adds up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402

MOST = {
    "generate": 24,
    "rank": 24,
    "search": 16,
    "evaluate": 40,
    "serve": 32,
}  # questions at which a step meets the end of the room
SCRIPT = Path(__file__).resolve().parents[1] / "scripts/bench.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(SCRIPT.parent))  # as for a script that is called
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec and spec.loader
    module = sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
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


def test_ragged_turns_end_where_those_of_every_other_way_do(bench: Any) -> None:
    shape = bench.Shape("small", prompt=30, turns=3, turn=12, rollouts=4, ends=bench.VOCABULARY // 4)
    policy = bench.make_policy(torch.device("cpu"), quick=True)
    line = bench.measure(shape, policy, budget=4096, repetitions=1, console=Console(quiet=True))
    assert line["dialogues"] == line["as_naive"] == 12
    assert 36 < line["decoded"] < 36 * 12


# --- The room of an 8B ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "questions"),
    [(step, count) for step, most in MOST.items() for count in (4, most)],
)
def test_an_8b_s_room_costs_hardly_more_than_an_unlimited_one(bench: Any, step: str, questions: int) -> None:
    """The prompts alone fill the cache two to four times; the loop holds 40 questions of 10 rollouts side by side.

    Tokens are counted, so the numbers are the same everywhere."""
    line = bench.room.measure(step, questions=questions, quick=True)
    assert line["computed_over_unlimited"] <= 1.1
    assert line["questions"] == questions
    once = {"generate": 2 * 800 / 10, "rank": 2 * 800 / 10, "search": 4 * 800 / 6, "evaluate": 4 * 800}.get(
        step, 2 * 800
    )
    assert once < line["unlimited_per_dialogue"] < once + 250, "each prompt once a model, and what was said"


def test_clients_who_need_not_wait_for_room_find_their_past_gone(bench: Any) -> None:
    """The control: all of them at once, each computes its prompt anew at every turn."""
    cast = bench.room.make_cast(bench.room.make_policy(), room=bench.room.ROOM, searches=1)
    dialogues = bench.room.serve(cast, bench.room.make_questions(32), admitted=False)
    assert cast.team.generator.counts.computed / dialogues > 1.7 * (2 * 800 + 250 / 4)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["generate", "evaluate", "serve"])
def test_so_do_400_questions(bench: Any, step: str) -> None:
    assert bench.room.measure(step, questions=400)["computed_over_unlimited"] <= 1.1
