"""Stages of many rows: torn tails, damage, and rows that are read when they are asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite import records
from optima_lite.errors import RunError
from optima_lite.runs import rows
from optima_lite.runs.store import Run
from stored import MANIFEST, Row, numbered


def test_a_cut_at_any_byte_of_a_stage_costs_at_most_the_chunk_it_hits(run: Run) -> None:
    items = list(range(7))
    expected = run.chunks("iteration_00/1_dialogues", Row, items, size=3, work=partial(map, numbered))
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

        again = run.chunks("iteration_00/1_dialogues", Row, items, size=3, work=partial(map, work), stored=found.append)
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
        run.chunks("stage", Row, [1, 2], size=2, work=partial(map, lambda chunk: [Row(0)]))
    assert not (run.folder / "stage.jsonl").exists()


def test_a_killed_process_leaves_whole_chunks_and_a_free_lock(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from stored import MANIFEST, numbered
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
    first = run.chunks("iteration_00/1_dialogues", Row, range(100), size=4, work=partial(map, numbered))
    run.append("iteration_00/2_rewards", first[:60])
    read = counted(run, monkeypatch)
    first = run.chunks("iteration_00/1_dialogues", Row, range(100), size=4, work=pytest.fail)
    second = run.chunks("iteration_00/2_rewards", Row, first, size=4, work=partial(map, list))
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
