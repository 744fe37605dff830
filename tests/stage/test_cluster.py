"""Two workers of a Ray cluster on this machine: the records of one process, whatever happens to workers and driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from safetensors.torch import load, load_file

from support import MACHINE, SMALL, Outcome, assert_same_run, call, records

pytestmark = pytest.mark.slow

WEIGHTS = "adapter_model.safetensors"

RECIPE = (
    SMALL.replace("iterations: 2, questions: 4", "iterations: 1, questions: 6")
    .replace("min_reward: -9", "min_reward: -9, min_gap: 0")
    .replace("{questions: 4, validation_questions: 2", "{questions: 6, validation_questions: 6")
    + "schedule: isft-dpo\nsearch: {searches: 2, rollouts: 2}\ndpo: {questions: 4, epochs: 1, batch_size: 2}\n"
)
SHARED = Path("/dev/shm")
# A team with a tool, which looks facts up.
TOOLS = RECIPE.replace("protocol: {max_turns: 4}\n", "team: decompose_retrieve_answer\n")
REINFORCE = (
    SMALL.replace("iterations: 2, questions: 4", "iterations: 1, questions: 6")
    .replace("selection: {min_reward: -9}\n", "")
    .replace(", epochs: 1, batch_size: 4, learning_rate: 2e-3, warmup_ratio: 0", "")
    + "method: reinforce\nreinforce: {batch_size: 8, learning_rate: 1e-3}\n"
)
# As a recipe of `method: prompts`, with prompts that the model writes.
PROMPTS = (
    "model: {name: tiny}\ntask: {name: world}\nmethod: prompts\nprotocol: {max_turns: 4}\n"
    "prompts: {system: 'You are {name}, working with {partner}.', formats: [arrows, json]}\n"
    "sampling: {max_turn_tokens: 24}\nreward: {readability: capped}\n"
    "prompt_search: {formats: true, written: 1, evaluations: 5, warm_up: 3, questions: 4, confirmation_questions: 2}\n"
    "evaluation: {questions: 2, stop_if_none_right: false}\n"
)
HURT = """
import os, signal, sys, threading
import psutil
import optima_lite
from optima_lite.runs.progress import Note, PhaseStarted

recipe, config, hurt = sys.argv[1], sys.argv[2], sys.argv[3:]
done = set()

def workers():
    below = psutil.Process().children(recursive=True)
    titles = {one: "".join(one.cmdline()) for one in below}
    found = [one for one in below if titles[one].startswith("ray::Worker")]
    return sorted(found, key=lambda one: "." not in titles[one])  # those at work, such as "ray::Worker.do", first

