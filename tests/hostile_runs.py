"""Runs hostile inputs: `python tests/hostile_runs.py KINDS COUNT FOLDER` prints a line of JSON for each of the first
cases of each kind.

Each case runs in a fork of a process that has imported everything and computed nothing. A start that comes as far as a
loaded model is stopped there, in the way of a user's mistake.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import hostile_inputs

WALL = 120  # seconds until a case is killed; a machine may be busy
MEMORY = 6 << 30  # bytes; no flood takes the machine along


def main(kinds: Sequence[str], count: int, folder: Path) -> None:
    """Each case's outcome: code, processor seconds, growth in GiB, what it said, and what it left behind."""
    from optima_lite.errors import RunError
    from optima_lite.methods import train
    from optima_lite.stage import preflight  # noqa: F401  (imported before the forks)

    def enough(*_: object) -> None:
        raise RunError("the model is loaded")

    train.Stage = enough  # type: ignore[assignment, misc]
    for kind, number in product(kinds, range(count)):
        home = folder / f"{kind}-{number}"
        child = os.fork()
        if child == 0:
            try:
                attempt(kind, number, home)
            finally:
                os._exit(1)
        print(json.dumps({"case": f"{kind} {number}", **outcome(child, home)}), flush=True)
        shutil.rmtree(home, ignore_errors=True)


def attempt(kind: str, number: int, home: Path) -> None:
    """A case, in this process."""
    descriptor = os.open(home.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from optima_lite.cli.app import main as command_line

    arguments = hostile_inputs.case(kind, number, home)
    os.chdir(home)
    sys.argv = ["optima-lite", *arguments]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    held, before, code = peak(), spent(), 0
    try:
        command_line()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
        code = 70
    facts = {"code": code, "seconds": spent() - before, "growth": peak() - held}
    home.with_suffix(".facts").write_text(json.dumps(facts))
    os._exit(0)


def outcome(child: int, home: Path) -> dict[str, Any]:
    """What became of a case, once it has ended or had to be ended."""
    deadline = time.monotonic() + WALL
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    said = home.with_suffix(".said").read_text(encoding="utf-8", errors="replace")
    left = [path.name for path in (home / "HACKED", home / "model" / "HACKED") if path.exists()]
    left += [f"runs/{path.name}" for path in (home / "runs").glob("*")]
    facts = {"code": -1, "seconds": float(WALL), "growth": 0.0}
    if home.with_suffix(".facts").exists():
        facts = json.loads(home.with_suffix(".facts").read_text())
    return {**facts, "said": said[-4_000:], "characters": len(said), "left": left}


def peak() -> float:
    """GiB that this process has had in memory at most; macOS counts bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def spent() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), Path(sys.argv[3]))
