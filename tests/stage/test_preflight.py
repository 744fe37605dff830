"""`check` and `doctor`: what they find, and how to mend it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from families import ALWAYS_THINKING, write_model
from optima_lite.errors import ConfigError, ModelError
from optima_lite.methods.plan import plan
from optima_lite.model.memory import OVERHEAD, Setup, planned
from optima_lite.model.shapes import LLAMA3
from optima_lite.settings.config import LoadedRecipe, load_recipe
from optima_lite.settings.machine import Machine
from optima_lite.stage import preflight
from optima_lite.stage.cast import assemble
from optima_lite.stage.findings import Finding, Status
from optima_lite.stage.preflight import check
from optima_lite.tasks import benchmarks
from support import SMALL, call


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    return load_recipe("small.yaml")


def found(findings: Any, subject: str) -> Finding:
    (one,) = [finding for finding in findings if finding.subject == subject]
    return one


def looked(recipe: LoadedRecipe, folder: Path) -> Iterator[Finding]:
    """What a check finds without loading the model."""
    return check(recipe, plan(recipe.recipe), machine=Machine(), folder=folder / "r", probe=False)


def test_a_missing_extra_is_found_before_anything_runs(
    loaded: LoadedRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not [
        one
        for one in check(loaded, plan(loaded.recipe), machine=Machine(), folder=tmp_path / "r", probe=False)
        if "extra" in one.subject
    ]
    maths = load_recipe("small.yaml", overrides=["task.metric=math"])
    monkeypatch.setattr("optima_lite.tasks.mathematics.LIBRARY", "json")
    metric = found(
        check(maths, plan(maths.recipe), machine=Machine(), folder=tmp_path / "r", probe=False), "extra math"
    )
    assert metric == Finding("extra math", Status.OK, "task.metric math compares answers with math-verify")
    monkeypatch.setattr("optima_lite.tasks.mathematics.LIBRARY", "no_such_library")
    metric = found(
        check(maths, plan(maths.recipe), machine=Machine(), folder=tmp_path / "r", probe=False), "extra math"
    )
    assert metric.status is Status.PROBLEM and "math-verify, which is not installed" in metric.detail
    assert metric.hint is not None and metric.hint.startswith("in the clone: pip install '.[math]'")
    with pytest.raises(ConfigError, match="math-verify"):
        preflight.require(maths.recipe, machine=Machine())


def test_words_of_the_recipe_in_place_of_the_team_s_are_told(loaded: LoadedRecipe) -> None:
    Path("small.yaml").write_text(SMALL.replace("protocol: {max_turns: 4}\n", ""))
    (finding,) = [*preflight._prompts(load_recipe("small.yaml", overrides=["team=tree"]).recipe)]
    assert finding.detail == "prompts.system takes the place of the system prompt of all 4 roles"
    assert not [*preflight._prompts(load_recipe("small.yaml", overrides=["team=tree", "prompts.system=null"]).recipe)]
    assert not [*preflight._prompts(loaded.recipe)], "a protocol has no words of a team's"


@pytest.mark.skipif(sys.platform != "linux", reason="segments grow on Linux only")
def test_segments_may_grow_before_the_card_is_looked_at(
    loaded: LoadedRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch reads it once, when the card is first used, and the probe comes later in the same process."""
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        preflight, "gpu", lambda: Finding("GPU", Status.OK, str(os.environ.get("PYTORCH_CUDA_ALLOC_CONF")))
    )
    findings = check(loaded, plan(loaded.recipe), machine=Machine(), folder=tmp_path / "r", probe=False)
    assert next(one for one in findings if one.subject == "GPU").detail == "expandable_segments:True"


