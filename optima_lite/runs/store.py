"""The run folder: what was computed is on the disk, whole and once, and the same command goes on from there.

    manifest.json                     the recipe, the threads and token budget that a run's records depend on, versions
    iteration_00/1_dialogues.jsonl    one row per question; so are the other stages; 4_adapter is a folder
    evaluation/untrained_sampled.*    rows (.jsonl) and their means (.json)
    adapter                           leads to the adapter in force, for people and scripts; nothing here reads it
    summary.json, timings.jsonl, log.txt

A stage's rows are written in chunks, each with one append and one fsync, so that a kill loses at most one chunk: a file
whose rows do not fill whole chunks has a torn tail, which is cut off. Everything else is written beside its place and
renamed into it. Deleting a stage's file makes the next start redo it and, since `rows` deletes them, what follows it.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shlex
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from filelock import FileLock, Timeout

from ..errors import OptimaError, RunError
from ..records import Record, decode, to_json
from ..settings.keys import reference
from ..settings.layers import differences, undoing
from ..settings.recipe import Recipe
from .progress import Timing

LOCK, PID = ".lock", ".pid"
HOUSEKEEPING = {LOCK, PID, "manifest.json.tmp"}  # all that a start killed before its manifest can have left
IN_FORCE = "adapter"  # leads to the adapter that the run has come to
IMITATED, PREFERRED = "4_adapter", "8_adapter"  # the adapters of an iteration, by the step that makes them
_DEFAULTS = {key.path: json.loads(key.default) for key in reference(Recipe) if key.default is not None}

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EROFS: ("the file system is read-only", "make the folder writable, or use --run OTHER"),
    errno.EACCES: ("permission denied", "make the folder writable, or use --run OTHER"),
    errno.EPERM: ("not permitted", "make the folder writable, or use --run OTHER"),
    errno.EIO: ("the disk reported an error", "check the disk"),
    errno.ENAMETOOLONG: ("the name is too long", "use --run OTHER"),
    errno.ENOTDIR: ("a part of the path is a file", "use --run OTHER"),
    errno.ELOOP: ("its links lead in a circle", "use --run OTHER"),
    errno.ENOLCK: ("the file system has no file locks", "use --run OTHER on a local disk"),
}


_UTF8 = "export PYTHONUTF8=1, or a UTF-8 locale"


def stage_name(iteration: int, stage: str) -> str:
    """The name of an iteration's stage, such as iteration_00/1_dialogues."""
    return f"iteration_{iteration:02d}/{stage}"


class Rows(Sequence[Record]):
    """The records of a stage, read from its file each time they are asked for, so that no stage has to fit in memory.

    `Run` and `RunFolder` make them, after a look at every row. Equal to any sequence of the same records. ends: the
    place in the file where each row ends, after a 0. Raises RunError if a row has been damaged since.
    """

    def __init__(self, path: Path, kind: type[Record], ends: array[int]) -> None:
        self._path, self._kind, self._ends = path, kind, ends

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self._ends[-1]

    def first(self, count: int) -> Rows[Record]:
        """The same rows without those after the first `count`."""
        return Rows(self._path, self._kind, self._ends[: count + 1])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            places = range(len(self))[index]
            return [self[place] for place in places] if places.step != 1 else list(self._between(places))
        place = range(len(self))[index]
        return next(self._between(range(place, place + 1)))

    def __iter__(self) -> Iterator[Record]:
        return self._between(range(len(self)))

    def _between(self, places: range) -> Iterator[Record]:
        lines = _lines(self._path, start=self._ends[places.start])
        for place in places:
            try:
                record = decode(self._kind, next(lines, b""))
            except ValueError as error:
                raise _damaged(self._path, line=place + 1) from error
            yield record

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


