"""A run on a machine that has too little memory in every phase: smaller batches, the same outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

import optima_lite.cast  # noqa: E402
from optima_lite import loop, model  # noqa: E402
from optima_lite.cast import Cast  # noqa: E402
from optima_lite.config import Machine, load_recipe  # noqa: E402
from optima_lite.generate import Sampling  # noqa: E402
from optima_lite.progress import Event, Note, silent  # noqa: E402
from optima_lite.sft import TrainingFacts  # noqa: E402
from optima_lite.stage import Stage  # noqa: E402
from optima_lite.store import Run  # noqa: E402
from support import SMALL  # noqa: E402

RECIPE = (
    SMALL.replace("selection: {", "selection: {pair_min_reward: -9, min_gap: 0, pair_keep_fraction: 1, ")
    .replace("training: {iterations: 2", "training: {iterations: 1")
    .replace("rollouts: 2, max_turn", "rollouts: 4, max_turn")
    .replace("max_turns: 4", "max_turns: 3")
    .replace("evaluation: {questions: 4", "evaluation: {questions: 3")
    + "search: {searches: 2, rollouts: 2}\n"
    + "dpo: {questions: 4, batch_size: 4, learning_rate: 1e-3, warmup_ratio: 0}\n"
    + "schedule: isft-dpo\n"
)
MOST_ROWS = 2


def test_training_begins_with_an_empty_prefix_cache(cast: Cast, tmp_path: Path) -> None:
    generator, held = cast.pair.generator, []
    generator.generate([tuple(range(20, 40))], sampling=Sampling(0.0, 1.0, 4), keys=[0])
    assert generator._cache.bytes > 0

    def optimise(*args: Any, **how: Any) -> TrainingFacts:
        held.append(generator._cache.bytes)
        return TrainingFacts(rows=0, trainer_tokens=0, epochs=0, steps=0, loss=None)

    with Run.open(tmp_path / "run", {"recipe": cast.recipe.to_dict(), "versions": {}}) as run:
        stage = Stage(cast, run, silent)
        stage.adapt(optimise, [], settings=cast.recipe.training, iteration=0, name="4_adapter", label="train")
    assert held == [0]


def ran(folder: Path, monkeypatch: pytest.MonkeyPatch, *, starved: bool) -> list[str]:
    """A run in double precision, so that a batch's size changes nothing that is sampled; what it told."""

    def load(*args: Any, **kwargs: Any) -> model.Policy:
        policy = model.load(*args, **kwargs)
        layer = policy.model.get_base_model().model.layers[1]
        forward = layer.forward

        def limited(hidden: Any, *rest: Any, **named: Any) -> Any:
            if starved and len(hidden) > MOST_ROWS:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(hidden, *rest, **named)

        layer.forward = limited
        return policy

    monkeypatch.setattr(model, "computing_dtype", lambda: torch.float64)
    monkeypatch.setattr(optima_lite.cast, "load", load)
    (folder.parent / "small.yaml").write_text(RECIPE)
    events: list[Event] = []
    machine = Machine(threads=1, max_batch_tokens=8192)
    loop.train(load_recipe(folder.parent / "small.yaml"), machine=machine, folder=folder, observe=events.append)
    return [event.text for event in events if isinstance(event, Note)]


def said(folder: Path) -> dict[str, list[list[int]]]:
    """Every message's ids, by the file that they are in."""

    def messages(value: Any) -> list[list[int]]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        own = [value["ids"]] if isinstance(value, dict) and "ids" in value else []
        return own + [message for part in parts for message in messages(part)]

    files = [path for path in sorted(folder.rglob("*.jsonl")) if path.name != "timings.jsonl"]
    lines = {path.relative_to(folder).as_posix(): path.read_text().splitlines() for path in files}
    return {
        name: [message for line in found for message in messages(json.loads(line))] for name, found in lines.items()
    }


def test_memory_that_runs_out_in_every_phase_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(tmp_path / "ample", monkeypatch, starved=False) == []
    notes = ran(tmp_path / "starved", monkeypatch, starved=True)
    assert "memory did not suffice for a batch of" in notes[0]
    halved = [f"out of memory: training goes on with {fewer} examples at a time" for fewer in (2, 1)]
    assert sorted(set(notes[1:])) == sorted(halved), "SFT, and DPO, whose examples are two rows"
    ample, starved = said(tmp_path / "ample"), said(tmp_path / "starved")
    assert sum(map(len, ample.values())) > 100 and ample == starved
    for step in ("4_adapter", "8_adapter"):
        file = f"iteration_00/{step}/adapter_model.safetensors"
        one, two = (load_file(tmp_path / name / file) for name in ("ample", "starved"))
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
