"""The run folder: torn tails, resume, the redo rule, the lock, and what a full or read-only disk does."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite import records
from optima_lite.errors import RunError
from optima_lite.records import Question, Rollouts
from optima_lite.runs import rows
from optima_lite.runs.folder import read_run, stage_name
from optima_lite.runs.listing import runs
from optima_lite.runs.progress import Timing
from optima_lite.runs.redo import delete_what_follows
from optima_lite.runs.store import Run

MANIFEST: dict[str, Any] = {
    "recipe": {"seed": 1, "training": {"iterations": 3, "epochs": 3}},
    "recipe_name": "quickstart",
    "variants": [],
    "versions": {"torch": "2.13", "optima-lite": "0.0.9"},
}
KEPT = "then run the same command again; every complete chunk is kept"


@dataclass(frozen=True)
class Row:
    number: int
    text: str = ""


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """The tests write thousands of chunks, and none of them pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def manifest(**training: int) -> dict[str, Any]:
    recipe = {**MANIFEST["recipe"], "training": {**MANIFEST["recipe"]["training"], **training}}
    return {**MANIFEST, "recipe": recipe}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.open(tmp_path / "run", MANIFEST) as run:
        yield run


def fail(number: int) -> Callable[..., Any]:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return failing


def put(run: Run, *names: str) -> None:
    for name in names:
        path = run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("{}\n")
        else:
            path.mkdir()


def begun(folder: Path) -> Path:
    """A run of MANIFEST that has stored a record, which binds it to its recipe."""
    with Run.open(folder, MANIFEST) as run:
        run.append("iteration_00/1_dialogues", [Row(0)])
    return folder


def files(run: Run) -> set[str]:
    """Everything in the run folder's sub-folders, and the summary."""
    found = {path.relative_to(run.folder).as_posix() for path in run.folder.glob("*/*")}
    return found | {path.name for path in run.folder.glob("summary.json")}


# --- Chunks ---------------------------------------------------------------------------------------


def numbered(chunk: Any) -> list[Row]:
    return [Row(i, f"row {i}\nline\u2028end ü {chr(0x1F600)}") for i in chunk]


def test_a_cut_at_any_byte_of_a_stage_costs_at_most_the_chunk_it_hits(run: Run) -> None:
    items = list(range(7))
    expected = run.chunks("iteration_00/1_dialogues", Row, items, size=3, work=numbered)
    path = run.folder / "iteration_00/1_dialogues.jsonl"
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 7
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = max(rows for rows in (0, 3, 6, 7) if rows == 0 or ends[rows - 1] <= length)
        worked: list[int] = []
        found: list[int] = []

        def work(chunk: Any, worked: list[int] = worked) -> list[Row]:
            worked.extend(chunk)
            return numbered(chunk)

        again = run.chunks("iteration_00/1_dialogues", Row, items, size=3, work=work, stored=found.append)
        assert (again, found, worked) == (expected, [whole], items[whole:])
        assert path.read_bytes() == data


@given(total=st.integers(0, 12), size=st.integers(1, 5), rows=st.integers(0, 12), tail=st.binary(max_size=6))
def test_rows_are_those_of_the_whole_chunks_and_the_file_is_cut_to_them(
    total: int, size: int, rows: int, tail: bytes
) -> None:
    rows = min(rows, total)
    tail = tail.replace(b"\n", b"")
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder) / "run", MANIFEST) as run:
        run.append("stage", numbered(range(rows)))
        path = run.folder / "stage.jsonl"
        with path.open("ab") as stream:
            stream.write(tail)
        whole = total if rows == total else rows // size * size
        assert run.rows("stage", Row, chunk=size, total=total) == numbered(range(whole))
        run.append("stage", numbered(range(whole, total)))
        assert run.rows("stage", Row, chunk=size, total=total) == numbered(range(total))


@given(st.text(st.characters() | st.integers(0xD800, 0xDFFF).map(chr), max_size=30))
def test_any_text_comes_back_and_the_file_stays_valid_utf8(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder) / "run", MANIFEST) as run:
        run.append("stage", [Row(0, text)])
        (row,) = run.rows("stage", Row, chunk=1, total=1)
        # two adjacent halves of a pair become the character that they spell, as in every JSON file
        assert row.text == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        (run.folder / "stage.jsonl").read_bytes().decode("utf-8")


