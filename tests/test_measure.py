"""The script that measures variants: it reads what the runs have stored, and takes seeds for clusters."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.records import Rollouts
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.statistics import over_seeds
from support import Finished

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a frozen record looks for its annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measure() -> Any:
    return script("measure")


@pytest.fixture(scope="module")
def run(finished: Finished) -> RunFolder:
    return read_run(finished.folder)


def test_it_reads_the_answers_of_the_last_pair(measure: Any, run: RunFolder) -> None:
    (row,) = [
        row
        for row in run.read_json("summary.json")["evaluations"]
        if (row["name"], row["decoding"]) == ("iteration_1", "sampled")
    ]
    found = measure.answered(run, "held_out")
    assert len(found) == row["questions"]
    assert sum(tokens for _, tokens in found) / len(found) == pytest.approx(row["tokens"])
    assert sum(score for score, _ in found) / len(found) == pytest.approx(row["score"])
    assert len(measure.answered(run, "validation")) == 2, "those of the adapter in force"


def test_the_table_shows_lines_differences_and_seeds(
    measure: Any, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    measure.print_differences({"": [run, run], "other": [run, run]}, "held_out")
    _, _, first, other, difference = capsys.readouterr().out.splitlines()
    score = over_seeds([[score for score, _ in measure.answered(run, "held_out")]]).mean
    assert first.startswith("as it is") and f"(seeds {score:.3f} {score:.3f})" in first
    assert other.split()[1:] == first.split()[3:]
    assert difference.startswith("other, less as it is: +0.000 [+0.000, +0.000] (seeds +0.000 +0.000)")


def test_the_gain_is_what_training_changed(measure: Any, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    measure.print_gains({"": [run]})
    _, _, before, gain = capsys.readouterr().out.splitlines()
    rows = {(row["name"], row["decoding"]): row for row in run.read_json("summary.json")["evaluations"]}
    untrained, trained = rows["untrained", "sampled"], rows["iteration_1", "sampled"]
    assert before.startswith("as it is") and f"(seeds {untrained['score']:.3f})" in before
    assert f"(seeds {trained['score'] - untrained['score']:+.3f})" in gain
    assert f"(seeds {trained['tokens'] - untrained['tokens']:+.1f})" in gain


def test_a_comma_within_braces_parts_no_overrides(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(measure.optima_lite, "train", lambda recipe, **named: given.update(named))
    measure.run("teams_quickstart", "team=exchange,team.adapters={Alice: a, Bob: b}", 1, tmp_path)
    assert given["overrides"] == ["team=exchange", "team.adapters={Alice: a, Bob: b}", "seed=1"]
    assert given["run"].parent == tmp_path and " " not in given["run"].name


def test_lines_meet_where_all_have_sampled_as_much(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sampled are dialogues and those of validation, iteration by iteration; a run is taken before it spends more."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    equal = script("equal_tokens")
    points = equal.curve(run)
    assert [point.iteration for point in points] == [None, 0, 1]
    stages = ("1_dialogues", "5_validation")
    spent = [sum(tokens(run, f"iteration_{k:02d}/{stage}") for stage in stages) for k in (0, 1)]
    first = spent[0] + tokens(run, "validation/untrained")
    assert [point.sampled for point in points] == [0, first, first + spent[1]]
    summary = run.read_json("summary.json")
    assert points[-1].prepared == summary["training_tokens"] + summary["validation_tokens"] > points[-1].sampled
    assert equal.within(points, first) is points[1] and equal.within(points, first - 1) is points[0]

    for line in ("long-seed0", "short-seed0"):
        shutil.copytree(run.folder, tmp_path / line)
    (tmp_path / "short-seed0/evaluation/iteration_01_sampled.jsonl").unlink()  # as if it had ended before
    lines = equal.read_lines(tmp_path)
    assert [*lines] == ["long", "short"] and equal.budget(lines) == first
    equal.print_at(first, lines)
    long, short = capsys.readouterr().out.splitlines()[-2:]
    assert long.split()[1:] == short.split()[1:], "both as they were after the first iteration"


def tokens(run: RunFolder, stage: str) -> int:
    return sum(dialogue.tokens for group in run.read(stage, Rollouts) for dialogue in group.dialogues)


def test_the_tables_of_the_signalling_game_agree_where_all_of_them_learn() -> None:
    tables = script("signalling_tables")
    together, *_, sender, receivers = tables.LINES
    for seed in range(3):
        agreed, right = tables.played(together, seed)
        assert agreed and right > 0.95
        for control in (sender, receivers):
            agreed, right = tables.played(control, seed)
            assert not agreed and right == pytest.approx(0.25, abs=0.02), "chance"
