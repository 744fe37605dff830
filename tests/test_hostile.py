"""A thousand hostile settings, rows and model folders: each ends in a result or a sentence, soon, and is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hostile_inputs

SECONDS = 5  # of processor time, children included
GROWTH = 1.0  # GiB on top of what the libraries hold
CHARACTERS = 40_000
HERE = Path(__file__).parent


def fault(one: dict[str, Any]) -> str | None:
    """What is wrong with the outcome of a case, None when nothing is."""
    if "Traceback" in one["said"] or "Exception ignored" in one["said"] or one["code"] not in (0, 2):
        return f"ends with {one['code']} after {one['seconds']:.1f} s"
    if one["seconds"] > SECONDS or one["growth"] > GROWTH or one["characters"] > CHARACTERS:
        return f"takes {one['seconds']:.1f} s, {one['growth']:.1f} GiB and says {one['characters']} characters"
    return f"leaves {', '.join(one['left'])}" if one["left"] else None


def outcomes(cases: dict[str, int], folder: Path) -> list[dict[str, Any]]:
    """Those of the first so many cases of each kind. Kinds with a comma between them go one after the other in a
    process, the others side by side."""
    started = [
        subprocess.Popen(
            [sys.executable, "hostile_runs.py", kinds, str(count), str(folder)],
            cwd=HERE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kinds, count in cases.items()
    ]
    said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    return [json.loads(line) for lines in said for line in lines.splitlines()]


def assert_no_faults(cases: dict[str, int], folder: Path) -> None:
    """Every case was run, and none went wrong."""
    found = outcomes(cases, folder)
    assert len(found) == sum(count * len(kinds.split(",")) for kinds, count in cases.items())
    faults = [f"{one['case']} {wrong}\n{one['said'][-1500:]}" for one in found if (wrong := fault(one))]
    assert not faults, f"{len(faults)} of {len(found)}:\n" + "\n".join(faults)


def test_some_hostile_inputs_end_in_a_sentence(tmp_path: Path) -> None:
    assert_no_faults({",".join(hostile_inputs.KINDS): 8}, tmp_path)  # the libraries are imported once


@pytest.mark.slow
def test_a_thousand_hostile_inputs_end_in_a_sentence(tmp_path: Path) -> None:
    assert_no_faults({"settings": 300, "rows": 300, "model": 400}, tmp_path)


def test_what_counts_as_a_fault() -> None:
    fine = {"code": 2, "seconds": 1.0, "growth": 0.1, "said": "error", "characters": 5, "left": []}
    assert fault(fine) is None
    for wrong in (
        {"code": 1},
        {"code": -1},
        {"seconds": 6},
        {"growth": 2},
        {"left": ["runs/x"]},
        {"characters": 10**6},
    ):
        assert fault(fine | wrong)
    assert fault(fine | {"said": "Traceback (most recent call last):"})
