"""A whole run says the same, token for token, whatever its rollouts cost: with the prefix cache and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite import cast, model  # noqa: E402
from support import SMALL, call, small_chunks  # noqa: E402

EVERYTHING = (
    "schedule=isft-dpo",
    "dpo.questions=2",
    "dpo.learning_rate=1e-3",
    "search.searches=3",
    "selection.pair_min_reward=-9",
    "selection.min_gap=0",
)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are loaded in float64: floats depend on the shape of a batch, and a hair may decide between two tokens."""

    def load(*arguments: Any, **settings: Any) -> model.Policy:
        policy = model.load(*arguments, **settings)
        policy.model.double()
        return policy

    monkeypatch.setattr(cast, "load", load)


def sampled_ids(folder: Path) -> dict[str, list[Any]]:
    """All token ids that a run sampled, by the file that keeps them."""
    paths = sorted(folder.rglob("*.jsonl"))
    found = {path.relative_to(folder).as_posix(): list(_ids(_rows(path))) for path in paths}
    return {name: ids for name, ids in found.items() if ids}


def _rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _ids(value: Any) -> Iterator[list[int]]:
    if isinstance(value, dict):
        if isinstance(value.get("ids"), list):
            yield value["ids"]
        for inner in value.values():
            yield from _ids(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ids(inner)


def with_and_without(folder: Path, *arguments: str) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What the run of some arguments samples with the prefix cache and without it, its other limits being equal."""
    runs = []
    for name, room in (("with", 2), ("without", 0)):
        machine = folder / f"{name}.toml"
        machine.write_text(f"threads = 1\nmax_batch_tokens = 8192\nmax_cache_gib = {room}\n")
        outcome = call("train", *arguments, "--config", machine, "--run", folder / name)
        assert outcome.code == 0, outcome.err
        runs.append(sampled_ids(folder / name))
    return runs[0], runs[1]


@pytest.mark.usefixtures("exact")
def test_the_cache_changes_no_token_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    small_chunks()
    cached, uncached = with_and_without(tmp_path, str(tmp_path / "small.yaml"), *EVERYTHING)
    assert "iteration_01/6_trees.jsonl" in cached and "iteration_01/1_dialogues.jsonl" in cached
    assert cached == uncached


@pytest.mark.slow
@pytest.mark.usefixtures("exact")
def test_the_cache_changes_no_token_of_the_quickstart(tmp_path: Path) -> None:
    cached, uncached = with_and_without(tmp_path, "quickstart")
    assert sum(map(len, cached.values())) > 10_000
    assert cached == uncached
