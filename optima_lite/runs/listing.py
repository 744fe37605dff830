"""The runs in a folder, a line each: what `optima-lite runs list` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import RunError
from .disk import read_json
from .folder import RunFolder, read_run
from .lock import is_locked


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


def _describe(folder: Path) -> RunDescription:
    try:
        run = read_run(folder)
        recipe = run.manifest["recipe"]
        done = sum((folder / f"evaluation/iteration_{i:02d}_sampled.json").exists() for i in run.iterations())
        planned = 1 if recipe.get("method") == "prompts" else int(recipe["training"]["iterations"])
        return RunDescription(
            folder.name,
            folder,
            recipe=run.manifest["recipe_name"],
            seed=recipe["seed"],
            iterations_done=done,
            iterations_planned=planned,
            finished=(folder / "summary.json").exists() and (done >= planned or _was_stopped(run)),
            running=is_locked(folder),
        )
    except RunError as error:
        return RunDescription(folder.name, folder, problem=error.what)
    except (KeyError, TypeError, ValueError):
        return RunDescription(folder.name, folder, problem="its manifest.json lacks parts of the recipe")


def _was_stopped(run: RunFolder) -> bool:
    """Whether a step that made things worse ended the run."""
    verdicts = [read_json(path) for path in run.folder.glob("iteration_*/[59]_verdict.json")]
    return any(verdict["verdict"] == "stop" for verdict in verdicts)