def strike(kind):
    there = workers()
    if there:
        os.kill(there[0].pid, signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        print("STRUCK", kind, flush=True)

def observe(event):
    if isinstance(event, Note):
        print("NOTE", event.text, flush=True)
    if isinstance(event, PhaseStarted):
        print("PHASE", event.phase, flush=True)
        for phase, kind in (one.split(":") for one in hurt):
            if event.phase == phase and phase not in done:
                done.add(phase)
                threading.Timer(0.2, strike, [kind]).start()

optima_lite.train(recipe, config=config, observe=observe)
"""


def files(home: Path, recipe: str = RECIPE, *, trainers: int = 1) -> Path:
    home.mkdir(exist_ok=True)
    (home / "small.yaml").write_text(recipe)
    (home / "one.toml").write_text(MACHINE + f'run_folder = "{home}/one"\n[cluster]\nchunk = 2\n')
    cluster = f'[cluster]\nengine = "ray"\nworkers = 2\ntrainers = {trainers}\nchunk = 2\n'
    (home / "two.toml").write_text(MACHINE + f'run_folder = "{home}/two"\n{cluster}')
    return home


def alone(home: Path) -> Path:
    outcome: Outcome = call("train", home / "small.yaml", "--config", home / "one.toml", "--quiet")
    assert outcome.code == 0, outcome.err
    return home / "one" / "small-seed0"


def begun(home: Path, *hurt: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HURT, str(home / "small.yaml"), str(home / "two.toml"), *hurt]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=home
    )


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=3_000)
    assert process.returncode == 0, said
    return said


def assert_same_but_for_rounding(folder: Path, reference: Path) -> None:
    """As `support.assert_same_run`, but for adapters: two who train together add a batch up in another order."""
    assert_same_run(folder, reference, but="adapter_model.safetensors")
    for file in reference.rglob("adapter_model.safetensors"):
        here, there = load_file(folder / file.relative_to(reference)), load_file(file)
        assert here.keys() == there.keys()
        assert max((here[name] - there[name]).abs().max() for name in here) < 1e-5


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return alone(files(tmp_path_factory.mktemp("reference")))


def test_a_worker_is_killed_in_every_phase_and_another_freezes(reference: Path, tmp_path: Path) -> None:
    """The second worker joins late, too: it is only hired when the first is there."""
    phases = ("evaluate untrained sampled", "generate", "train", "search", "prefer", "validate prefer")
    home = files(tmp_path / "home")
    said = ended(begun(home, *(f"{phase}:kill" for phase in phases), "rank:stop"))
    assert said.count("STRUCK kill") == len(phases) and said.count("STRUCK stop") == 1, said
    assert "a worker was lost" in said and "the step begins anew" in said
    assert_same_run(home / "two" / "small-seed0", reference)


def test_a_team_with_a_tool_says_and_learns_the_same(tmp_path: Path) -> None:
    """Both workers train together."""
    home = files(tmp_path / "home", TOOLS, trainers=2)
    ended(begun(home))
    assert_same_but_for_rounding(home / "two" / "small-seed0", alone(home))


def test_reinforcement_by_both_learns_the_same(tmp_path: Path) -> None:
    """Half a batch each adds up to a whole one but for the last bits, which no dialogue afterwards shows."""
    home = files(tmp_path / "home", REINFORCE, trainers=2)
    ended(begun(home))
    two, one = records(home / "two" / "small-seed0"), records(alone(home))
    assert two.keys() == one.keys()
    differing = {name for name in one if two[name] != one[name]}
    assert differing <= {f"iteration_00/4_adapter/{name}" for name in (WEIGHTS, "training.json", "README.md")}
    weights, others = (load(run[f"iteration_00/4_adapter/{WEIGHTS}"]) for run in (one, two))
    furthest = max(float((weights[name] - others[name]).abs().max()) for name in weights)
    assert furthest < 1e-4, "a tenth of a step"
    facts = json.loads(one["iteration_00/4_adapter/training.json"])
    assert facts["steps"] > 1 and json.loads(two["iteration_00/4_adapter/training.json"]) == pytest.approx(
        facts, abs=1e-4
    )


def test_a_trainer_lost_out_of_two_costs_no_record(reference: Path, tmp_path: Path) -> None:
    home = files(tmp_path / "home", trainers=2)
    said = ended(begun(home, "train:kill"))
    assert said.count("STRUCK kill") == 1 and "the step begins anew" in said, said
    assert_same_but_for_rounding(home / "two" / "small-seed0", reference)


def test_prompts_are_searched_for_by_both(tmp_path: Path) -> None:
    home = files(tmp_path / "home", PROMPTS)
    ended(begun(home))
    assert_same_run(home / "two" / "small-seed0", alone(home))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_leaves_nothing_running_and_is_resumed(
    how: signal.Signals, reference: Path, tmp_path: Path
) -> None:
    home, shared = files(tmp_path / "home"), set(SHARED.iterdir())
    process = begun(home)
    stored = home / "two" / "small-seed0" / "iteration_00" / "1_dialogues.jsonl"
    while not stored.exists():
        assert process.poll() is None
        time.sleep(0.1)
    below = psutil.Process(process.pid).children(recursive=True)
    assert any(one.name().startswith("ray::Worker") for one in below)
    os.kill(process.pid, how)
    process.communicate(timeout=120)
    _, alive = psutil.wait_procs(below, timeout=180)
    assert not alive
    assert not set(SHARED.iterdir()) - shared, "nor does memory stay that they shared"
    ended(begun(home))
    assert_same_run(home / "two" / "small-seed0", reference)
