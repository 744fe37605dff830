"""What the tests of the loop share: a recipe that runs in seconds, and the command line called in this process."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optima_lite.model.policy import Policy
    from optima_lite.model.selftest import Agreement
    from optima_lite.stage.cast import Cast

SMALL = """\
model: {name: tiny}
task: {name: world}
protocol: {max_turns: 4}
prompts:
  system: You are {name}, working with {partner}.
  solo_system: You work alone. Think step by step.
sampling: {rollouts: 2, max_turn_tokens: 24}
reward: {readability: capped}
selection: {min_reward: -9}
training: {iterations: 2, questions: 4, epochs: 1, batch_size: 4, learning_rate: 2e-3, warmup_ratio: 0}
evaluation: {questions: 4, validation_questions: 2, stop_if_none_right: false}
"""
TINIER = (  # for what a run is only needed to have been one
    SMALL.replace("max_turns: 4", "max_turns: 2")
    .replace("{iterations: 2, questions: 4", "{iterations: 1, questions: 2")
    .replace("{questions: 4, validation_questions: 2", "{questions: 2, validation_questions: 1")
)
MACHINE = "threads = 1\nmax_batch_tokens = 8192\n"
CHUNK = 4  # dialogues written at a time in these runs, so that stages have several chunks


@dataclass(frozen=True)
class Finished:
    """A run of `support.SMALL` that nothing interrupted; its arguments, and what the command printed."""

    folder: Path
    arguments: tuple[str, ...]
    printed: str

    def at(self, home: Path) -> Finished:
        """The same run in another folder, to which its files have been copied; its machine file is written anew."""
        old = self.folder.parent
        (home / "machine.toml").write_text(_machine(home))
        arguments = tuple(argument.replace(str(old), str(home)) for argument in self.arguments)
        return Finished(home / self.folder.name, arguments, self.printed.replace(str(old), str(home)))


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The output of --json, a line each."""
        return [json.loads(line) for line in self.out.splitlines()]


def call(*arguments: str | Path, stdin: str = "") -> Outcome:
    """`optima-lite` with these arguments, in this process; anything but a clean exit is raised."""
    from typer.testing import CliRunner

    from optima_lite.cli.app import app

    before = sys.argv
    sys.argv = ["optima-lite", *map(str, arguments)]  # the command that an interrupted run suggests
    try:
        result = CliRunner().invoke(app, sys.argv[1:], input=stdin, catch_exceptions=False)
    finally:
        sys.argv = before
    return Outcome(result.exit_code, result.stdout, result.stderr)


def finish(home: Path) -> Finished:
    """The run of SMALL in a folder, made unless it is there already."""
    arguments, printed = (str(home / "small.yaml"), "--config", str(home / "machine.toml")), home / "printed.txt"
    if not printed.exists():
        home.mkdir(exist_ok=True)
        (home / "small.yaml").write_text(SMALL)
        (home / "machine.toml").write_text(_machine(home))
        small_chunks()
        outcome = call("train", *arguments)
        assert outcome.code == 0, outcome.err
        printed.write_text(outcome.out)
    return Finished(home / "small-seed0", arguments, printed.read_text())


def _machine(home: Path) -> str:
    return MACHINE + f'run_folder = "{home}"\n'


def copied(cast: Cast) -> Cast:
    """Agents of their own, but for what renders their prompts: that holds a lock, and nothing that could change."""
    renderer = cast.team.renderer
    return deepcopy(cast, {id(renderer): renderer})


def once_for_each_model(agreement: Callable[[Policy], Agreement]) -> Callable[[Policy], Agreement]:
    """The self-test, which a bundled model passes in one start as in the next."""
    known: dict[tuple[object, ...], Agreement] = {}

    def found(policy: Policy) -> Agreement:
        if policy.base not in ("tiny", "tiny-teams"):
            return agreement(policy)
        key = (policy.base, policy.model.dtype, policy.setup)
        if key not in known:
            known[key] = agreement(policy)
        return known[key]

    return found


def small_chunks() -> None:
    """From here on this process writes CHUNK dialogues at a time."""
    import optima_lite.stage.cast

    optima_lite.stage.cast.CHUNK = optima_lite.stage.cast.SMALL_CHUNK = CHUNK


def start(arguments: Sequence[str | Path], *, output: Path) -> Any:
    """`optima-lite` with these arguments as a process of its own, which takes no time to import anything.

    It is forked from a server that has imported everything and computed nothing; its output goes to a file.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optima_lite.methods.train", "optima_lite.runs.report", "scipy.stats"])
    process = context.Process(target=_run, args=([str(argument) for argument in arguments], str(output)))
    process.start()
    return process


def _run(arguments: list[str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    small_chunks()
    sys.argv = ["optima-lite", *arguments]
    from optima_lite.cli.app import main

    main()


def records(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder that an interrupted and resumed run has in common with an uninterrupted one."""
    apart = {"timings.jsonl", "summary.json", "log.txt", ".lock", ".pid"}
    below = {"adapter", "baselines", "scaling"}  # the adapter in force once more; what was asked of the agents later
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in apart)
    found = (path for path in files if path.relative_to(folder).parts[0] not in below)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_same_run(folder: Path, reference: Path, *, but: str | None = None) -> None:
    """The records are equal byte for byte, and so is the summary but for the time and the work it took. but: files of
    this name may differ."""
    here, there = records(folder), records(reference)
    assert here.keys() == there.keys()
    differing = [name for name in here if here[name] != there[name] and Path(name).name != but]
    assert not differing, differing
    cost = {"seconds": 0, "work": None}
    one, two = (json.loads((path / "summary.json").read_text()) | cost for path in (folder, reference))
    assert one == two
