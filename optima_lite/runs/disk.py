"""Files that last: what was written is on the disk when the call returns, and taken back when the disk refuses.

A full, read-only or failing disk becomes a RunError that says what to do.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import RunError

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


@contextmanager
def writing(path: Path) -> Iterator[None]:
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
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that does not let us read into RunError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise RunError(f"cannot be read: {_REASONS[error.errno][0]}", where=path) from error
    except UnicodeEncodeError as error:
        raise RunError("cannot be read: the locale has not all letters of its name", where=path, hint=_UTF8) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file, nothing if there is none. Raises RunError if the disk refuses."""
    with reading(path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""


def read_json(path: Path) -> Any:
    """The value of a JSON file, None if there is none. Raises RunError if it is not JSON."""
    data = read_bytes(path)
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


def append_bytes(path: Path, data: bytes) -> None:
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside its place, synced, then renamed into it."""
    beside = place_beside(path)
    with writing(path):
        make_folder(path.parent)
        beside.unlink(missing_ok=True)
        append_bytes(beside, data)
        os.replace(beside, path)
        sync_folder(path.parent)


def place_beside(path: Path) -> Path:
    """Where a file or folder is made before it is renamed into its place."""
    return path.with_name(f"{path.name}.tmp")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and their names durable."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make names in a folder durable. Some network file systems cannot, and say EINVAL: there is nothing more to do."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
