"""optima-lite: teach two LLM agents to solve more and say less, on one GPU.

`train` is the whole of the Python interface; everything else is on the command line (`optima-lite --help`).
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of `typing` would cost its import, during which the command line cannot heed a Ctrl-C
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from .runs.progress import Observer

__all__ = ["train"]


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    variants: Sequence[str] = (),
    run: str | Path | None = None,
    config: str | Path | None = None,
    observe: Observer | None = None,
) -> dict[str, Any]:
    """Run a recipe as `optima-lite train` does, or carry on with its run, and return the content of summary.json.

    recipe: a file, or a shipped recipe's name. overrides: settings such as "training.iterations=4". run: the run
    folder, when it is not to be named after the recipe. config: the machine file. observe: is called with every event
    of `optima_lite.runs.progress`; nothing is printed without it. Raises an `optima_lite.errors.OptimaError` for
    anything that can be mended from outside; the same call resumes.
    """
    import logging
    from pathlib import Path

    from .settings.config import load_machine, load_recipe

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at import what a CPU lacks for four bits
    loaded = load_recipe(recipe, overrides=overrides, variants=variants)
    machine = load_machine(None if config is None else Path(config))
    from .methods.optima.loop import train as run_loop
    from .runs.naming import run_folder
    from .runs.progress import silent
    from .runs.store import read_run

    folder = Path(run) if run else run_folder(loaded, machine)
    run_loop(loaded, machine=machine, folder=folder, observe=observe or silent)
    summary: dict[str, Any] = read_run(folder).read_json("summary.json")
    return summary
