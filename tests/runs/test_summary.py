"""The numbers that are kept of a run: its summary, the tokens it took, its evaluations in their order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from optima_lite.errors import RunError
from optima_lite.records import (
    EvalRow,
)
from optima_lite.runs import report
from optima_lite.runs.card import write_adapter_card
from optima_lite.runs.evaluations import evaluation_stage, evaluations
from optima_lite.runs.folder import RunFolder
from optima_lite.runs.progress import Timing
from optima_lite.runs.summary import preparation_tokens, summary, training_tokens, validation_tokens
from reported import RECIPE, evaluate, evaluation, fill, finished, open_run, rollouts, text

run = pytest.fixture(finished)


def test_the_work_of_all_phases_is_told_in_a_line(run: RunFolder, tmp_path: Path) -> None:
    assert summary(run)["work"] is None, "a run of before this was kept"
    assert "read by the model" not in text(report.overview(run), width=80)
    with open_run(tmp_path / "fresh") as fresh:
        counts = [{"computed": 1200, "reused": 3400, "sampled": 56}, {"computed": 1, "reused": 2, "sampled": 3}, {}]
        fresh.append_timings(Timing(0, f"phase {k}", 1.0, 0, 1, {}, one) for k, one in enumerate(counts))
        assert summary(fresh)["work"] == {"computed": 1201, "reused": 3402, "sampled": 59}
        line = "1,201 tokens read by the model, 3,402 found in its cache, 59 sampled"
        assert line in text(report.overview(fresh), width=80)
        assert line in text(report.result(fresh), width=80)


def test_the_summary_has_the_promised_shape(run: RunFolder) -> None:
    told = json.loads(json.dumps(summary(run), allow_nan=False))
    assert list(told) == [
        "recipe",
        "seed",
        "adapter",
        "seconds",
        "work",
        "training_tokens",
        "validation_tokens",
        "evaluations",
    ]
    assert (told["recipe"], told["seed"], told["seconds"]) == ("quickstart", 4, 62.75)
    sampled = sum(100 + i + 56 + 8 for i in range(4)) + sum(20 + i + 56 + 8 for i in range(4))
    assert told["training_tokens"] == sampled + 2 * 1000 * 3 + 4 * 1500 + 250 * 2
    names = [(row["name"], row["decoding"]) for row in told["evaluations"]]
    assert names == [
        ("untrained", "sampled"),
        ("untrained", "greedy"),
        ("single_agent", "sampled"),
        ("iteration_0", "sampled"),
        ("iteration_1", "sampled"),
        ("iteration_1", "greedy"),
    ]
    fields = [field.name for field in dataclasses.fields(EvalRow)]
    assert all(list(row) == fields for row in told["evaluations"])
    assert told["evaluations"][-1]["tokens_per_correct"] is None


@pytest.mark.parametrize("adapter", ["4_adapter", "8_adapter"])
def test_training_tokens_are_unknown_while_a_step_is_under_way(run: RunFolder, adapter: str) -> None:
    (run.folder / f"iteration_01/{adapter}/training.json").unlink()
    assert summary(run)["training_tokens"] is None


def test_training_tokens_are_unknown_while_an_iteration_has_only_begun(run: RunFolder) -> None:
    (run.folder / "iteration_02").mkdir()
    assert summary(run)["training_tokens"] is None


def test_what_was_sampled_to_judge_is_a_cost_of_training(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        fill(run)
        trained = training_tokens(run)
        assert validation_tokens(run) == {0: 0, 1: 0} and preparation_tokens(run) == trained
        for name in ("validation/untrained", "iteration_00/5_validation", "iteration_01/9_validation"):
            run.append(name, [rollouts(0, terse=True)])  # 84 tokens
        assert validation_tokens(run) == {0: 168, 1: 252}
        assert preparation_tokens(run) == {0: trained[0] + 168, 1: trained[1] + 252}
        assert summary(run)["validation_tokens"] == 252
        assert summary(run)["training_tokens"] == trained[1], "a sum apart"


def test_the_adapter_card_says_how_to_load_it(tmp_path: Path) -> None:
    facts = {"trainer_tokens": 1000, "epochs": 3, "loss": None}
    write_adapter_card(tmp_path, RECIPE, team="exchange", iteration=2, facts=facts)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "# Adapter of iteration 2\n" in card
    assert "`tiny`" in card and "team `exchange`, seed\n4." in card
    assert "- trainer tokens: 1000\n- epochs: 3\n\n```python\nfrom peft import" in card


@pytest.mark.parametrize(
    ("name", "decoding", "stage"),
    [
        ("untrained", "sampled", "evaluation/untrained_sampled"),
        ("iteration_3", "greedy", "evaluation/iteration_03_greedy"),
        ("iteration_12", "sampled", "evaluation/iteration_12_sampled"),
    ],
)
def test_evaluation_files_sort_as_they_came(name: str, decoding: str, stage: str) -> None:
    assert evaluation_stage(name, decoding) == stage


def test_iterations_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        for i in (10, 2, 100):
            row = evaluation(f"iteration_{i}", "greedy", score=0.5, tokens=9.0, correct=1.0)
            evaluate(run, row, terse=True, scores=())
        assert [row.name for row in evaluations(run)] == ["iteration_2", "iteration_10", "iteration_100"]


def test_other_json_files_among_the_evaluations_are_left_alone(run: RunFolder) -> None:
    before = evaluations(run)
    (run.folder / "evaluation/questions.json").write_text("{}")
    assert evaluations(run) == before


def test_an_evaluation_of_another_shape_is_told(run: RunFolder) -> None:
    path = run.folder / "evaluation/untrained_sampled.json"
    path.write_text('{"name": "untrained"}')
    with pytest.raises(RunError) as error:
        evaluations(run)
    hint = "delete it and untrained_sampled.jsonl, and run the same command again"
    assert str(error.value) == f"{path}: is not an evaluation of this version\n  try: {hint}"
