"""`check` and `doctor`: what they find, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from optima_lite.errors import ConfigError
from optima_lite.model.memory import LLAMA3, OVERHEAD, Setup, planned
from optima_lite.settings.config import LoadedRecipe, Machine, load_recipe
from optima_lite.stage import preflight
from optima_lite.stage.preflight import Finding, Status, check, doctor, versions
from support import SMALL

Version = namedtuple("Version", "major minor micro releaselevel serial")


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    return load_recipe("small.yaml")


def found(findings: Any, subject: str) -> Finding:
    (one,) = [finding for finding in findings if finding.subject == subject]
    return one


def test_a_missing_extra_is_found_before_anything_runs(
    loaded: LoadedRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not [one for one in check(loaded, machine=Machine(), folder=tmp_path / "r") if "extra" in one.subject]
    maths = load_recipe("small.yaml", overrides=["task.metric=math"])
    monkeypatch.setattr("optima_lite.tasks.mathematics.LIBRARY", "json")
    metric = found(check(maths, machine=Machine(), folder=tmp_path / "r"), "extra math")
    assert metric == Finding("extra math", Status.OK, "task.metric math compares answers with math-verify")
    monkeypatch.setattr("optima_lite.tasks.mathematics.LIBRARY", "no_such_library")
    metric = found(check(maths, machine=Machine(), folder=tmp_path / "r"), "extra math")
    assert metric.status is Status.PROBLEM and "math-verify, which is not installed" in metric.detail
    assert metric.hint is not None and metric.hint.startswith('pip install "optima-lite[math]"')
    with pytest.raises(ConfigError, match="math-verify"):
        preflight.require(maths.recipe, machine=Machine())


def test_versions_name_what_decides_a_run() -> None:
    known = versions()
    assert {"python", "optima-lite", "torch", "transformers", "trl", "peft"} <= known.keys()
    assert known["torch"] == importlib.metadata.version("torch")


def test_this_machine_is_fine() -> None:
    findings = list(doctor(Machine()))
    assert not [finding for finding in findings if finding.status is Status.PROBLEM]
    assert all(finding.hint is None for finding in findings if finding.status is Status.OK)


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_another_python_is_a_problem(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", Version(*version, "final", 0))
    python = preflight._python()
    assert (python.status, python.hint) == (Status.PROBLEM, "use Python 3.11 to 3.13")


@pytest.mark.parametrize(
    ("version", "status", "detail"),
    [
        (None, Status.PROBLEM, "not installed"),
        ("0.1", Status.PROBLEM, "0.1, supported: "),
        ("1.15.0", Status.PROBLEM, "1.15.0, supported: "),
        ("1.16.0", Status.OK, "1.16.0"),
    ],
)
def test_a_package_outside_its_range_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, version: str | None, status: Status, detail: str
) -> None:
    real = preflight._version
    monkeypatch.setattr(preflight, "_version", lambda name: version if name == "trl" else real(name))
    trl = found(doctor(Machine()), "trl")
    assert trl.status is status and trl.detail.startswith(detail)
    assert (trl.hint is None) == (status is Status.OK)
    if trl.hint:
        assert trl.hint.startswith("pip install 'trl")


def test_without_a_gpu_the_tiny_model_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = preflight._gpu()
    assert gpu.status is Status.NOTE and "fine for the bundled tiny model" in gpu.detail


def test_a_card_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    card = namedtuple("Card", "name total_memory major minor")("NVIDIA RTX 4090", 24 * 2**30, 8, 9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert preflight._gpu().detail.startswith("NVIDIA RTX 4090, 24 GiB")


def test_a_disk_that_is_full_or_read_only_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 2**29))
    disk = preflight._disk(tmp_path / "not" / "yet")
    assert (disk.status, disk.detail) == (Status.PROBLEM, f"0.5 GiB free at {tmp_path}")
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)
    disk = preflight._disk(tmp_path)
    assert (disk.status, disk.detail) == (Status.PROBLEM, f"{tmp_path} cannot be written")
    assert disk.hint == "set run_folder in optima_lite.toml"


def test_check_of_a_recipe_that_can_run(loaded: LoadedRecipe) -> None:
    findings = list(check(loaded, machine=Machine(), folder=Path("runs/small")))
    assert not [finding for finding in findings if finding.status is Status.PROBLEM]
    assert found(findings, "data").detail == "4 training questions an iteration, 4 held out"


@pytest.mark.parametrize(
    ("name", "machine", "detail"),
    [
        ("meta-llama/Llama", Machine(), "meta-llama/Llama: from the Hugging Face hub, downloaded once"),
        ("meta-llama/Llama", Machine(offline=True), "meta-llama/Llama: from the local hub cache, since offline is set"),
    ],
)
def test_a_model_of_the_hub_is_a_note(loaded: LoadedRecipe, name: str, machine: Machine, detail: str) -> None:
    pytest.importorskip("torch")
    hub = load_recipe("small.yaml", overrides=[f"model.name={name}"])
    model = found(check(hub, machine=machine, folder=Path("runs/small")), "model")
    assert (model.status, model.detail) == (Status.NOTE, detail)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("unsloth/llama-3-8b-Instruct-bnb-4bit", "7.5"), ("meta-llama/Meta-Llama-3-8B-Instruct", "29.9")],
)
def test_a_model_that_is_not_here_yet_is_forecast_by_its_name(
    loaded: LoadedRecipe, monkeypatch: pytest.MonkeyPatch, name: str, weights: str
) -> None:
    """Without a GPU what is not quantised on the hub stays so."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    named = load_recipe("small.yaml", overrides=[f"model.name={name}"])
    sft = found(check(named, machine=Machine(), folder=Path("runs/small")), "memory to sft")
    assert f": weights {weights}, " in sft.detail


