"""A small run folder by hand, and rows to put into it; what the tests of the run folder share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optima_lite.runs.store import Run

MANIFEST: dict[str, Any] = {
    "recipe": {"seed": 1, "training": {"iterations": 3, "epochs": 3}},
    "recipe_name": "quickstart",
    "variants": [],
    "versions": {"torch": "2.13", "optima-lite": "0.0.9"},
}
KEPT = "then run the same command again; every complete chunk is kept"


@dataclass(frozen=True)
class Row:
    number: int
    text: str = ""


def manifest(**training: int) -> dict[str, Any]:
    recipe = {**MANIFEST["recipe"], "training": {**MANIFEST["recipe"]["training"], **training}}
    return {**MANIFEST, "recipe": recipe}


def fail(number: int) -> Callable[..., Any]:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return failing


def put(run: Run, *names: str) -> None:
    for name in names:
        path = run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("{}\n")
        else:
            path.mkdir()


def begun(folder: Path) -> Path:
    """A run of MANIFEST that has stored a record, which binds it to its recipe."""
    with Run.open(folder, MANIFEST) as run:
        run.append("iteration_00/1_dialogues", [Row(0)])
    return folder


def files(run: Run) -> set[str]:
    """Everything in the run folder's sub-folders, and the summary."""
    found = {path.relative_to(run.folder).as_posix() for path in run.folder.glob("*/*")}
    return found | {path.name for path in run.folder.glob("summary.json")}


def numbered(chunk: Any) -> list[Row]:
    return [Row(i, f"row {i}\nline\u2028end ü {chr(0x1F600)}") for i in chunk]
