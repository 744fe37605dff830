"""A run folder as somebody reads it from Python: what came out, what was said, which adapter speaks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..records import EvalRow, Rollouts
from ..settings.machine import Machine
from .evaluations import evaluation_stage, evaluations
from .folder import RunFolder, read_run, stage_name

Iteration = int | str
"""The number of an iteration, `last`, or `untrained`."""


@dataclass(frozen=True)
class OpenedRun:
    """A run, finished or under way, for reading; everything is read when it is asked for, and nothing is written."""

    source: RunFolder

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.source.folder

    @property
    def recipe(self) -> dict[str, Any]:
        """All settings of the run, as nested plain values."""
        recipe: dict[str, Any] = self.source.manifest["recipe"]
        return recipe

    @property
    def iterations(self) -> tuple[int, ...]:
        """The iterations of which at least one step is finished."""
        return tuple(self.source.trained())

    @property
    def evaluations(self) -> tuple[EvalRow, ...]:
        """The lines of the final table so far: untrained, single agent, then the iterations; sampled before greedy."""
        return tuple(evaluations(self.source))

    def dialogues(self, iteration: Iteration = "last", *, decoding: str = "sampled") -> Sequence[Rollouts]:
        """One dialogue with its reward about each held-out question; none where they were not asked (greedily only
        before and at the end). decoding: sampled or greedy. Raises RunError for an iteration that there is not."""
        if decoding not in ("sampled", "greedy"):
            raise RunError(f"'{decoding}' is no decoding", where=self.folder, hint="sampled or greedy")
        number = self._trained(iteration)
        name = "untrained" if number is None else f"iteration_{number}"
        return self.source.read(evaluation_stage(name, decoding), Rollouts)

    def rollouts(self, iteration: Iteration = "last") -> Sequence[Rollouts]:
        """The training questions of an iteration, with all dialogues sampled about them and their rewards; none where
        it did not imitate. Raises RunError for an iteration that there is not."""
        number = self._trained(iteration)
        return () if number is None else self.source.read(stage_name(number, "2_rewards"), Rollouts)

    def adapter(self, iteration: Iteration = "last") -> Path | None:
        """The folder of the adapter in force after an iteration, None for the untrained model; a step that was undone
        leaves an earlier one in force. Raises RunError for an iteration that there is not."""
        number = self._trained(iteration)
        return None if number is None else self.source.adapter(number)

    def _trained(self, wanted: Iteration) -> int | None:
        number = iteration_number(self.source, wanted)
        require_iteration(self.source, number)
        return number


def find_run(run: str | Path, machine: Machine) -> RunFolder:
    """The run of that path, or of that name among the runs. Raises RunError if there is none."""
    path = Path(run)
    under = Path(machine.run_folder) / path
    return read_run(under if not os.path.exists(path) and os.path.exists(under) else path)  # False for any odd name


def iteration_number(run: RunFolder, wanted: Iteration, *, where: str = "iteration") -> int | None:
    """The iteration that is meant, None for the untrained agents. where: how messages name what was given.

    Raises RunError for what is neither a number, `last` nor `untrained`.
    """
    if wanted == "untrained":
        return None
    if wanted == "last":
        return max(run.trained(), default=None)
    if not str(wanted).isdecimal():
        raise RunError(f"'{wanted}' is no iteration", where=where, hint="a number, `last` or `untrained`")
    return int(wanted)


def require_iteration(run: RunFolder, iteration: int | None) -> None:
    """Raises RunError for an iteration that the run has not trained."""
    if iteration is not None and iteration not in run.trained():
        have = f"trained so far: {', '.join(map(str, run.trained()))}" if run.trained() else "none has been trained yet"
        raise RunError(f"there is no iteration {iteration}", where=run.folder, hint=have)