class RunFolder:
    """A run folder for reading; takes no lock, so it may be read while the run goes on."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def read(self, name: str, kind: type[Record]) -> Rows[Record]:
        """The complete rows of a stage, none if it has no file. Raises RunError for a damaged row before the last."""
        path = self.folder / f"{name}.jsonl"
        rows, lines = _read_rows(path, kind)
        if len(rows) < lines - 1:
            raise _damaged(path, line=len(rows) + 1)
        return rows

    def read_json(self, name: str) -> Any:
        """The value of a file such as summary.json, or None if there is none. Raises RunError if it is not JSON."""
        return _read_json(self.folder / name)

    def timings(self) -> list[Timing]:
        """The time of each finished phase, over all starts of the run; lines that cannot be read are left out."""
        timings = []
        for line in _read_bytes(self.folder / "timings.jsonl").split(b"\n"):
            with suppress(ValueError):
                timings.append(decode(Timing, line))
        return timings

    def adapter(self, iteration: int) -> Path | None:
        """The adapter in force after an iteration, None for none; an undone step leaves an earlier one in force.

        Raises KeyError for an iteration without a finished step.
        """
        verdicts = [self.read_json(f"{stage_name(iteration, name)}.json") for name in ("9_verdict", "5_verdict")]
        verdict = next((verdict for verdict in verdicts if verdict is not None), None)
        if verdict is None:
            raise KeyError(iteration)
        return None if verdict["adapter"] is None else self.folder / verdict["adapter"]

    def undone(self, iteration: int) -> list[str]:
        """The steps of an iteration that made things worse and were taken back; the agents are those from before."""
        names = (f"{stage_name(iteration, f'{number}_verdict')}.json" for number in (5, 9))
        verdicts = filter(None, map(self.read_json, names))
        return [verdict["step"] for verdict in verdicts if verdict["verdict"] != "keep"]

    def trained(self) -> list[int]:
        """The iterations of which at least one step is finished, in order."""
        begun = [(i, self.folder / f"iteration_{i:02d}") for i in self.iterations()]
        return [i for i, folder in begun if any(folder.glob("[59]_verdict.json"))]

    def iterations(self) -> list[int]:
        """The iterations that have begun, in order."""
        return sorted(int(path.name[10:]) for path in self.folder.glob("iteration_*") if path.name[10:].isdigit())


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
        _refuse_foreign_folder(folder)
        with _writing(folder):
            made = not folder.is_dir()
            _make_folder(folder)
        lock = _acquire(folder)
        try:
            stored = _read_json(folder / "manifest.json")
            run = cls(
                folder,
                wanted if stored is None else _resume(folder, stored, wanted),
                lock=lock,
                resumed=stored is not None,
                made=made,
            )
            if run.manifest != stored:
                run.write_json("manifest.json", run.manifest)
            if stored is not None and stored.get("versions") != wanted.get("versions"):
                run.log(f"resumed with other versions: {json.dumps(wanted.get('versions'))}")
        except BaseException:
            _release(folder, lock)
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
        _release(self.folder, self._lock)

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
        found, lines = _read_rows(path, kind)
        whole = len(found) if len(found) == total else len(found) - len(found) % chunk
        if len(found) > total:
            raise RunError(f"holds {len(found)} rows where {total} belong", where=path, hint=_redo_hint(path))
        if lines > whole + chunk:  # chunks are synced one by one: a crash can only have torn the last one
            raise _damaged(path, line=len(found) + 1)
        rows = found.first(whole)
        with _writing(path):
            if lines > whole:
                os.truncate(path, rows.size)
                _sync_file(path)
            if whole < total:
                self._delete_what_follows(name)
        return rows

    def append(self, name: str, records: Iterable[Any]) -> None:
        """Add one chunk to a stage's file; when this returns it is on the disk, when it raises RunError it is not."""
        path = self.folder / f"{name}.jsonl"
        data = b"".join(_encode(record) + b"\n" for record in records)
        with _writing(path):
            _make_folder(path.parent)
            new = not path.exists() or path.stat().st_size == 0
            _append(path, data)
            if new:
                _sync_folder(path.parent)

    def chunks(
        self,
        name: str,
        kind: type[Record],
        items: Sequence[Any],
        *,
        size: int,
        work: Callable[[Sequence[Any]], list[Record]],
        stored: Callable[[int], None] | None = None,
    ) -> Rows[Record]:
        """All records of a stage: the stored ones, and those that `work` makes of each remaining chunk of `items`.

        size: items a chunk; chunks are fixed by position. work: returns one record an item. stored: is told first how
        many records were found.
        """
        rows = self.rows(name, kind, chunk=size, total=len(items))
        self._require_same_questions(name, rows, items)
        if stored:
            stored(len(rows))
        if not items:
            self.append(name, [])  # an empty stage has a file too, so that it shows
        for start in range(len(rows), len(items), size):
            chunk = items[start : start + size]
            made = work(chunk)
            if len(made) != len(chunk):
                raise ValueError(f"{name}: {len(made)} records for {len(chunk)} items")
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
            rows, lines = _read_rows(path, kind)
            if len(rows) < lines:
                raise _damaged(path, line=len(rows) + 1)
            return list(rows)
        with _writing(path):
            self._delete_what_follows(name)
        records = make()
        _replace(path, b"".join(_encode(record) + b"\n" for record in records))
        return records

    # --- Folders and single files -----------------------------------------------------------------

    def folder_stage(self, name: str, make: Callable[[Path], None]) -> Path:
        """The path of a stage that is a folder, such as an adapter. If it does not exist, what follows it is deleted,
        `make` fills a folder beside it, and that is renamed into its place; so a folder that exists is complete."""
        path = self.folder / name
        if path.is_dir():
            return path
        beside = _beside(path)
        with _writing(path):
            self._delete_what_follows(name)
            _make_folder(path.parent)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            make(beside)
            for made in sorted(beside.rglob("*")):
                _sync_folder(made) if made.is_dir() else _sync_file(made)
            _sync_folder(beside)
            os.replace(beside, path)
            _sync_folder(path.parent)
        return path

    def put_in_force(self, adapter: Path | None) -> None:
        """Let RUN/adapter lead to an adapter of this run, None for none: by a relative link, so that the folder can be
        moved, or by a copy where the file system has no links."""
        path, beside = self.folder / IN_FORCE, _beside(self.folder / IN_FORCE)
        with _writing(path):
            _remove(beside)
            if adapter is not None:
                try:
                    os.symlink(adapter.relative_to(self.folder), beside, target_is_directory=True)
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP):
                        raise
                    shutil.copytree(adapter, beside)
            if adapter is None or not path.is_symlink():  # a folder cannot be replaced by a rename
                _remove(path)
            if adapter is not None:
                os.replace(beside, path)
            _sync_folder(self.folder)

    def write_json(self, name: str, value: Any) -> None:
        """Write a record or plain value to a file such as summary.json, whole or not at all."""
        text = json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
        _replace(self.folder / name, text.encode("utf-8", "backslashreplace"))

    def append_timings(self, rows: Iterable[Timing]) -> None:
        """Add to timings.jsonl, which is no part of what a resumed run has in common with an uninterrupted one."""
        path = self.folder / "timings.jsonl"
        torn = not _read_bytes(path).endswith(b"\n") and path.exists()
        with _writing(path):
            _append(path, (b"\n" if torn else b"") + b"".join(_encode(row) + b"\n" for row in rows))

    def log(self, text: str) -> None:
        """Add a line with the time (UTC) to log.txt."""
        path = self.folder / "log.txt"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with _writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{stamp} {text}\n")

    def _delete_what_follows(self, name: str) -> None:
        """Delete the last first, so that a kill in between leaves a beginning of the run, not a run with a hole."""
        followers = [path for path in (self.folder / "summary.json",) if path.exists()]
        if name.startswith("evaluation/"):
            followers += [path for path in (self.folder / f"{name}.json",) if path.exists()]
        else:
            found = [*self.folder.glob("evaluation/*"), *self.folder.glob("iteration_*/*")]
            after = [path for path in found if _place(path) > _place(self.folder / name)]
            followers += sorted(after, key=lambda path: (_place(path), path.name), reverse=True)
        for path in followers:
            if path.is_dir():  # renamed first: half an adapter must not look like one
                beside = _beside(path)
                shutil.rmtree(beside, ignore_errors=True)
                os.replace(path, beside)
                shutil.rmtree(beside)
            else:
                path.unlink()
            _sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class RunDescription:
    """A line of `optima-lite runs list`. problem: why the folder cannot be read, in which case the rest is unknown."""

    name: str
    folder: Path
    recipe: str | None = None
    seed: int | None = None
    iterations_done: int = 0
    iterations_planned: int | None = None
    finished: bool = False
    running: bool = False
    problem: str | None = None


