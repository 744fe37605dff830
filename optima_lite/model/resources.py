"""What this process may use of the machine, in memory and cores, and how; the limits of a container count.

psutil knows the machine on every system, but not the control groups by which Linux containers are bounded: a container
of 8 GiB on a host of 256 sees 256. Their files are read here, those of version 2 and of version 1.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path

import psutil

_OWN_GROUPS, _HIERARCHY = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt
_NO_LIMIT = 1 << 60  # version 1 writes a number near 2^63 where there is none


def free_memory() -> int:
    """Bytes that this process can still take without pushing anything out."""
    bounds = (max(0, limit - used) for limit, used in _memory_limits())
    return min([int(psutil.virtual_memory().available), *bounds])


def total_memory() -> int:
    """Bytes that this process could have at most."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_limits())])


def cores() -> int:
    """Cores that this process may keep busy; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_core_limits()]))


def let_segments_grow(environment: MutableMapping[str, str]) -> None:
    """Tells torch to extend the blocks it holds of a GPU instead of taking new ones, unless the user has told it how.

    Batches of ever other sizes leave gaps that nothing fits into. torch reads this once, when the GPU is first used.
    Its newer name for the variable, PYTORCH_ALLOC_CONF, is without effect in some versions.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
    if sys.platform == "linux" and not any(name in environment for name in names):
        environment[names[0]] = "expandable_segments:True"


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Tells torch's threads to sleep while they wait for each other, unless the user has told them how; before torch is
    imported. Awake, as they wait otherwise, each takes a core from whoever else could use it, the others included."""
    environment.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def kept() -> Iterator[None]:
    """What the block imports is there to stay, so the search for garbage leaves it out, now and later.

    torch and its company are half a million objects. To look through them again and again takes a fifth of the time of
    their import, and each training step's clean-up a third of a second.
    """
    before, searching = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if searching:
            gc.enable()


def keep_freed_memory() -> None:
    """Tells the C library to keep what is freed for what is asked for next, on Linux: pages fresh from the system cost
    a small model a good part of its time. For processes that need a few GiB at most."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no such function
            tune = ctypes.CDLL(None).mallopt
            tune(_MMAP_MAX, 0)
            tune(_TRIM_THRESHOLD, 1 << 30)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """The limit of every group around this process, and what the group uses of it; the page cache can be given back."""
    for group in _groups("memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit and limit < _NO_LIMIT:
            used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
            yield limit, max(0, used - _page_cache(group / "memory.stat"))


def _core_limits() -> Iterator[int]:
    for group in _groups("cpu"):
        text = _text(group / "cpu.max") or " ".join(_text(group / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
        numbers = [int(word) for word in text.split() if word.isdecimal()]  # `max` and -1 are no limit
        if len(numbers) == 2 and all(numbers):
            yield ceil(numbers[0] / numbers[1])


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, from its own one up, by either version.

    Inside a container its own group is mounted as the root, whatever path the host knows it by.
    """
    for line in _text(_OWN_GROUPS).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = _HIERARCHY / controller if controllers else _HIERARCHY
        own = root / path.lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root) and group.is_dir())


def _page_cache(statistics: Path) -> int:
    """Bytes of files that a group holds only because there was room for them."""
    for line in _text(statistics).splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    """A small file of the kernel's; empty where there is none, or none to read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