def test_damage_in_the_last_chunk_is_a_torn_write_and_cut_off(run: Run) -> None:
    run.append("stage", numbered(range(4)))
    run.append("stage", [Row(4), Row(5)])
    path = run.folder / "stage.jsonl"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'{"number":4', b"\0\0\0\0"))
    assert len(run.rows("stage", Row, chunk=2, total=6)) == 4
    assert path.read_bytes() == b"\n".join(good.split(b"\n")[:4]) + b"\n"


def test_damage_before_the_last_chunk_is_told_and_nothing_is_cut(run: Run) -> None:
    run.append("stage", numbered(range(6)))
    path = run.folder / "stage.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"number":1', b'{"number":'))
    before = path.read_bytes()
    with pytest.raises(RunError) as error:
        run.rows("stage", Row, chunk=2, total=6)
    hint = "delete stage.jsonl; the same command computes it again, and what follows it"
    assert str(error.value) == f"{path}: line 2 is damaged\n  try: {hint}"
    assert path.read_bytes() == before


def test_a_chunk_is_only_forgiven_while_nothing_follows_it(run: Run) -> None:
    path = run.folder / "stage.jsonl"
    path.write_bytes(b'{"number":0,"text":""}\n{"numb\n{"number":2,"te')
    with pytest.raises(RunError, match="line 2 is damaged"):
        run.rows("stage", Row, chunk=2, total=6)
    assert run.rows("stage", Row, chunk=3, total=6) == []


def test_a_row_of_another_shape_is_told_not_cut(run: Run) -> None:
    path = run.folder / "stage.jsonl"
    path.write_text('{"number":0,"text":""}\n{"count":1}\n')
    with pytest.raises(RunError) as error:
        run.rows("stage", Row, chunk=1, total=2)
    assert error.value.what == "line 2 is not a Row of this version (Object missing required field `number`)"
    assert len(path.read_text().splitlines()) == 2


def test_more_rows_than_belong_are_told(run: Run) -> None:
    run.append("stage", numbered(range(3)))
    with pytest.raises(RunError, match="holds 3 rows where 2 belong"):
        run.rows("stage", Row, chunk=2, total=2)


def test_a_chunk_needs_one_record_an_item(run: Run) -> None:
    with pytest.raises(ValueError, match="stage: 1 records for 2 items"):
        run.chunks("stage", Row, [1, 2], size=2, work=lambda chunk: [Row(0)])
    assert not (run.folder / "stage.jsonl").exists()


