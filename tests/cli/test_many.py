"""`compare` and `sweep`: runs side by side, and many of them from one command."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from optima_lite.cli.many import combinations
from optima_lite.errors import ConfigError
from optima_lite.runs.evaluations import evaluation_stage
from support import TINIER, Finished, call

MACHINE = "threads = 1\nmax_batch_tokens = 8192\n"


def copied(finished: Finished, folder: Path) -> Path:
    """The evaluations of a finished run, without what it took to get there."""
    for name in (
        "manifest.json",
        *(f"{evaluation_stage('iteration_1', 'sampled')}{end}" for end in (".json", ".jsonl")),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((finished.folder / name).read_bytes())
    return folder


def test_a_run_does_not_differ_from_itself(finished: Finished, tmp_path: Path) -> None:
    outcome = call("compare", finished.folder, copied(finished, tmp_path / "again"), "--json")
    assert outcome.code == 0, outcome.err
    first, second = outcome.events
    assert (first["shared"], first["score_change"]) == (None, None)
    assert (second["run"], second["shared"], second["score_change"], second["tokens_change"]) == ("again", 4, 0.0, 0.0)
    assert first["score"] == second["score"]


def test_differences_are_of_the_same_questions_only(finished: Finished, tmp_path: Path) -> None:
    other = copied(finished, tmp_path / "other")
    path = other / f"{evaluation_stage('iteration_1', 'sampled')}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["question"]["id"] = "of another file"
    before = [row["rewards"][0]["task"] for row in rows[1:]]
    for row in rows:
        row["rewards"][0]["task"] = 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = call("compare", finished.folder, other, "--json").events[1]
    assert line["shared"] == 3
    assert line["score_change"] == pytest.approx(1.0 - sum(before) / 3)
    assert line["score_change_low"] < line["score_change"] or not any(value < 1 for value in before)
    assert "3 shared" in call("compare", finished.folder, other).out


def test_compare_as_a_table_and_as_csv(finished: Finished, tmp_path: Path) -> None:
    other = copied(finished, tmp_path / "other")
    table = call("compare", finished.folder, other).out
    assert "small-seed0" in table and "iteration_1 sampled (4)" in table
    lines = list(csv.DictReader(io.StringIO(call("compare", finished.folder, other, "--csv").out)))
    assert [line["run"] for line in lines] == ["small-seed0", "other"] and lines[0]["shared"] == ""
    assert call("compare", finished.folder, other, "--csv", "--json").code == 2


def test_a_run_without_an_evaluation_is_told(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes((finished.folder / "manifest.json").read_bytes())
    outcome = call("compare", finished.folder, tmp_path)
    assert outcome.code == 2 and "has evaluated no iteration sampled yet" in outcome.err


def test_combinations() -> None:
    assert combinations([]) == [[]]
    assert combinations(["a=1,2", "seed=0,1"]) == [
        ["a=1", "seed=0"],
        ["a=1", "seed=1"],
        ["a=2", "seed=0"],
        ["a=2", "seed=1"],
    ]
    assert combinations(["a=[1,2],[3]", "b='x,y'"]) == [["a=[1,2]", "b='x,y'"], ["a=[3]", "b='x,y'"]]
    with pytest.raises(ConfigError, match="not of the form"):
        combinations(["seed"])


def test_a_sweep_runs_every_combination_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(TINIER)
    (tmp_path / "machine.toml").write_text(MACHINE + f'run_folder = "{tmp_path}/runs"\n')
    wanted = ("sweep", tmp_path / "small.yaml", "reward.token_weight=0,0.6", "--config", tmp_path / "machine.toml")
    outcome = call(*wanted)
    assert outcome.code == 0, outcome.err
    names = ["small-token_weight0.0-seed0", "small-token_weight0.6-seed0"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    assert "run 2 of 2" in outcome.out and outcome.out.count("questions\n") >= 2
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl") if path.stem[0].isdigit()}
    again = call(*wanted, "--json")
    assert [line["run"] for line in again.events] == names
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}, "nothing was computed again"


def test_a_sweep_tells_every_mistake_before_the_first_run(tmp_path: Path) -> None:
    (tmp_path / "machine.toml").write_text(f'run_folder = "{tmp_path}/runs"\n')
    outcome = call("sweep", "quickstart", "training.epochs=1,0", "--config", tmp_path / "machine.toml")
    assert outcome.code == 2 and "training.epochs" in outcome.err and not (tmp_path / "runs").exists()
