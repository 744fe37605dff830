"""The run folder: stages that are made once, the adapter in force, and what is read of a run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from optima_lite.errors import RunError
from optima_lite.records import Question, Rollouts
from optima_lite.runs.folder import read_run, stage_name
from optima_lite.runs.listing import runs
from optima_lite.runs.progress import Timing
from optima_lite.runs.store import Run
from stored import MANIFEST, Row, fail, files, manifest, numbered, put

# --- Stages that are not chunked ------------------------------------------------------------------


def test_a_stage_of_unknown_length_is_made_once(run: Run) -> None:
    assert run.whole("iteration_00/3_demonstrations", Row, lambda: numbered(range(3))) == numbered(range(3))
    assert run.whole("iteration_00/3_demonstrations", Row, pytest.fail) == numbered(range(3))
    assert run.whole("iteration_01/3_demonstrations", Row, list) == []
    assert run.whole("iteration_01/3_demonstrations", Row, pytest.fail) == []


def test_a_damaged_whole_stage_is_told(run: Run) -> None:
    put(run, "iteration_00/3_demonstrations.jsonl")
    (run.folder / "iteration_00/3_demonstrations.jsonl").write_text('{"number":0,"text":""}\n{"numb')
    with pytest.raises(RunError, match="line 2 is damaged"):
        run.whole("iteration_00/3_demonstrations", Row, list)


def test_a_folder_stage_exists_only_when_it_is_complete(run: Run) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    def make(folder: Path) -> None:
        assert not list(folder.iterdir())
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text("all")

    with pytest.raises(KeyboardInterrupt):
        run.folder_stage("iteration_00/4_adapter", interrupted)
    assert not (run.folder / "iteration_00/4_adapter").exists()
    path = run.folder_stage("iteration_00/4_adapter", make)
    assert path == run.folder / "iteration_00/4_adapter"
    assert (path / "deep" / "weights").read_text() == "all"
    assert run.folder_stage("iteration_00/4_adapter", pytest.fail) == path
    assert files(run) == {"iteration_00/4_adapter"}


def test_json_files_are_replaced_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.read_json("summary.json") is None
    run.write_json("evaluation/untrained_sampled.json", Row(1, "ü"))
    assert run.read_json("evaluation/untrained_sampled.json") == {"number": 1, "text": "ü"}
    run.write_json("summary.json", {"seconds": 1})
    monkeypatch.setattr(os, "replace", fail(errno.ENOSPC))
    with pytest.raises(RunError):
        run.write_json("summary.json", {"seconds": 2})
    assert run.read_json("summary.json") == {"seconds": 1}


def test_a_damaged_json_file_says_what_to_do(run: Run) -> None:
    (run.folder / "summary.json").write_text('{"seconds"')
    with pytest.raises(RunError) as error:
        run.read_json("summary.json")
    assert error.value.what.startswith("is damaged: ")
    assert error.value.hint == "delete summary.json and run the same command again"


def test_timings_survive_a_torn_line(run: Run) -> None:
    first, second = Timing(0, "generate", 1.5, 10, 2), Timing(None, "load", 0.5, 0, 1)
    run.append_timings([first])
    with (run.folder / "timings.jsonl").open("a") as stream:
        stream.write('{"iteration":0,"pha')
    run.append_timings([second])
    assert run.timings() == [first, second]


def test_the_log_has_times(run: Run) -> None:
    run.log("started \ud800")
    run.log("ended")
    first, second = (run.folder / "log.txt").read_text().splitlines()
    assert first[:2] == "20" and first.endswith("Z started \\ud800") and second.endswith("Z ended")


# --- Reading --------------------------------------------------------------------------------------


def test_a_run_is_read_while_it_is_written(run: Run) -> None:
    run.append("stage", numbered(range(2)))
    with (run.folder / "stage.jsonl").open("a") as stream:
        stream.write('{"number":2,"te')
    reader = read_run(run.folder)
    assert reader.read("stage", Row) == numbered(range(2))
    assert reader.read("nothing", Row) == []
    assert (run.folder / "stage.jsonl").read_bytes().endswith(b'"te')


def test_reading_a_damaged_stage_names_the_line(run: Run) -> None:
    (run.folder / "stage.jsonl").write_text('{"number":0,"text":""}\n{"number"\n{"number":2,"text":""}\n')
    with pytest.raises(RunError, match="line 2 is damaged"):
        read_run(run.folder).read("stage", Row)


def test_reading_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such run folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"is not a run folder: it has no manifest\.json"):
        read_run(tmp_path)


def test_runs_are_described_and_broken_ones_say_so(tmp_path: Path) -> None:
    assert runs(tmp_path / "nothing") == []
    with Run.open(tmp_path / "b-running", MANIFEST) as running:
        put(running, "evaluation/iteration_00_sampled.json", "iteration_00/4_adapter", "iteration_01/4_adapter")
        with Run.open(tmp_path / "a-finished", manifest(iterations=1)) as done:
            put(done, "evaluation/iteration_00_sampled.json", "iteration_00/4_adapter", "summary.json")
        with Run.open(tmp_path / "f-stopped", MANIFEST) as stopped:
            put(stopped, "evaluation/iteration_00_sampled.json", "summary.json")
            stopped.write_json("iteration_00/5_verdict.json", {"verdict": "stop"})
        (tmp_path / "c-empty").mkdir()
        (tmp_path / "d-garbage").mkdir()
        (tmp_path / "d-garbage/manifest.json").write_text("{")
        (tmp_path / "e-poor").mkdir()
        (tmp_path / "e-poor/manifest.json").write_text('{"recipe": {"training": {"iterations": null}}}')
        (tmp_path / "note.txt").write_text("")
        found = runs(tmp_path)
    assert [run.name for run in found] == ["a-finished", "b-running", "c-empty", "d-garbage", "e-poor", "f-stopped"]
    a, b, c, d, e, f = found
    assert (a.recipe, a.seed, a.iterations_done, a.iterations_planned) == ("quickstart", 1, 1, 1)
    assert (a.finished, a.running, a.problem) == (True, False, None)
    assert (b.iterations_done, b.iterations_planned, b.finished, b.running) == (1, 3, False, True)
    assert c.problem == "is not a run folder: it has no manifest.json"
    assert d.problem and d.problem.startswith("is damaged: ")
    assert e.problem == "its manifest.json lacks parts of the recipe"
    assert (f.iterations_done, f.iterations_planned, f.finished) == (1, 3, True), "training.on_worse ended it"


def about(*ids: str) -> list[Question]:
    return [Question(id, f"Who is {id}?", ("x",), ((), ())) for id in ids]


def test_a_run_does_not_go_on_with_other_questions_than_it_began_with(run: Run) -> None:
    def work(chunk: Sequence[Question]) -> list[Rollouts]:
        return [Rollouts(question, ()) for question in chunk]

    name = "iteration_00/1_dialogues"
    run.chunks(name, Rollouts, about("a", "b", "c"), size=2, work=partial(map, work))
    assert len(run.chunks(name, Rollouts, about("a", "b", "c"), size=2, work=pytest.fail)) == 3
    for others in (about("new", "a", "b"), about("a", "b", "d")):
        with pytest.raises(RunError, match=r"is about question \w, and now question \w+ stands in its place"):
            run.chunks(name, Rollouts, others, size=2, work=pytest.fail)


# --- The adapter in force, and starts that fail


def test_the_adapter_in_force_has_one_place(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", MANIFEST) as run:
        made = [run.folder_stage(stage_name(i, "4_adapter"), lambda folder: filled(folder)) for i in (0, 1)]
        for adapter in (*made, made[0]):
            run.put_in_force(adapter)
            assert (run.folder / "adapter").resolve() == adapter.resolve()
            assert (run.folder / "adapter/adapter_model.safetensors").is_file()
        shutil.move(run.folder, tmp_path / "moved")
        assert (tmp_path / "moved/adapter/adapter_model.safetensors").is_file(), "a folder that was moved keeps it"
        shutil.move(tmp_path / "moved", run.folder)
        run.put_in_force(None)
        assert not os.path.lexists(run.folder / "adapter")


def test_where_there_are_no_links_the_adapter_in_force_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with Run.open(tmp_path / "run", MANIFEST) as run:
        for number in (0, 1):
            adapter = run.folder_stage(stage_name(number, "4_adapter"), partial(filled, content=number))
            run.put_in_force(adapter)
            copied = run.folder / "adapter/adapter_model.safetensors"
            assert copied.read_text() == str(number) and not (run.folder / "adapter").is_symlink()


def filled(folder: Path, content: object = "") -> None:
    (folder / "adapter_model.safetensors").write_text(str(content))
