"""The process of a helper: started before anything heavy is imported here, because it has to import the same."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .resources import cores

_CODE = """
from {package}.model.resources import kept
with kept():
    from {package}.stage.helper import serve
serve({line})
"""


class Second:
    """A Python process that runs `helper.serve`. line: to and from it."""

    def __init__(self) -> None:
        root = Path(__file__).resolve().parents[2]  # the folder that holds the package, wherever the caller stands
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.line, other = multiprocessing.Pipe()
        package = __package__.partition(".")[0]
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(package=package, line=other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the caller
            )
        self._end = weakref.finalize(self, _end, self.process, self.line)

    @property
    def running(self) -> bool:
        """Whether it has not been closed."""
        return bool(self._end.alive)

    def close(self) -> None:
        """Ends the process, whatever it is busy with."""
        self._end()


def _end(process: subprocess.Popen[bytes], line: Connection) -> None:
    line.close()
    process.kill()
    process.wait()


def possible(recipe: Recipe, machine: Machine) -> bool:
    """Whether a second process may work for a run here. Code of the user's own stays in one process, and so do agents
    that change from question to question, and answers of models elsewhere, which one process stores; where a cluster
    works, or a server samples, there is little for it to do."""
    shared = recipe.task.code is None and recipe.method != "market" and not (recipe.team or {}).get("spoken_by")
    shared = shared and machine.cluster.engine == "none" and not machine.server.urls
    return shared and machine.threads == "auto" and cores() > 1 and os.name == "posix"


@contextmanager
def begun(recipe: Recipe, machine: Machine, *, wanted: bool = True) -> Iterator[Second | None]:
    """A process for the `with` block where one will surely be of use: for the bundled model, on a machine without a
    card. wanted: whether there is anything to do."""
    card = os.path.exists("/proc/driver/nvidia/version")
    second = Second() if wanted and recipe.model.name == "tiny" and not card and possible(recipe, machine) else None
    try:
        yield second
    finally:
        if second:
            second.close()
