"""What a full, a read-only or a slow disk does to a run: nothing that was complete is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from optima_lite.errors import RunError
from optima_lite.runs.store import Run
from stored import KEPT, MANIFEST, Row, fail, numbered


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
