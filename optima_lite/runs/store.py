"""The run folder for writing: all that is computed is stored whole and once, and the same command goes on from there.

A stage's rows are written in chunks, each with one append and one fsync, so that a kill loses at most one chunk: a file
whose rows do not fill whole chunks has a torn tail, which is cut off. Everything else is written beside its place and
renamed into it. Deleting a stage's file makes the next start redo it and, since `rows` deletes them, what follows it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from ..errors import OptimaError, RunError
from ..records import Record, to_json
from .disk import (
    append_bytes,
    make_folder,
    place_beside,
    read_bytes,
    read_json,
    remove,
    sync_file,
    sync_folder,
    write_whole,
    writing,
)
from .folder import RunFolder
from .lock import acquire, release
from .manifest import refuse_foreign_folder, resume
from .progress import Timing
from .redo import delete_what_follows
from .rows import Pieces, Rows, damaged_line, read_rows, redo_hint, to_lines

IN_FORCE = "adapter"  # leads to the adapter that the run has come to


class Run(RunFolder):
    """A run folder for writing, locked against other processes; use it as a context manager. Made by `Run.open`.

    resumed: whether the folder held a run already.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], *, lock: FileLock, resumed: bool, made: bool = False
    ) -> None:
        super().__init__(folder, manifest)
        self.resumed = resumed
        self._lock = lock
        self._made = made  # the folder itself, not only what is in it

    @classmethod
    def open(cls, folder: Path, manifest: Mapping[str, Any]) -> Run:
        """Create the run folder, or resume the run in it.

        manifest: at least recipe (plain values), recipe_name, variants and versions. The stored one wins on resume,
        since the stored records depend on it; only training.iterations may have grown. Without any records the new one
        wins.
        Raises RunError if the folder is in use, holds something else or another recipe, or cannot be written.
        """
        folder, wanted = Path(folder), json.loads(json.dumps(to_json(dict(manifest))))
        refuse_foreign_folder(folder)
        with writing(folder):
            made = not folder.is_dir()
            make_folder(folder)
        lock = acquire(folder)
        try:
            stored = read_json(folder / "manifest.json")
            run = cls(
                folder,
                wanted if stored is None else resume(folder, stored, wanted),
                lock=lock,
                resumed=stored is not None,
                made=made,
            )
            if run.manifest != stored:
                run.write_json("manifest.json", run.manifest)
            if stored is not None and stored.get("versions") != wanted.get("versions"):
                run.log(f"resumed with other versions: {json.dumps(wanted.get('versions'))}")
        except BaseException:
            release(folder, lock)
            raise
        return run

    def settle(self, key: str, choose: Callable[[], Any]) -> Any:
        """A value of the manifest that the records depend on; chosen and stored if the manifest lacks it."""
        if self.manifest.get(key) is None:
            self.manifest[key] = choose()
            self.write_json("manifest.json", self.manifest)
        return self.manifest[key]

    def close(self) -> None:
        """Give the folder free for other processes."""
        release(self.folder, self._lock)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OptimaError) and not self.resumed and not any(self.folder.glob("*/*.jsonl")):
            self._leave_nothing()
        self.close()

    def _leave_nothing(self) -> None:
        """Removes what a start has made that failed before it computed anything."""
        paths = [self.folder] if self._made else list(self.folder.iterdir())
        for path in paths:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    # --- A stage: rows in a JSONL file ------------------------------------------------------------

    def rows(self, name: str, kind: type[Record], *, chunk: int, total: int) -> Rows[Record]:
        """Begin or resume a stage: the records of its whole chunks. What follows an incomplete stage is deleted.

        chunk: rows a chunk, only the last one, which reaches `total`, may be shorter. A torn tail is cut off the file.
        Raises RunError if the file holds more than `total` rows, or is damaged before its last chunk.
        """
        path = self.folder / f"{name}.jsonl"
        found, lines = read_rows(path, kind)
        whole = len(found) if len(found) == total else len(found) - len(found) % chunk
        if len(found) > total:
            raise RunError(f"holds {len(found)} rows where {total} belong", where=path, hint=redo_hint(path))
        if lines > whole + chunk:  # chunks are synced one by one: a crash can only have torn the last one
            raise damaged_line(path, line=len(found) + 1)
        rows = found.first(whole)
        with writing(path):
            if lines > whole:
                os.truncate(path, rows.size)
                sync_file(path)
            if whole < total:
                delete_what_follows(self.folder, name)
        return rows

    def append(self, name: str, records: Iterable[Any]) -> None:
        """Add one chunk to a stage's file; when this returns it is on the disk, when it raises RunError it is not."""
        path = self.folder / f"{name}.jsonl"
        data = to_lines(records)
        with writing(path):
            make_folder(path.parent)
            new = not path.exists() or path.stat().st_size == 0
            append_bytes(path, data)
            if new:
                sync_folder(path.parent)

    def chunks(
        self,
        name: str,
        kind: type[Record],
        items: Sequence[Any],
        *,
        size: int,
        work: Callable[[Pieces], Iterable[list[Record]]],
        stored: Callable[[int], None] | None = None,
    ) -> Rows[Record]:
        """All records of a stage: the stored ones, and those that `work` makes of each remaining chunk of `items`.

        size: items a chunk; chunks are fixed by position. work: makes one record an item, chunk by chunk in their
        order; each is stored before the next is asked for. stored: is told first how many records were found.
        """
        rows = self.rows(name, kind, chunk=size, total=len(items))
        self._require_same_questions(name, rows, items)
        if stored:
            stored(len(rows))
        if not items:
            self.append(name, [])  # an empty stage has a file too, so that it shows
        left = range(len(rows), len(items))
        chunks = Pieces(items, [left[start : start + size] for start in range(0, len(left), size)])
        for places, made in zip(chunks.places, work(chunks) if chunks else (), strict=True):
            if len(made) != len(places):
                raise ValueError(f"{name}: {len(made)} records for {len(places)} items")
            self.append(name, made)
        return rows if len(rows) == len(items) else self.read(name, kind)

    def _require_same_questions(self, name: str, rows: Sequence[Any], items: Sequence[Any]) -> None:
        """Raises RunError where stored rows are about other questions than are asked now.

        The first and the last are looked at: whatever comes into a file of questions or leaves it moves the others.
        """
        for position in sorted({0, len(rows) - 1}) if len(rows) and isinstance(items, list) else ():
            before, now = _question_id(rows[position]), _question_id(items[position])
            if before != now:
                what = f"line {position + 1} is about question {before}, and now question {now} stands in its place"
                hint = (
                    "the file of questions has changed, or how it is split: put it back as it was, or start a new run "
                    "with --run OTHER"
                )
                raise RunError(what, where=self.folder / f"{name}.jsonl", hint=hint)

    def whole(self, name: str, kind: type[Record], make: Callable[[], list[Record]]) -> list[Record]:
        """All records of a stage that is written at once, because only `make` knows how many there are."""
        path = self.folder / f"{name}.jsonl"
        if path.exists():
            rows, lines = read_rows(path, kind)
            if len(rows) < lines:
                raise damaged_line(path, line=len(rows) + 1)
            return list(rows)
        with writing(path):
            delete_what_follows(self.folder, name)
        records = make()
        write_whole(path, to_lines(records))
        return records

    # --- Folders and single files -----------------------------------------------------------------

    def folder_stage(self, name: str, make: Callable[[Path], None]) -> Path:
        """The path of a stage that is a folder, such as an adapter. If it does not exist, what follows it is deleted,
        `make` fills a folder beside it, and that is renamed into its place; so a folder that exists is complete."""
        path = self.folder / name
        if path.is_dir():
            return path
        beside = place_beside(path)
        with writing(path):
            delete_what_follows(self.folder, name)
            make_folder(path.parent)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            make(beside)
            for made in sorted(beside.rglob("*")):
                sync_folder(made) if made.is_dir() else sync_file(made)
            sync_folder(beside)
            os.replace(beside, path)
            sync_folder(path.parent)
        return path

    def put_in_force(self, adapter: Path | None) -> None:
        """Let RUN/adapter lead to an adapter of this run, None for none: by a relative link, so that the folder can be
        moved, or by a copy where the file system has no links."""
        path, beside = self.folder / IN_FORCE, place_beside(self.folder / IN_FORCE)
        with writing(path):
            remove(beside)
            if adapter is not None:
                try:
                    os.symlink(adapter.relative_to(self.folder), beside, target_is_directory=True)
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP):
                        raise
                    shutil.copytree(adapter, beside)
            if adapter is None or not path.is_symlink():  # a folder cannot be replaced by a rename
                remove(path)
            if adapter is not None:
                os.replace(beside, path)
            sync_folder(self.folder)

    def write_json(self, name: str, value: Any) -> None:
        """Write a record or plain value to a file such as summary.json, whole or not at all."""
        text = json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
        write_whole(self.folder / name, text.encode("utf-8", "backslashreplace"))

    def write_text(self, name: str, text: str) -> None:
        """Write a text for people to a file, whole or not at all."""
        write_whole(self.folder / name, text.encode("utf-8", "backslashreplace"))

    def append_timings(self, rows: Iterable[Timing]) -> None:
        """Add to timings.jsonl, which is no part of what a resumed run has in common with an uninterrupted one."""
        path = self.folder / "timings.jsonl"
        torn = not read_bytes(path).endswith(b"\n") and path.exists()
        with writing(path):
            append_bytes(path, (b"\n" if torn else b"") + to_lines(rows))

    def log(self, text: str) -> None:
        """Add a line with the time (UTC) to log.txt."""
        path = self.folder / "log.txt"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{stamp} {text}\n")


def _question_id(of: Any) -> str | None:
    """The id of a question, or of the question that a record is about; None for what is about none."""
    return getattr(getattr(of, "question", of), "id", None)
