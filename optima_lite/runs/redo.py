"""The redo rule: a stage that is made anew takes with it all that comes after it, so no record outlives its cause."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from .disk import place_beside, sync_folder


def delete_what_follows(folder: Path, name: str) -> None:
    """Delete all that comes after a stage; after an evaluation, its means and the summary. name: see `stage_name`.

    The last goes first, so that a kill in between leaves a beginning of the run, not a run with a hole.
    """
    followers = [path for path in (folder / "summary.json",) if path.exists()]
    if name.startswith("evaluation/"):
        followers += [path for path in (folder / f"{name}.json",) if path.exists()]
    else:
        found = [*folder.glob("evaluation/*"), *folder.glob("iteration_*/*")]
        after = [path for path in found if _place(path) > _place(folder / name)]
        followers += sorted(after, key=lambda path: (_place(path), path.name), reverse=True)
    for path in followers:
        if path.is_dir():  # renamed first: half an adapter must not look like one
            beside = place_beside(path)
            shutil.rmtree(beside, ignore_errors=True)
            os.replace(path, beside)
            shutil.rmtree(beside)
        else:
            path.unlink()
        sync_folder(path.parent)


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