def runs(folder: Path) -> list[RunDescription]:
    """The runs under `folder`, by name; folders that are no run, or a damaged one, say so in `problem`."""
    if not folder.is_dir():
        return []
    return [_describe(path) for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def read_run(folder: Path) -> RunFolder:
    """Open a run folder for reading. Raises RunError if there is none, or its manifest cannot be read."""
    folder = Path(folder)
    manifest = _read_json(folder / "manifest.json")
    if manifest is None:
        what = "is not a run folder: it has no manifest.json" if folder.is_dir() else "there is no such run folder"
        raise RunError(what, where=folder, hint="optima-lite runs list")
    _check_manifest(folder, manifest)
    return RunFolder(folder, manifest)


def _describe(folder: Path) -> RunDescription:
    try:
        run = read_run(folder)
        recipe = run.manifest["recipe"]
        done = sum((folder / f"evaluation/iteration_{i:02d}_sampled.json").exists() for i in run.iterations())
        planned = int(recipe["training"]["iterations"])
        return RunDescription(
            folder.name,
            folder,
            recipe=run.manifest["recipe_name"],
            seed=recipe["seed"],
            iterations_done=done,
            iterations_planned=planned,
            finished=(folder / "summary.json").exists() and (done >= planned or _was_stopped(run)),
            running=_is_locked(folder),
        )
    except RunError as error:
        return RunDescription(folder.name, folder, problem=error.what)
    except (KeyError, TypeError, ValueError):
        return RunDescription(folder.name, folder, problem="its manifest.json lacks parts of the recipe")


def _was_stopped(run: RunFolder) -> bool:
    """Whether a step that made things worse ended the run."""
    verdicts = [_read_json(path) for path in run.folder.glob("iteration_*/[59]_verdict.json")]
    return any(verdict["verdict"] == "stop" for verdict in verdicts)


def _question_id(of: Any) -> str | None:
    """The id of a question, or of the question that a record is about; None for what is about none."""
    return getattr(getattr(of, "question", of), "id", None)


# --- Opening --------------------------------------------------------------------------------------


def would_resume(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a run of `recipe` in `folder` would go on with one that is there; nothing is written.

    Raises the RunError with which opening it would refuse, except where another process works there.
    """
    _refuse_foreign_folder(folder)
    stored = _read_json(folder / "manifest.json")
    if stored is not None:
        _resume(folder, stored, {"recipe": recipe})
    return stored is not None


def _refuse_foreign_folder(folder: Path) -> None:
    if os.path.exists(folder) and not os.path.isdir(folder):  # unlike Path's methods, no error for any name
        raise RunError("is a file; a run needs a folder", where=folder, hint="--run OTHER")
    with _reading(folder):
        present = {path.name for path in folder.iterdir()} if os.path.isdir(folder) else set()
    if present - HOUSEKEEPING and "manifest.json" not in present:
        what = "holds other files and no manifest.json, so it is not a run folder"
        raise RunError(what, where=folder, hint="--run OTHER, or an empty folder")


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    with _writing(folder):
        try:
            lock.acquire(timeout=0.2)  # longer than the moment for which `runs list` probes the lock
        except Timeout as error:
            pid = _read_bytes(folder / PID).decode("ascii", "replace").strip()
            what = f"another process{f' (pid {pid})' if pid else ''} is working in this run folder"
            raise RunError(what, where=folder, hint="wait until it is done or stop it; or --run OTHER") from error
    with suppress(OSError):  # it only serves the message above
        (folder / PID).write_text(f"{os.getpid()}\n", encoding="ascii")
    return lock


def _release(folder: Path, lock: FileLock) -> None:
    with suppress(OSError):  # a stale pid is harmless: it is only read where the lock is held
        (folder / PID).unlink(missing_ok=True)
    lock.release()


def _is_locked(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that we may only read: nobody can tell
        return False
    lock.release()
    return False


def _resume(folder: Path, stored: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The stored manifest, with grown iterations; RunError if its recipe differs otherwise. Without records the new
    one."""
    _check_manifest(folder, stored)
    if not any(folder.glob("*/*.jsonl")):  # a start that failed before it computed anything binds nobody
        return wanted
    manifest: dict[str, Any] = copy.deepcopy(stored)
    if "plugin" in wanted:
        _refuse_other_code(folder, stored.get("plugin"), wanted["plugin"])
        manifest["plugin"] = wanted["plugin"]  # where the same file is now
    old, new = manifest["recipe"].get("training"), wanted["recipe"].get("training")
    if isinstance(old, dict) and isinstance(new, dict) and new.get("iterations", 0) > old.get("iterations", 0):
        old["iterations"] = new["iterations"]
    _add_new_keys(manifest["recipe"], wanted["recipe"])
    if "evaluation" in manifest["recipe"] and "evaluation" in wanted["recipe"]:  # it stops a run, and changes none
        manifest["recipe"]["evaluation"]["stop_if_none_right"] = wanted["recipe"]["evaluation"]["stop_if_none_right"]
    changed = differences(manifest["recipe"], wanted["recipe"])
    if changed:
        what = "\n  ".join(["holds a run of another recipe:", *changed])
        raise RunError(what, where=folder, hint=f"--run OTHER to start a new run; {_way_back(manifest, wanted)}")
    return manifest


def _refuse_other_code(folder: Path, stored: Any, wanted: Mapping[str, str]) -> None:
    """Raises RunError where a run was begun with a plugin of another content."""
    if isinstance(stored, dict) and stored.get("sha256") != wanted["sha256"]:
        was, now = str(stored.get("sha256"))[:12], wanted["sha256"][:12]
        what = f"holds a run of another plugin: {wanted['path']} has changed since (SHA-256 {was}... -> {now}...)"
        raise RunError(what, where=folder, hint="put the file back as it was, or start a new run with --run OTHER")


def _way_back(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """How to resume a run whose recipe differs, also for somebody who changed nothing but the version."""
    settings = undoing(stored["recipe"], wanted["recipe"])
    if settings is None:
        version = (stored.get("versions") or {}).get("optima-lite", "unknown")
        return f"to resume this one, use the version of optima-lite that began it ({version}): it had other settings"
    return f"to resume this one, undo the changes, or add {shlex.join(settings)}"


def _add_new_keys(recipe: dict[str, Any], wanted: Mapping[str, Any], *, above: str = "") -> None:
    """Gives the recipe of an earlier version the keys that it lacks, where the wanted one has their defaults."""
    for name, value in wanted.items():
        dotted = f"{above}{name}"
        if dotted in _DEFAULTS:
            if name not in recipe and _DEFAULTS[dotted] == value:
                recipe[name] = value
        elif isinstance(value, Mapping) and isinstance(section := recipe.get(name, {}), dict):
            _add_new_keys(section, value, above=f"{dotted}.")
            if section:
                recipe[name] = section


def _check_manifest(folder: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("recipe"), dict):
        hint = "restore manifest.json from a backup, or start a new run with --run OTHER"
        raise RunError("is damaged: it holds no recipe", where=folder / "manifest.json", hint=hint)


# --- Reading --------------------------------------------------------------------------------------


def _read_rows(path: Path, kind: type[Record]) -> tuple[Rows[Record], int]:
    """The rows of a file up to its first damaged or unended line; and its number of lines, torn one included.

    Raises RunError for a line of JSON that is no `kind`.
    """
    ends, lines, damaged = array("q", [0]), 0, False
    for line in _lines(path):
        lines += 1
        damaged = damaged or not line.endswith(b"\n") or not _is_whole(path, kind, line, lines)
        if not damaged:
            ends.append(ends[-1] + len(line))
    return Rows(path, kind, ends), lines


def _is_whole(path: Path, kind: type[Record], line: bytes, number: int) -> bool:
    """Whether a line is whole. Raises RunError if it is, and holds something else."""
    try:
        decode(kind, line)
    except ValueError as error:
        if not _is_json(line):
            return False
        what = f"line {number} is not a {kind.__name__} of this version ({error})"
        raise RunError(what, where=path, hint=_redo_hint(path)) from error
    return True


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8"))
    except ValueError:
        return False
    return True


def _lines(path: Path, *, start: int = 0) -> Iterator[bytes]:
    """Each with its end, none without a file; not splitlines, because text may hold the other line ends, unescaped.

    start: the byte to begin at.
    """
    with _reading(path), suppress(FileNotFoundError), path.open("rb") as stream:
        stream.seek(start)
        yield from stream


def _read_json(path: Path) -> Any:
    data = _read_bytes(path)
    if not data and not path.exists():
        return None
    try:
        return json.loads(data.decode("utf-8"))
    except ValueError as error:
        if path.name == "manifest.json":
            hint = "restore it from a backup, or start a new run with --run OTHER"
        else:
            hint = f"delete {path.name} and run the same command again"
        raise RunError(f"is damaged: {error}", where=path, hint=hint) from error


def _read_bytes(path: Path) -> bytes:
    with _reading(path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""


def _damaged(path: Path, *, line: int) -> RunError:
    return RunError(f"line {line} is damaged", where=path, hint=_redo_hint(path))


def _redo_hint(path: Path) -> str:
    return f"delete {path.name}; the same command computes it again, and what follows it"


# --- Writing --------------------------------------------------------------------------------------


def _encode(record: Any) -> bytes:
    text = json.dumps(to_json(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes JSON's own escape of it


def _append(path: Path, data: bytes) -> None:
    """Append `data` and sync it. On an OSError what was written of it is taken back."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            rest = memoryview(data)
            while rest:  # one write, unless the system takes less of it
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside its place, synced, then renamed into it."""
    beside = _beside(path)
    with _writing(path):
        _make_folder(path.parent)
        beside.unlink(missing_ok=True)
        _append(beside, data)
        os.replace(beside, path)
        _sync_folder(path.parent)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _place(path: Path) -> tuple[int, int, int]:
    """Where a path stands in the run: iteration, stage (evaluations come after all stages); a .tmp stands nowhere."""
    nowhere = (-1, 0, 0)
    if path.name.endswith(".tmp"):
        return nowhere
    if path.parent.name == "evaluation":
        found = re.match(r"iteration_(\d+)_", path.name)
        return (int(found[1]), 1, 0) if found else nowhere
    iteration, stage = re.fullmatch(r"iteration_(\d+)", path.parent.name), re.match(r"(\d+)_", path.name)
    return (int(iteration[1]), 0, int(stage[1])) if iteration and stage else nowhere


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Make names in a folder durable. Some network file systems cannot, and say EINVAL: there is nothing more to do."""
    try:
        _sync_file(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the errors of a full, read-only or failing disk into RunError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        reason, remedy = _REASONS[error.errno]
        hint = f"{remedy}, then run the same command again; every complete chunk is kept"
        raise RunError(f"cannot be written: {reason}", where=path, hint=hint) from error
    except UnicodeEncodeError as error:
        raise RunError(
            "cannot be written: the locale has not all letters of its name", where=path, hint=_UTF8
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise RunError(f"cannot be read: {_REASONS[error.errno][0]}", where=path) from error
    except UnicodeEncodeError as error:
        raise RunError("cannot be read: the locale has not all letters of its name", where=path, hint=_UTF8) from error
