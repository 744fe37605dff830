"""What the process may use: on a system without Linux's names, and inside groups that bound it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from optima_lite.model import resources

GIB = 2**30
Memory = namedtuple("Memory", "total available")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """64 GiB of which 48 are free, 16 cores, no groups; the folder that groups are made in."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(64 * GIB, 48 * GIB))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(resources, "_HIERARCHY", tmp_path / "cgroup")
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def found() -> tuple[float, float, int]:
    return resources.total_memory() / GIB, resources.free_memory() / GIB, resources.cores()


def test_without_groups_the_whole_machine_counts() -> None:
    assert found() == (64, 48, 16)


def test_a_system_without_affinity_or_page_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has neither `sched_getaffinity` nor SC_AVPHYS_PAGES."""

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert found() == (64, 48, 8)


def test_version_two_bounds_by_the_tightest_group_around_the_process(machine: Path) -> None:
    (machine / "own").write_text("0::/pod/container\n")
    root = machine / "cgroup"
    write(root / "pod/container", memory__max="max", memory__current=GIB, cpu__max="max 100000")
    write(root / "pod", memory__max=8 * GIB, memory__current=6 * GIB, cpu__max="250000 100000")
    write(root / "pod", memory__stat=f"anon {3 * GIB}\ninactive_file {2 * GIB}")
    assert found() == (8, 8 - 6 + 2, 3), "page cache that can be given back is free; 2.5 cores keep 3 threads busy"


def test_version_one_and_a_group_that_is_mounted_as_the_root(machine: Path) -> None:
    (machine / "own").write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n")
    root = machine / "cgroup"
    write(root / "memory", memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=5 * GIB)
    write(root / "cpu", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert found() == (4, 0, 1)
    write(root / "memory", memory__limit_in_bytes=2**63 - 4096)
    write(root / "cpu", cpu__cfs_quota_us=-1)
    assert found() == (64, 48, 16), "what version 1 writes where there is no limit"


def test_files_that_say_nothing_bound_nothing(machine: Path) -> None:
    (machine / "own").write_text("nonsense\n0::/\n")
    write(machine / "cgroup", memory__max="\x00", memory__current="", cpu__max="0 0", memory__stat="inactive_file x")
    assert found() == (64, 48, 16)


# --- How a GPU's memory is held -------------------------------------------------------------------

GROWING = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
HIS_OWN = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}


@pytest.mark.parametrize(
    ("platform", "before", "after"),
    [
        ("linux", {}, GROWING),
        ("linux", HIS_OWN, HIS_OWN),
        ("linux", {"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": ""}),
        ("darwin", {}, {}),
        ("win32", {}, {}),
    ],
)
def test_segments_grow_where_they_can_and_the_user_has_not_said_otherwise(
    platform: str, before: dict[str, str], after: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    environment = dict(before)
    resources.let_segments_grow(environment)
    assert environment == after


@pytest.mark.skipif(sys.platform != "linux", reason="segments grow on Linux only")
def test_it_is_said_before_anything_can_have_asked_for_a_gpu() -> None:
    pytest.importorskip("torch")
    code = """
import os, torch
import optima_lite.model.policy
print(os.environ["PYTORCH_CUDA_ALLOC_CONF"], torch.cuda.is_initialized())
"""
    clean = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True)
    assert done.stdout.split() == ["expandable_segments:True", "False"]


def test_what_was_imported_is_left_out_of_the_search_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: what was made since the import may be garbage some day."""
    searching: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: searching.append(gc.isenabled()))
    with resources.kept():
        assert not gc.isenabled()
    assert searching == [] and gc.isenabled(), "nothing was imported"
    with resources.kept():
        monkeypatch.setitem(sys.modules, "imported for the first time", sys)
    assert searching == [False] and gc.isenabled()