def test_a_file_with_few_held_out_questions_is_a_note(loaded: LoadedRecipe) -> None:
    rows = [f'{{"question": "What is {i}?", "answers": "{i}", "context": []}}\n' for i in range(60)]
    Path("rows.jsonl").write_text("".join(rows))
    few = load_recipe("small.yaml", overrides=["task.name=jsonl", "task.path=rows.jsonl", "evaluation.questions=500"])
    data = found(check(few, machine=Machine(), folder=Path("runs/small")), "data")
    assert data.status is Status.NOTE and data.detail.endswith(" held out of 500 asked for")


def test_the_run_folder_is_told_as_train_would_find_it(loaded: LoadedRecipe) -> None:
    folder = Path("runs/small-seed0")

    def told() -> Finding:
        return found(check(loaded, machine=Machine(), folder=folder), "run folder")

    assert told() == Finding("run folder", Status.OK, "runs/small-seed0")
    (folder / "iteration_00").mkdir(parents=True)
    (folder / "iteration_00/1_dialogues.jsonl").touch()
    (folder / "manifest.json").write_text(json.dumps({"recipe": loaded.recipe.to_dict()}))
    assert told() == Finding("run folder", Status.OK, "runs/small-seed0, which holds this run and will be resumed")
    (folder / "manifest.json").write_text(json.dumps({"recipe": loaded.recipe.to_dict() | {"seed": 1}}))
    other = told()
    assert (other.status, other.detail) == (
        Status.PROBLEM,
        "runs/small-seed0: holds a run of another recipe:\n  seed: 1 -> 0",
    )
    assert other.hint and other.hint.startswith("--run OTHER")
    (folder / "manifest.json").unlink()
    assert told().detail == "runs/small-seed0: holds other files and no manifest.json, so it is not a run folder"


def test_the_forecast_has_the_room_that_the_run_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs hold of a card, or of this machine's memory, is no room for either of the two."""
    torch = pytest.importorskip("torch")
    from optima_lite.model import policy

    gib = 2**30
    monkeypatch.setattr(preflight, "free_memory", lambda: 3 * gib)
    assert preflight._room(Machine(), None) == 3 * gib
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2 * gib)
    assert preflight._room(Machine(), None) == policy.card_room(Machine()) == 12 * gib - gib // 4
    assert preflight._room(Machine(max_vram_gib=8), None) == 8 * gib - gib // 4
    assert preflight._room(Machine(), 24) == 24 * gib - OVERHEAD, "a card that is asked about is taken to be free"


def test_a_run_on_a_card_is_not_bound_to_the_limits_it_began_with() -> None:
    pytest.importorskip("torch")
    from optima_lite.stage.cast import settling

    stored = {"micro_batch": 2}
    for on_card, found in ((False, 2), (True, 16)):
        settle = settling(lambda key, decide: stored.get(key) or decide(), on_card=on_card)
        assert settle("micro_batch", lambda: 16) == found


def test_advice_on_a_model_of_millions_of_positions_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest rows that fit are found in some twenty forecasts, however long the model's own are."""
    recipe, asked = load_recipe("quickstart").recipe, []

    def count(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["row_tokens"])
        return planned(*args, **kwargs)

    monkeypatch.setattr(preflight, "planned", count)
    setup = Setup(quantised=True, gpu=True, lora_rank=16)
    advice = preflight._advice(recipe, Machine(), LLAMA3["8b"], setup, rows=2**24, room=20 * 2**30)
    length = int(advice.removeprefix("model.max_length=").removesuffix(" fits"))
    for tokens, fits in ((length, True), (length + 256, False)):
        phases = planned(recipe, Machine(), LLAMA3["8b"], setup, row_tokens=tokens, room=20 * 2**30)[1]
        assert all(phase.total <= 20 * 2**30 for phase in phases) is fits
    assert len(asked) < 20
