"""The run folder for reading: what a run leaves behind, and where.

    manifest.json                     the recipe, the threads and token budget that a run's records depend on, versions
    iteration_00/1_dialogues.jsonl    one row per question; so are the other stages; 4_adapter is a folder
    start                             the adapters that a run with `start` in its recipe has begun with
    evaluation/untrained_sampled.*    rows (.jsonl) and their means (.json)
    adapter                           leads to the adapter in force, for people and scripts; nothing here reads it
    summary.json, timings.jsonl, log.txt

Nothing here writes or takes a lock, so a run may be read while it goes on; `store` writes it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..records import Record, decode
from .disk import read_bytes, read_json
from .manifest import check_manifest
from .progress import Timing
from .rows import Rows, damaged_line, read_rows

IMITATED, PREFERRED = "4_adapter", "8_adapter"  # the adapters of an iteration, by the step that makes them
EPISODES, POPULATION = "1_episodes", "2_population"  # of an iteration of a market: what happened, and who came out
STARTED = "start"  # a copy of the adapters that a run with `start` in its recipe has begun with


def stage_name(iteration: int, stage: str) -> str:
    """The name of an iteration's stage, such as iteration_00/1_dialogues."""
    return f"iteration_{iteration:02d}/{stage}"


class RunFolder:
    """A run folder for reading; takes no lock, so it may be read while the run goes on."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def read(self, name: str, kind: type[Record]) -> Rows[Record]:
        """The complete rows of a stage, none if it has no file. Raises RunError for a damaged row before the last."""
        path = self.folder / f"{name}.jsonl"
        rows, lines = read_rows(path, kind)
        if len(rows) < lines - 1:
            raise damaged_line(path, line=len(rows) + 1)
        return rows

    def read_json(self, name: str) -> Any:
        """The value of a file such as summary.json, or None if there is none. Raises RunError if it is not JSON."""
        return read_json(self.folder / name)

    def timings(self) -> list[Timing]:
        """The time of each finished phase, over all starts of the run; lines that cannot be read are left out."""
        timings = []
        for line in read_bytes(self.folder / "timings.jsonl").split(b"\n"):
            with suppress(ValueError):
                timings.append(decode(Timing, line))
        return timings

    def adapter(self, iteration: int) -> Path | None:
        """The adapter in force after an iteration, None for none; an undone step leaves an earlier one in force.

        Raises KeyError for an iteration without a finished step.
        """
        verdicts = [self.read_json(f"{stage_name(iteration, name)}.json") for name in ("9_verdict", "5_verdict")]
        verdict = next((verdict for verdict in verdicts if verdict is not None), None)
        if verdict is None:
            if iteration in self.trained():  # a market, whose agents all speak with what the run has begun with
                return None
            raise KeyError(iteration)
        return None if verdict["adapter"] is None else self.folder / verdict["adapter"]

    def undone(self, iteration: int) -> list[str]:
        """The steps of an iteration that made things worse and were taken back; the agents are those from before."""
        names = (f"{stage_name(iteration, f'{number}_verdict')}.json" for number in (5, 9))
        verdicts = filter(None, map(self.read_json, names))
        return [verdict["step"] for verdict in verdicts if verdict["verdict"] != "keep"]

    def trained(self) -> list[int]:
        """The iterations of which at least one step is finished, in order."""
        begun = [(i, self.folder / f"iteration_{i:02d}") for i in self.iterations()]
        done = ("[59]_verdict.json", f"{POPULATION}.jsonl")
        return [i for i, folder in begun if any(any(folder.glob(name)) for name in done)]

    def iterations(self) -> list[int]:
        """The iterations that have begun, in order."""
        return sorted(int(path.name[10:]) for path in self.folder.glob("iteration_*") if path.name[10:].isdigit())


def birth_stage(iteration: int, name: str) -> str:
    """The stage of the adapter that a market's agent of this name was born with; it stands beside the episodes, since
    both are made in turns."""
    return stage_name(iteration, f"1_adapter_{name}")


def born_with(run: RunFolder, name: str) -> Path | None:
    """The folder of the adapter that a market's agent was born with, None for a founder."""
    return next(iter(run.folder.glob(f"iteration_*/1_adapter_{name}")), None)


def read_run(folder: Path) -> RunFolder:
    """Open a run folder for reading. Raises RunError if there is none, or its manifest cannot be read."""
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        what = "is not a run folder: it has no manifest.json" if folder.is_dir() else "there is no such run folder"
        raise RunError(what, where=folder, hint="optima-lite runs list")
    check_manifest(folder, manifest)
    return RunFolder(folder, manifest)
