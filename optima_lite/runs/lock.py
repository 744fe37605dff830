"""One process at a time writes a run folder: the lock, and the pid of who holds it, for the message."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RunError
from .disk import read_bytes, writing

LOCK, PID = ".lock", ".pid"


def acquire(folder: Path) -> FileLock:
    """Take the lock of a run folder. Raises RunError, with the pid, if another process holds it."""
    lock = FileLock(folder / LOCK)
    with writing(folder):
        try:
            lock.acquire(timeout=0.2)  # longer than the moment for which `runs list` probes the lock
        except Timeout as error:
            pid = read_bytes(folder / PID).decode("ascii", "replace").strip()
            what = f"another process{f' (pid {pid})' if pid else ''} is working in this run folder"
            raise RunError(what, where=folder, hint="wait until it is done or stop it; or --run OTHER") from error
    with suppress(OSError):  # it only serves the message above
        (folder / PID).write_text(f"{os.getpid()}\n", encoding="ascii")
    return lock


def release(folder: Path, lock: FileLock) -> None:
    """Give the folder free for other processes."""
    with suppress(OSError):  # a stale pid is harmless: it is only read where the lock is held
        (folder / PID).unlink(missing_ok=True)
    lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process is working in the folder; False where nobody can tell."""
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
