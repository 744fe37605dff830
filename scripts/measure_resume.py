"""What a start costs that finds everything done: a run of made-up dialogues, resumed by a process of its own (Linux).

    python scripts/measure_resume.py [--questions 10000] [--rollouts 10] [--turns 4] [--turn-tokens 60]

Out: the run folder's size, and of the resume the seconds of CPU time and the peak of resident memory; the same for a
start that finds no question at all, which is what Python, its libraries and the model take.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optima_lite.learn.sft import TrainingFacts
from optima_lite.methods.optima import imitate
from optima_lite.methods.train import train
from optima_lite.records import Dialogue, Ending, Question, Reward, Rollouts, Turn
from optima_lite.runs.progress import silent
from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Machine
from optima_lite.stage import dialogues

MACHINE = "threads = 1\nmax_batch_tokens = 8192\n"
RECIPE = """\
model: {{name: tiny}}
task: {{name: world}}
sampling: {{rollouts: {rollouts}, max_turn_tokens: {turn_tokens}}}
protocol: {{max_turns: {turns}}}
selection: {{min_reward: -9}}
training: {{iterations: 1, questions: {questions}, epochs: 1}}
evaluation: {{questions: 2, validation_questions: 2}}
"""
IDS = 128_256  # a vocabulary of today: few of its ids are among the small numbers that Python keeps at hand


def main() -> None:
    """Make the run up, then resume it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("questions", 10_000), ("rollouts", 10), ("turns", 4), ("turn-tokens", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    shape = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as scratch:
        bare = resumed(Path(scratch) / "bare", **shape | {"questions": 1})
        full = resumed(Path(scratch) / "full", **shape)
    for name, (size, seconds, peak) in (("nothing", bare), (f"{shape['questions'] * shape['rollouts']:,}", full)):
        print(f"{name} dialogues: {size:,.1f} MiB on disk, {seconds:.1f} s of CPU time, peak {peak:,.0f} MiB")


def resumed(folder: Path, **shape: int) -> tuple[float, float, float]:
    """MiB on the disk, seconds of CPU time and peak MiB of a start that finds a finished run of this shape."""
    folder.mkdir()
    recipe, machine = folder / "recipe.yaml", folder / "machine.toml"
    recipe.write_text(RECIPE.format(**shape))
    machine.write_text(MACHINE)
    make_up(recipe, folder / "run", **shape)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "optima_lite", "train", recipe, "--run", folder / "run", "--config", machine, "-q"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return size, seconds, after.ru_maxrss / 2**10


def make_up(recipe: Path, folder: Path, *, rollouts: int, turns: int, turn_tokens: int, **_: int) -> None:
    """A finished run whose dialogues nobody has held and from which nothing was learnt."""
    draw = random.Random(0)

    def dialogue(question: Question, number: int) -> Dialogue:
        said = [[draw.randrange(IDS) for _ in range(turn_tokens)] for _ in range(turns)]
        told = tuple(Turn(k % 2, tuple(ids), " ".join(f"{i:x}" for i in ids)) for k, ids in enumerate(said))
        return Dialogue(question.id, number, told, Ending.MAX_TURNS)

    def sample(agents: Any, questions: Sequence[Question], **_: Any) -> list[Rollouts]:
        return [Rollouts(one, tuple(dialogue(one, k) for k in range(rollouts))) for one in questions]

    def ranked(agents: Any, groups: Sequence[Rollouts], **_: Any) -> list[Rollouts]:
        rewards = tuple(Reward(draw.random(), 1.0, draw.random(), draw.random(), 2.0) for _ in range(rollouts))
        return [Rollouts(one.question, one.dialogues, rewards) for one in groups]

    def fine_tune(policy: Any, rows: Sequence[Any], **_: Any) -> TrainingFacts:
        return TrainingFacts(rows=len(rows), trainer_tokens=0, epochs=1, steps=1, loss=None)

    vars(dialogues).update(sample=sample, ranked=ranked)
    vars(imitate).update(fine_tune=fine_tune)
    train(load_recipe(recipe), machine=Machine(threads=1, max_batch_tokens=8192), folder=folder, observe=silent)


if __name__ == "__main__":
    main()
