"""Whoever the machine file names is hired for a run: this process, with a second one where it helps, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..model.second import Second
from ..runs.progress import Note, Observer, phase
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .cast import Settle, assemble
from .crew import Crew
from .helper import helped

_ON_A_CLUSTER = ("optima", "reinforce")


@contextmanager
def hired(
    recipe: Recipe,
    *,
    machine: Machine,
    settle: Settle,
    observe: Observer,
    start: Path | None,
    second: Second | None = None,
) -> Iterator[Crew]:
    """Who does the work of a run in the `with` block. second: a process that was begun already. The others are those of
    `cast.assemble`, and so are the errors; RunError where there is no cluster as wanted."""

    def notify(text: str) -> None:
        observe(Note(text))

    if machine.cluster.engine == "none":
        with phase(observe, "load", iteration=None, total=1, unit="models") as advance:
            cast = assemble(recipe, machine=machine, settle=settle, notify=notify, start=start)
            advance(1)
        with helped(cast, machine=machine, notify=notify, second=second) as crew:
            yield crew
        return
    from .cluster import clustered

    with clustered(recipe, machine=machine, settle=settle, notify=notify, start=start) as workers:
        with phase(observe, "load", iteration=None, total=1, unit="models") as advance:
            workers.gather()
            advance(1)
        yield workers


def require_engine(recipe: Recipe, machine: Machine) -> None:
    """Raises ConfigError for a run that cannot be given to a cluster, and where the extra is not installed."""
    if machine.cluster.engine == "none":
        return
    valued = recipe.method == "reinforce" and recipe.reinforce.advantage == "value"
    if recipe.method not in _ON_A_CLUSTER or valued:
        what = "reinforce.advantage value" if valued else f"method {recipe.method}"
        hint = 'cluster.engine = "none"; or several runs side by side, one on each machine'
        raise ConfigError(f"{what} works in one process, not on a cluster", where="cluster.engine", hint=hint)
    try:
        import ray  # noqa: F401
    except ImportError as error:
        what = 'cluster.engine "ray" needs the extra ray'
        raise ConfigError(what, where="optima_lite.toml", hint="pip install 'optima-lite[ray]'") from error
