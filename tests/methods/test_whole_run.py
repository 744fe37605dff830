"""Whole runs that must come out the same: with the prefix cache and without it, in ample memory and in too little.

In double precision, so that a batch's size changes nothing that is sampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

import optima_lite.stage.cast  # noqa: E402
from optima_lite.methods.train import train as run_recipe  # noqa: E402
from optima_lite.model import loading  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.runs.progress import Event, Note  # noqa: E402
from optima_lite.settings.config import load_recipe  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from support import SMALL  # noqa: E402

RECIPE = (
    SMALL.replace("selection: {", "selection: {pair_min_reward: -9, min_gap: 0, pair_keep_fraction: 1, ")
    .replace("training: {iterations: 2", "training: {iterations: 1")
    .replace("rollouts: 2, max_turn", "rollouts: 3, max_turn")
    .replace("max_turns: 4", "max_turns: 3")
    .replace("evaluation: {questions: 4", "evaluation: {questions: 2")
    + "search: {searches: 2, rollouts: 2}\n"
    + "dpo: {questions: 4, batch_size: 4, learning_rate: 1e-3, warmup_ratio: 0}\n"
    + "schedule: isft-dpo\n"
)
Train = Callable[..., list[str]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """Runs a recipe in double precision into a folder and returns what it told. room: GiB for the prefix cache.
    most_rows: that a batch may have before memory runs out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "computing_dtype", lambda: torch.float64)

        def run(recipe: str | Path, folder: Path, *, room: float = 2.0, most_rows: float = float("inf")) -> list[str]:
            patch.setattr(optima_lite.stage.cast, "load", lambda *a, **how: starved(loading.load(*a, **how), most_rows))
            events: list[Event] = []
            machine = Machine(threads=1, max_batch_tokens=8192, max_cache_gib=room)
            run_recipe(load_recipe(recipe), machine=machine, folder=folder, observe=events.append)
            return [event.text for event in events if isinstance(event, Note)]

        yield run


def starved(policy: Policy, most_rows: float) -> Policy:
    """The policy, on a machine whose memory gives out in the middle of the model when a batch has more rows."""
    layer = policy.model.get_base_model().model.layers[1]
    forward = layer.forward

    def limited(hidden: Any, *rest: Any, **named: Any) -> Any:
        if len(hidden) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(hidden, *rest, **named)

    layer.forward = limited
    return policy


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def ample(train: Train, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything it could wish for."""
    folder = tmp_path_factory.mktemp("ample")
    assert train(recipe, folder) == []
    return folder


def said(folder: Path) -> dict[str, list[list[int]]]:
    """Every message's ids, by the file that they are in."""
    files = [path for path in sorted(folder.rglob("*.jsonl")) if path.name != "timings.jsonl"]
    lines = {path.relative_to(folder).as_posix(): path.read_text().splitlines() for path in files}
    return {name: [ids for line in found for ids in _messages(json.loads(line))] for name, found in lines.items()}


def _messages(value: Any) -> list[list[int]]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value["ids"]] if isinstance(value, dict) and "ids" in value else []
    return own + [message for part in parts for message in _messages(part)]


def adapter(folder: Path, step: str) -> dict[str, Any]:
    """The weights that a step of the first iteration ends with."""
    return dict(load_file(folder / f"iteration_00/{step}/adapter_model.safetensors"))


def assert_same(one: Path, other: Path) -> None:
    """Both runs sampled the same tokens everywhere and learnt the same weights."""
    assert said(one) == said(other)
    for step in ("4_adapter", "8_adapter"):
        here, there = adapter(one, step), adapter(other, step)
        assert max(float((here[name] - there[name]).abs().max()) for name in here) < 1e-5


@pytest.mark.slow
def test_the_cache_changes_nothing(train: Train, recipe: Path, ample: Path, tmp_path: Path) -> None:
    assert train(recipe, tmp_path / "run", room=0.0) == []
    assert sum(map(len, said(ample).values())) > 100
    assert_same(tmp_path / "run", ample)


@pytest.mark.slow
def test_memory_that_runs_out_in_every_phase_changes_nothing(
    train: Train, recipe: Path, ample: Path, tmp_path: Path
) -> None:
    notes = train(recipe, tmp_path / "run", most_rows=2)
    assert "memory did not suffice for a batch of" in notes[0]
    halved = [f"out of memory: training goes on with {fewer} examples at a time" for fewer in (2, 1)]
    assert sorted(set(notes[1:])) == sorted(halved), "SFT, and DPO, whose examples are two rows"
    assert_same(tmp_path / "run", ample)


@pytest.mark.slow
def test_the_cache_changes_no_token_of_the_quickstart(train: Train, tmp_path: Path) -> None:
    for name, room in (("with", 2.0), ("without", 0.0)):
        train("quickstart", tmp_path / name, room=room)
    assert sum(map(len, said(tmp_path / "with").values())) > 10_000
    assert_same(tmp_path / "with", tmp_path / "without")