def test_code_that_may_not_be_run_is_refused_before_a_run_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"text": "Add.", "test_list": ["assert add(1) == 2"]}
    rows = [row | {"test_list": [f"assert add({n}) == {n + 1}"]} for n in range(60)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = ["task.path=rows.jsonl", "model.name=tiny"]
    coding = load_recipe("mbpp", overrides=overrides)
    monkeypatch.setattr("optima_lite.tasks.sandbox.missing", lambda: None)

    def told(**settings: Any) -> Finding:
        return found(
            check(coding, plan(coding.recipe), machine=Machine(**settings), folder=tmp_path / "r", probe=False),
            "generated code",
        )

    refused = told()
    assert refused.status is Status.PROBLEM and "runs programs that the model writes" in refused.detail
    assert refused.hint is not None and refused.hint.startswith("set allow_code = true in optima_lite.toml")
    outcome = call("train", "mbpp", *overrides)
    assert outcome.code == 2 and "allow_code = true" in outcome.err and not Path("runs").exists()
    allowed = told(allow_code=True)
    assert (allowed.status, allowed.detail) == (
        Status.OK,
        "task.metric tests runs the programs that the model writes, walled in",
    )
    preflight.require(coding.recipe, machine=Machine(allow_code=True))
    with pytest.raises(ConfigError, match="not allowed"):  # as eval, scale, search and chat begin
        assemble(coding.recipe, machine=Machine(), settle=lambda key, decide: decide())
    monkeypatch.setattr("optima_lite.tasks.sandbox.missing", lambda: "no walls")
    assert "cannot be contained here: no walls" in told(allow_code=True).detail
    with pytest.raises(ConfigError, match="no walls"):
        preflight.require(coding.recipe, machine=Machine(allow_code=True))


def test_check_of_a_recipe_that_can_run(loaded: LoadedRecipe) -> None:
    findings = list(check(loaded, plan(loaded.recipe), machine=Machine(), folder=Path("runs/small")))
    assert not [finding for finding in findings if finding.status is Status.PROBLEM]
    time = found(findings, "time")
    assert re.fullmatch(
        r"about \d+:\d\d here, and \d+ MiB to store, by 48 dialogues of the untrained team, \d+ tokens each",
        time.detail,
    )
    told = [found(findings, f"data to {use}") for use in ("train on", "decide on", "report on")]
    assert [one.detail for one in told] == [
        "endless training questions, 4 asked for in an iteration",
        "endless validation questions, 2 asked for",
        "endless held-out questions, 4 asked for",
    ]
    assert all(one.status is Status.NOTE and "chance decides" in (one.hint or "") for one in told)


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
    model = found(check(hub, plan(hub.recipe), machine=machine, folder=Path("runs/small"), probe=False), "model")
    assert (model.status, model.detail) == (Status.NOTE, detail)


def test_what_a_run_would_refuse_of_a_model_is_a_problem_here(
    loaded: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def told(name: str, *overrides: str) -> Finding:
        recipe = load_recipe("small.yaml", overrides=[f"model.name={name}", *overrides])
        return found(
            check(recipe, plan(recipe.recipe), machine=Machine(), folder=Path("runs/small"), probe=False), "model"
        )

    (tmp_path / "config.json").write_text('{"architectures": ["Gemma2ForCausalLM"]}')
    monkeypatch.setattr(hub, "hf_hub_download", lambda *a, **k: str(tmp_path / "config.json"))
    refused = told("google/gemma-2-2b-it")
    assert refused.status is Status.PROBLEM and refused.hint is not None
    assert refused.detail.startswith("cannot train Gemma2ForCausalLM: it caps its attention scores")

    short = write_model(tmp_path / "short", "mistral with a window")
    note = "rows are kept to 160 tokens, which its sliding attention windows hold"
    assert told(str(short)) == Finding("model", Status.NOTE, f"{short}; {note}")
    assert told(str(short), "model.max_length=128") == Finding("model", Status.OK, str(short))
    (short / "chat_template.jinja").write_text(ALWAYS_THINKING)
    assert told(str(short)).status is Status.PROBLEM
    with pytest.raises(ModelError, match="think aloud"):
        recipe = load_recipe("small.yaml", overrides=[f"model.name={short}"]).recipe
        preflight.require(recipe, machine=Machine())


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
    sft = found(
        check(named, plan(named.recipe), machine=Machine(), folder=Path("runs/small"), probe=False), "memory to sft"
    )
    assert f": weights {weights}, " in sft.detail


def test_how_many_workers_would_have_work_is_told_without_a_talk() -> None:
    loaded = load_recipe("quickstart", overrides=["training.questions=256", "sampling.rollouts=8"])
    findings = check(loaded, plan(loaded.recipe), machine=Machine(), folder=Path("runs/r"), probe=False, gpus=1024)
    told = found(findings, "time, 1024 workers").detail
    assert told.startswith("not known: ") and told.endswith("; with a chunk of 64 no more than 32 ever have work")


def test_a_file_with_few_held_out_questions_is_a_note(loaded: LoadedRecipe) -> None:
    rows = [f'{{"question": "What is {i}?", "answers": "{i}", "context": []}}\n' for i in range(60)]
    Path("rows.jsonl").write_text("".join(rows))
    few = load_recipe("small.yaml", overrides=["task.name=jsonl", "task.path=rows.jsonl", "evaluation.questions=500"])
    data = found(
        check(few, plan(few.recipe), machine=Machine(), folder=Path("runs/small"), probe=False), "data to report on"
    )
    assert (data.status, data.detail) == (Status.NOTE, "12 held-out questions, fewer than the 500 asked for")


def test_the_run_folder_is_told_as_train_would_find_it(loaded: LoadedRecipe) -> None:
    folder = Path("runs/small-seed0")

    def told() -> Finding:
        return found(check(loaded, plan(loaded.recipe), machine=Machine(), folder=folder, probe=False), "run folder")

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
    from optima_lite.model.room import card_room

    gib = 2**30
    monkeypatch.setattr(preflight, "free_memory", lambda: 3 * gib)
    assert preflight._room(Machine(), None) == 3 * gib
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2 * gib)
    assert preflight._room(Machine(), None) == card_room(Machine()) == 12 * gib - gib // 4
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


def test_the_hub_is_not_asked_about_a_card_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Memory is foretold from anywhere, with no problem where there is no network."""

    def asked(*what: Any) -> None:
        raise AssertionError(what)

    monkeypatch.setattr(benchmarks, "_downloaded", asked)
    hotpotqa = load_recipe("hotpotqa")
    found = list(check(hotpotqa, plan(hotpotqa.recipe), machine=Machine(), folder=tmp_path / "r", vram=24, probe=False))
    assert Finding("data", Status.NOTE, "hotpotqa comes from the Hugging Face hub, which was not asked") in found
    assert Status.PROBLEM not in {one.status for one in found}
    assert any(one.subject == "memory to sft" for one in found)
