"""optima-lite: train a team of LLM agents to solve more and say less, on one GPU.

From Python: `train`, `open_run`, `load` (then `Team.ask`), `evaluate` and `search` (docs/python.md), which take and
give `OpenedRun`, `Team`, `EvalRow` and `Question`. The command line is `optima-lite --help`. Nothing heavy is imported
before one of them is used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of `typing` would cost its import, during which the command line cannot heed a Ctrl-C
if TYPE_CHECKING:
    from .api import evaluate, load, open_run, search, train
    from .errors import OptimaError
    from .records import EvalRow, Question
    from .runs.opened import OpenedRun
    from .stage.asking import Team

    __version__: str

__all__ = [
    "EvalRow",
    "OpenedRun",
    "OptimaError",
    "Question",
    "Team",
    "__version__",
    "evaluate",
    "load",
    "open_run",
    "search",
    "train",
]
_HOMES = {
    "EvalRow": "records",
    "OpenedRun": "runs.opened",
    "OptimaError": "errors",
    "Question": "records",
    "Team": "stage.asking",
}


def __getattr__(name: str) -> object:
    """A public name, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("optima-lite")
    from importlib import import_module

    found: object = getattr(import_module(f".{_HOMES.get(name, 'api')}", __name__), name)
    return found
