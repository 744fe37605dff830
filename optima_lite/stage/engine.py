"""What works on a cluster, said before a run begins; nothing of Ray is imported where none is wanted."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ConfigError
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..team.talks import team_of


def require_engine(recipe: Recipe, machine: Machine) -> None:
    """Raises ConfigError for a run that cannot be given to a cluster, and where the extra is not installed."""
    if machine.cluster.engine == "none":
        return
    kept = _kept_in_a_process(recipe)
    if kept:
        what = f"{kept}, so it works in one process, not on a cluster"
        hint = 'cluster.engine = "none"; or several runs side by side, one on each machine'
        raise ConfigError(what, where="cluster.engine", hint=hint)
    if elsewhere := team_of(recipe).elsewhere:
        what = f"{', '.join(elsewhere)} can be asked by one process, which stores the answers, not by a cluster"
        raise ConfigError(what, where="cluster.engine", hint='cluster.engine = "none", or no team.spoken_by')
    number = machine.cluster.trainers
    uneven = [f"{name} {size}" for name, size in _shared_batches(recipe) if size % number]
    if uneven:
        what = f"{number} trainers cannot share {' and '.join(uneven)} evenly"
        raise ConfigError(what, where="cluster.trainers", hint="a number that divides it")
    if find_spec("ray") is None:
        what = 'cluster.engine "ray" needs the extra ray'
        raise ConfigError(what, where="optima_lite.toml", hint="in the clone: pip install '.[ray]'")


def _kept_in_a_process(recipe: Recipe) -> str | None:
    """What of a recipe lives on from one piece of work to the next, which no job can carry."""
    if recipe.method == "market":
        return "method market plays its episodes in one economy, each where the one before has ended"
    if recipe.method == "reinforce" and recipe.reinforce.advantage == "value":
        return "reinforce.advantage value learns a head along with the adapter"
    return None


def _shared_batches(recipe: Recipe) -> list[tuple[str, int]]:
    """The batches that several trainers would share, by the names of their settings."""
    optima, reinforces = recipe.method == "optima", recipe.method == "reinforce"
    batches = (
        ("training", recipe.training, optima or (reinforces and recipe.reinforce.imitations)),
        ("dpo", recipe.dpo, optima and recipe.schedule != "isft"),
        ("reinforce", recipe.reinforce, reinforces),
    )
    return [(f"{section}.batch_size", settings.batch_size) for section, settings, used in batches if used]
