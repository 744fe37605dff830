"""`doctor`: what this machine can do, told however much of the program is missing."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from optima_lite.settings.machine import Machine
from optima_lite.stage import doctor
from optima_lite.stage.findings import Status

Version = namedtuple("Version", "major minor micro releaselevel serial")


def test_versions_name_what_decides_a_run() -> None:
    known = doctor.versions()
    assert {"python", "optima-lite", "torch", "transformers", "trl", "peft"} <= known.keys()
    assert known["torch"] == importlib.metadata.version("torch")


def test_this_machine_is_fine() -> None:
    findings = list(doctor.doctor(Machine()))
    assert not [finding for finding in findings if finding.status is Status.PROBLEM]
    assert all(finding.hint is None for finding in findings if finding.status is Status.OK)


@pytest.mark.parametrize(
    ("missing", "allowed", "status", "detail"),
    [
        (None, True, Status.OK, "can be contained and run here, and allow_code allows it"),
        (None, False, Status.OK, "can be contained and run here, but allow_code is not set, so it is not"),
        ("no walls", True, Status.NOTE, "cannot be run here: no walls"),
    ],
)
def test_whether_generated_code_can_be_run_is_told(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, allowed: bool, status: Status, detail: str
) -> None:
    monkeypatch.setattr("optima_lite.tasks.sandbox.missing", lambda: missing)
    (code,) = [one for one in doctor.doctor(Machine(allow_code=allowed)) if one.subject == "generated code"]
    assert (code.status, code.detail) == (status, detail)


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_another_python_is_a_problem(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", Version(*version, "final", 0))
    python = doctor._python()
    assert (python.status, python.hint) == (Status.PROBLEM, "use Python 3.11 to 3.13")


@pytest.mark.parametrize(
    ("version", "status", "detail"),
    [
        (None, Status.PROBLEM, "not installed"),
        ("0.1", Status.PROBLEM, "0.1, supported: "),
        ("1.15.0", Status.PROBLEM, "1.15.0, supported: "),
        ("1.16.0", Status.OK, "1.16.0"),
    ],
)
def test_a_package_outside_its_range_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, version: str | None, status: Status, detail: str
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == "trl" else real(name))
    (trl,) = [one for one in doctor.doctor(Machine()) if one.subject == "trl"]
    assert trl.status is status and trl.detail.startswith(detail)
    assert (trl.hint is None) == (status is Status.OK)
    if trl.hint:
        assert trl.hint.startswith("pip install 'trl")


def test_without_a_gpu_the_tiny_model_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = doctor.gpu()
    assert gpu.status is Status.NOTE and "fine for the bundled tiny model" in gpu.detail


def test_a_card_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    card = namedtuple("Card", "name total_memory major minor")("NVIDIA RTX 4090", 24 * 2**30, 8, 9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert doctor.gpu().detail.startswith("NVIDIA RTX 4090, 24 GiB")


def test_a_disk_that_is_full_or_read_only_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 2**29))
    disk = doctor.disk(tmp_path / "not" / "yet")
    assert (disk.status, disk.detail) == (Status.PROBLEM, f"0.5 GiB free at {tmp_path}")
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    disk = doctor.disk(tmp_path)
    assert (disk.status, disk.detail) == (Status.PROBLEM, f"{tmp_path} cannot be written")
    assert disk.hint == "set run_folder in optima_lite.toml"


def test_it_answers_without_torch_and_psutil(tmp_path: Path) -> None:
    code = """
import sys
for name in ("torch", "psutil", "transformers", "trl", "peft", "numpy", "scipy"):
    sys.modules[name] = None  # as if it were not installed
sys.argv = ["optima-lite", "doctor"]
from optima_lite.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "problem GPU: torch cannot be imported" in done.stdout and "problem memory: cannot be asked" in done.stdout
    assert "disk: " in done.stdout and "2 problems" in done.stdout and "Traceback" not in done.stderr
