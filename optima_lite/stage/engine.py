"""What works on a cluster, said before a run begins; nothing of Ray is imported where none is wanted."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ConfigError
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..team.talks import team_of

_ON_A_CLUSTER = ("optima", "reinforce")


def require_engine(recipe: Recipe, machine: Machine) -> None:
    """Raises ConfigError for a run that cannot be given to a cluster, and where the extra is not installed."""
    if machine.cluster.engine == "none":
        return
    valued = recipe.method == "reinforce" and recipe.reinforce.advantage == "value"
    if recipe.method not in _ON_A_CLUSTER or valued:
        what = "reinforce.advantage value" if valued else f"method {recipe.method}"
        hint = 'cluster.engine = "none"; or several runs side by side, one on each machine'
        raise ConfigError(f"{what} works in one process, not on a cluster", where="cluster.engine", hint=hint)
    if elsewhere := team_of(recipe).elsewhere:
        what = f"{', '.join(elsewhere)} can be asked by one process, which stores the answers, not by a cluster"
        raise ConfigError(what, where="cluster.engine", hint='cluster.engine = "none", or no team.spoken_by')
    if find_spec("ray") is None:
        what = 'cluster.engine "ray" needs the extra ray'
        raise ConfigError(what, where="optima_lite.toml", hint="pip install 'optima-lite[ray]'")
