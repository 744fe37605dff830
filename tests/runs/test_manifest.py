"""Which run a folder holds: who may resume it, who is refused and why, and starts that fail."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from optima_lite.errors import RunError
from optima_lite.runs.folder import read_run, stage_name
from optima_lite.runs.store import Run
from stored import MANIFEST, Row, begun, manifest, put


def test_a_run_of_an_earlier_version_resumes_where_new_keys_have_their_defaults(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", MANIFEST) as run:
        run.append("iteration_00/1_dialogues", [Row(0)])
    newer = {**MANIFEST["recipe"], "preset": None, "reward": {"schemas": {}, "max_tokens": None}}
    with Run.open(tmp_path / "run", {**MANIFEST, "recipe": newer}) as run:
        assert run.resumed and run.manifest["recipe"] == newer
    with Run.open(tmp_path / "other", MANIFEST) as run:
        run.append("iteration_00/1_dialogues", [Row(0)])
    newer["reward"]["max_tokens"] = 9
    with pytest.raises(RunError, match=r"another recipe:\n  reward.max_tokens: absent -> 9\n  try"):
        Run.open(tmp_path / "other", {**MANIFEST, "recipe": newer})


def test_a_new_folder_gets_the_manifest_and_the_same_recipe_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with Run.open(folder, MANIFEST) as run:
        assert not run.resumed
        assert json.loads((folder / "manifest.json").read_text()) == MANIFEST
        assert run.settle("threads", lambda: 2) == 2
        run.append("iteration_00/1_dialogues", [Row(0)])
    with Run.open(folder, {**MANIFEST, "versions": {"torch": "3.0"}}) as run:
        assert run.resumed
        assert run.manifest == {**MANIFEST, "threads": 2}
        assert run.settle("threads", pytest.fail) == 2
        assert 'resumed with other versions: {"torch": "3.0"}' in (folder / "log.txt").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "iteration_00", "log.txt", "manifest.json"]


def test_a_start_that_failed_before_it_computed_anything_binds_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run.open(folder, MANIFEST) as run:
        run.settle("threads", lambda: 2)
        put(run, "validation/questions.json", "evaluation/pair_questions.json")  # counted before anything is sampled
    other = {**manifest(iterations=1, epochs=9), "versions": {"torch": "3.0"}}
    with Run.open(folder, other) as run:
        assert run.manifest == json.loads((folder / "manifest.json").read_text()) == other
        assert run.settle("threads", lambda: 4) == 4, "the other recipe may need other limits"
        run.append("evaluation/untrained_sampled", [Row(0)])
    with pytest.raises(RunError, match="holds a run of another recipe"):
        Run.open(folder, MANIFEST)


def test_tuples_in_a_recipe_do_not_make_it_another_one(tmp_path: Path) -> None:
    recipe = {**MANIFEST["recipe"], "roles": ("Alice", "Bob")}
    for _ in range(2):
        with Run.open(tmp_path / "run", {**MANIFEST, "recipe": recipe}) as run:
            run.append("iteration_00/1_dialogues", [Row(0)])


def test_iterations_may_grow(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with Run.open(tmp_path / "run", manifest(iterations=5)) as run:
        assert run.manifest["recipe"]["training"]["iterations"] == 5
    assert read_run(tmp_path / "run").manifest == manifest(iterations=5)


@pytest.mark.parametrize(
    ("changes", "lines", "way_back"),
    [
        ({"iterations": 2}, "training.iterations: 3 -> 2", "undo the changes, or add training.iterations=3"),
        ({"epochs": 4}, "training.epochs: 3 -> 4", "undo the changes, or add training.epochs=3"),
        ({"epochs": 4, "iterations": 5}, "training.epochs: 3 -> 4", "undo the changes, or add training.epochs=3"),
        (
            {"warmup": 1},
            "training.warmup: absent -> 1",
            "use the version of optima-lite that began it (0.0.9): it had other settings",
        ),
    ],
)
def test_another_recipe_is_refused_with_the_differences_and_a_way_back(
    tmp_path: Path, changes: dict[str, int], lines: str, way_back: str
) -> None:
    folder = begun(tmp_path / "run")
    with pytest.raises(RunError) as error:
        Run.open(folder, manifest(**changes))
    hint = f"--run OTHER to start a new run; to resume this one, {way_back}"
    assert str(error.value) == f"{folder}: holds a run of another recipe:\n  {lines}\n  try: {hint}"
    assert read_run(folder).manifest == MANIFEST
    Run.open(folder, MANIFEST).close()  # the refused start has left no lock


def test_a_second_process_is_refused_with_the_pid_of_the_first(run: Run) -> None:
    with pytest.raises(RunError) as error:
        Run.open(run.folder, MANIFEST)
    what = f"another process (pid {os.getpid()}) is working in this run folder"
    assert str(error.value) == f"{run.folder}: {what}\n  try: wait until it is done or stop it; or --run OTHER"
    run.close()
    Run.open(run.folder, MANIFEST).close()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(RunError, match=r"holds other files and no manifest\.json, so it is not a run folder"):
        Run.open(tmp_path, MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file; a run needs a folder"):
        Run.open(tmp_path / "thesis.tex", MANIFEST)


def test_a_start_killed_before_its_manifest_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".lock", ".pid", "manifest.json.tmp"):
        (tmp_path / name).write_text('{"rec')
    with Run.open(tmp_path, MANIFEST) as run:
        assert not run.resumed and run.read_json("manifest.json") == MANIFEST


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": 3}', "\udcff"])
def test_a_damaged_manifest_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for open_it in (lambda: Run.open(tmp_path, MANIFEST), lambda: read_run(tmp_path)):
        with pytest.raises(RunError, match="is damaged") as error:
            open_it()
        assert error.value.hint and error.value.hint.endswith("start a new run with --run OTHER")
        assert error.value.where == str(tmp_path / "manifest.json")


def test_the_setting_that_only_stops_a_run_may_change(tmp_path: Path) -> None:
    recipe = {"seed": 0, "evaluation": {"questions": 4, "stop_if_none_right": True}}
    manifest = MANIFEST | {"recipe": recipe}
    with Run.open(tmp_path / "run", manifest) as begun:
        begun.append("iteration_00/1_dialogues", [Row(0)])
    changed = copy.deepcopy(manifest)
    changed["recipe"]["evaluation"]["stop_if_none_right"] = False
    with Run.open(tmp_path / "run", changed) as resumed:
        assert resumed.resumed and resumed.manifest["recipe"]["evaluation"]["stop_if_none_right"] is False
    changed["recipe"]["evaluation"]["questions"] = 5
    with pytest.raises(RunError, match=r"evaluation\.questions: 4 -> 5"):
        Run.open(tmp_path / "run", changed)


def test_a_start_that_fails_before_it_computes_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for folder, kept in ((tmp_path / "new", False), (tmp_path / "mine", True)):
        with pytest.raises(RunError), Run.open(folder, MANIFEST) as run:
            run.settle("threads", lambda: 1)
            run.write_json("validation/questions.json", {"questions": 3})
            run.log("a note")
            raise RunError("no")
        assert folder.exists() is kept, "a folder that was there before stays, and is empty again"
        assert not kept or not any(folder.iterdir())


def test_a_start_that_fails_keeps_what_was_computed_and_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(RunError), Run.open(tmp_path / "run", MANIFEST) as run:
        run.append(stage_name(0, "1_dialogues"), [])
        raise RunError("no")
    assert (tmp_path / "run/manifest.json").exists()
    with pytest.raises(RunError), Run.open(tmp_path / "run", MANIFEST):
        raise RunError("again")
    assert (tmp_path / "run/manifest.json").exists()
    with pytest.raises(ZeroDivisionError), Run.open(tmp_path / "bug", MANIFEST):
        raise ZeroDivisionError
    assert (tmp_path / "bug/manifest.json").exists(), "a bug of ours leaves its traces"


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x"] * 5000)])
def test_a_name_that_no_folder_can_have_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the name is too long"):
        Run.open(tmp_path / name, MANIFEST)
    with pytest.raises(RunError, match="the name is too long"):
        read_run(tmp_path / name)