def test_a_killed_process_leaves_whole_chunks_and_a_free_lock(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from test_store import MANIFEST, numbered
from optima_lite.runs.store import Run
run = Run.open(pathlib.Path({str(tmp_path / "run")!r}), MANIFEST)
for start in range(0, 1_000_000, 5):
    run.append("stage", numbered(range(start, start + 5)))
    if start == 20:
        print("ready", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Run.open(tmp_path / "run", MANIFEST) as run:
        rows = run.rows("stage", Row, chunk=5, total=1_000_000)
        assert len(rows) >= 25 and len(rows) % 5 == 0
        assert rows == numbered(range(len(rows)))


def counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Every row that is read from here on."""
    read: list[Row] = []

    def decode(kind: Any, line: bytes) -> Any:
        read.append(records.decode(kind, line))
        return read[-1]

    monkeypatch.setattr(rows, "decode", decode)
    return read


def test_rows_are_read_when_they_are_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append("stage", numbered(range(10)))
    rows = run.rows("stage", Row, chunk=5, total=10)
    read = counted(run, monkeypatch)
    assert (len(rows), read) == (10, [])
    assert rows[3] == rows[-7] == Row(3, numbered([3])[0].text)
    assert rows[4:6] == numbered([4, 5]) and rows[::3] == numbered([0, 3, 6, 9]) and rows[9:1] == rows[10:] == []
    assert len(read) == 2 + 2 + 4
    assert next(iter(rows)) == rows[0] and len(read) == 10
    with pytest.raises(IndexError):
        rows[10]
    assert rows == numbered(range(10)) and rows != numbered(range(9)) and rows != numbered(range(1, 11))


def test_a_stage_is_looked_at_once_and_worked_on_chunk_by_chunk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.chunks("iteration_00/1_dialogues", Row, range(100), size=4, work=numbered)
    run.append("iteration_00/2_rewards", first[:60])
    read = counted(run, monkeypatch)
    first = run.chunks("iteration_00/1_dialogues", Row, range(100), size=4, work=pytest.fail)
    second = run.chunks("iteration_00/2_rewards", Row, first, size=4, work=list)
    assert len(read) == 100 + 60 + 40 + 100, "each stage once, the chunks that were missing, and what came of them"
    assert second == first


def test_a_stage_of_any_size_fits_in_memory(run: Run) -> None:
    def peak(rows: int) -> int:
        name = f"iteration_00/{rows}_rows"
        items = range(rows)
        run.append(name, [Row(i, "x" * 1000) for i in items])
        tracemalloc.start()
        try:
            stored = run.chunks(name, Row, items, size=10, work=pytest.fail)
            assert sum(len(row.text) for row in stored) == rows * 1000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(100), peak(3000)
    assert many < few + 100_000, "of 3 MB of rows nothing but their places"


def test_rows_that_were_damaged_or_deleted_since_are_told(run: Run) -> None:
    run.append("stage", numbered(range(3)))
    rows = run.read("stage", Row)
    path = run.folder / "stage.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"number":1', b"0" * 11))
    with pytest.raises(RunError, match="line 2 is damaged"):
        list(rows)
    path.unlink()
    with pytest.raises(RunError, match="line 1 is damaged"):
        list(rows)


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


# --- The redo rule --------------------------------------------------------------------------------

EVERYTHING = (
    "iteration_00/0_questions.json",
    "iteration_00/1_dialogues.jsonl",
    "iteration_00/2_rewards.jsonl",
    "iteration_00/4_adapter",
    "iteration_00/5_notes.json",
    "iteration_01/1_dialogues.jsonl",
    "iteration_01/4_adapter",
    "iteration_10/1_dialogues.jsonl",
    "evaluation/untrained_sampled.jsonl",
    "evaluation/untrained_sampled.json",
    "evaluation/single_agent_greedy.jsonl",
    "evaluation/iteration_00_sampled.jsonl",
    "evaluation/iteration_00_sampled.json",
    "evaluation/iteration_01_greedy.jsonl",
    "evaluation/iteration_10_sampled.jsonl",
    "summary.json",
)


@pytest.mark.parametrize(
    ("deleted", "gone"),
    [
        ("iteration_00/1_dialogues.jsonl", {p for p in EVERYTHING if "iteration" in p} - {EVERYTHING[0]}),
        ("iteration_01/1_dialogues.jsonl", {p for p in EVERYTHING if "iteration_01" in p or "iteration_10" in p}),
        ("iteration_10/1_dialogues.jsonl", {p for p in EVERYTHING if "iteration_10" in p}),
        ("evaluation/iteration_00_sampled.jsonl", {p for p in EVERYTHING if "iteration_00_sampled" in p}),
        ("evaluation/untrained_sampled.jsonl", {p for p in EVERYTHING if "untrained" in p}),
    ],
)
def test_deleting_a_stage_redoes_it_and_what_follows(run: Run, deleted: str, gone: set[str]) -> None:
    put(run, *EVERYTHING)
    (run.folder / deleted).unlink()
    assert run.rows(deleted.removesuffix(".jsonl"), Row, chunk=2, total=4) == []
    assert files(run) == set(EVERYTHING) - gone - {"summary.json"}


def test_what_follows_a_stage_cut_short_goes_too(run: Run) -> None:
    put(run, *EVERYTHING)
    (run.folder / "iteration_01/1_dialogues.jsonl").write_text('{"number":0,"text":""}\n{"number":1,"text":""}\n')
    assert len(run.rows("iteration_01/1_dialogues", Row, chunk=2, total=3)) == 2
    assert not (run.folder / "iteration_01/4_adapter").exists()
    assert "iteration_01/1_dialogues.jsonl" in files(run) and "evaluation/iteration_01_greedy.jsonl" not in files(run)


def test_a_missing_adapter_or_selection_is_followed_by_the_next_iteration_too(run: Run) -> None:
    put(run, *EVERYTHING)
    (run.folder / "iteration_00/4_adapter").rmdir()
    run.folder_stage("iteration_00/4_adapter", lambda folder: None)
    left = set(EVERYTHING[:4]) | {p for p in EVERYTHING if "untrained" in p or "single" in p}
    assert files(run) == left
    run.whole("iteration_00/3_demonstrations", Row, list)
    assert files(run) == left - {"iteration_00/4_adapter"} | {"iteration_00/3_demonstrations.jsonl"}


def test_a_complete_stage_deletes_nothing(run: Run) -> None:
    put(run, *EVERYTHING)
    (run.folder / "iteration_00/1_dialogues.jsonl").unlink()
    run.append("iteration_00/1_dialogues", numbered(range(4)))
    assert len(run.rows("iteration_00/1_dialogues", Row, chunk=3, total=4)) == 4
    assert files(run) == set(EVERYTHING)


def test_followers_are_deleted_from_the_last_to_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run, *EVERYTHING)
    order: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        order.append(path.relative_to(run.folder).as_posix())
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    delete_what_follows(run.folder, "iteration_00/4_adapter")
    assert order == [
        "summary.json",
        "evaluation/iteration_10_sampled.jsonl",
        "iteration_10/1_dialogues.jsonl",
        "evaluation/iteration_01_greedy.jsonl",
        "iteration_01/1_dialogues.jsonl",
        "evaluation/iteration_00_sampled.jsonl",
        "evaluation/iteration_00_sampled.json",
        "iteration_00/5_notes.json",
    ]
    assert not (run.folder / "iteration_01/4_adapter").exists()


# --- Opening --------------------------------------------------------------------------------------


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


# --- Full and read-only disks ---------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is read-only")]
)
def test_a_failed_append_keeps_what_was_complete(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    run.append("stage", numbered(range(2)))
    path = run.folder / "stage.jsonl"
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail(number))
        with pytest.raises(RunError) as error:
            run.append("stage", numbered(range(2, 4)))
    assert error.value.what == f"cannot be written: {reason}"
    assert error.value.where == str(path) and error.value.hint and error.value.hint.endswith(KEPT)
    assert path.read_bytes() == before
    run.append("stage", numbered(range(2, 4)))
    assert run.rows("stage", Row, chunk=2, total=4) == numbered(range(4))


def test_data_and_the_names_of_new_files_and_folders_are_synced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))

    def paths() -> list[str]:
        names = {path.stat().st_ino: path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")}
        names[run.folder.stat().st_ino] = "."
        found = [names[inode] for inode in synced]
        synced.clear()
        return found

    run.append("iteration_00/1_dialogues", [Row(0)])
    assert paths() == [".", "iteration_00/1_dialogues.jsonl", "iteration_00"]
    run.append("iteration_00/1_dialogues", [Row(1)])
    assert paths() == ["iteration_00/1_dialogues.jsonl"]
    run.write_json("summary.json", {})
    assert paths() == ["summary.json", "."]
    run.folder_stage("iteration_00/4_adapter", lambda folder: (folder / "weights").touch())
    assert paths() == [".", "iteration_00/4_adapter/weights", "iteration_00/4_adapter", "iteration_00"]


def test_a_write_that_fills_the_disk_half_way_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, [0]

    def filling(descriptor: int, data: Any) -> int:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[:5])

    run.append("stage", numbered(range(2)))
    before = (run.folder / "stage.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        with pytest.raises(RunError, match="the disk is full"):
            run.append("stage", numbered(range(2, 4)))
    assert calls == [3]
    assert (run.folder / "stage.jsonl").read_bytes() == before


def test_short_writes_are_continued(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:3]))
    run.append("stage", numbered(range(3)))
    assert run.rows("stage", Row, chunk=3, total=3) == numbered(range(3))


def test_a_read_only_place_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", fail(errno.EROFS))
    with pytest.raises(RunError) as error:
        Run.open(tmp_path / "run", MANIFEST)
    assert error.value.what == "cannot be written: the file system is read-only"
    assert error.value.hint == f"make the folder writable, or use --run OTHER, {KEPT}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written: permission denied"):
        Run.open(tmp_path / "run", MANIFEST)


def test_a_full_disk_while_an_adapter_is_saved_leaves_no_adapter(run: Run) -> None:
    with pytest.raises(RunError, match="the disk is full"):
        run.folder_stage("iteration_00/4_adapter", lambda folder: fail(errno.ENOSPC)())
    assert not (run.folder / "iteration_00/4_adapter").exists()


def test_errors_that_are_not_the_disk_keep_their_traceback(run: Run) -> None:
    with pytest.raises(FileNotFoundError):
        run.folder_stage("iteration_00/4_adapter", lambda folder: (folder / "nothing").read_bytes() and None)


def test_a_folder_that_cannot_sync_names_is_used_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def no_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}") or os.fstat(descriptor).st_mode & 0o040000:
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    run.append("iteration_00/1_dialogues", [Row(0)])
    assert run.rows("iteration_00/1_dialogues", Row, chunk=1, total=1) == [Row(0)]


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
    run.chunks(name, Rollouts, about("a", "b", "c"), size=2, work=work)
    assert len(run.chunks(name, Rollouts, about("a", "b", "c"), size=2, work=pytest.fail)) == 3
    for others in (about("new", "a", "b"), about("a", "b", "d")):
        with pytest.raises(RunError, match=r"is about question \w, and now question \w+ stands in its place"):
            run.chunks(name, Rollouts, others, size=2, work=pytest.fail)


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
