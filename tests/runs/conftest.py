"""What every test of the run folder begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from optima_lite.runs.store import Run
from stored import MANIFEST


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """The tests write thousands of chunks, and none of them pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.open(tmp_path / "run", MANIFEST) as run:
        yield run
