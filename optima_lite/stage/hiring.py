"""Whoever the machine file names is hired for a run: this process, with a second one where it helps, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..model.second import Second
from ..runs.progress import Note, Observer, phase
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .cast import Settle, assemble
from .crew import Crew
from .helper import helped


@contextmanager
def hired(
    recipe: Recipe,
    *,
    machine: Machine,
    settle: Settle,
    settled: Mapping[str, Any],
    observe: Observer,
    start: Path | None,
    second: Second | None = None,
    run: Path | None = None,
) -> Iterator[Crew]:
    """Who does the work of a run in the `with` block. settled: what the run has settled on before. run: its folder.
    second: a process that was begun already. The others are those of `cast.assemble`, and so are the errors; RunError
    where there is no cluster as wanted."""

    def notify(text: str) -> None:
        observe(Note(text))

    if machine.cluster.engine == "none":
        with phase(observe, "load", iteration=None, total=1, unit="models") as advance:
            cast = assemble(recipe, machine=machine, settle=settle, notify=notify, start=start, run=run)
            advance(1)
        with helped(cast, machine=machine, notify=notify, second=second) as crew:
            yield crew
        return
    from .cluster import clustered

    with clustered(recipe, machine=machine, settle=settle, settled=settled, notify=notify, start=start) as workers:
        with phase(observe, "load", iteration=None, total=1, unit="models") as advance:
            workers.gather()
            advance(1)
        yield workers
