"""The script that measures variants: it reads what the runs have stored, and takes seeds for clusters."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.statistics import over_seeds
from support import Finished

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/measure.py"


@pytest.fixture(scope="module")
def measure() -> Any:
    spec = importlib.util.spec_from_file_location("measure", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
