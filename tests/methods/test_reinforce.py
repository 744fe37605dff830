"""Reinforcement from end to end on the bundled model: what it writes, what the report tells, and that it resumes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from test_loop import interrupt_at, read

from optima_lite.methods.train import train_alone
from optima_lite.records import Payment, Rollouts
from optima_lite.runs.folder import read_run
from optima_lite.runs.summary import preparation_tokens
from optima_lite.settings.machine import Machine
from optima_lite.stage.baselines import ALONE
from optima_lite.stage.cast import recall
from support import MACHINE, SMALL, Finished, assert_same_run, call, small_chunks, start

ROOT = Path(__file__).resolve().parents[2]
# Two steps of reinforcement, with a value head for each of two adapters.
REINFORCED = (
    SMALL.replace("questions: 4, epochs: 1, batch_size: 4, learning_rate: 2e-3, warmup_ratio: 0", "questions: 3")
    .replace("evaluation: {questions: 4", "evaluation: {every: 9, questions: 2")
    .replace("protocol: {max_turns: 4}", "team: exchange")
    .replace("selection: {min_reward: -9}\n", "")
    + "method: reinforce\n"
    + "reinforce: {advantage: value, batch_size: 8, learning_rate: 1e-3, max_kl: 9}\n"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run, for reading only: copy the folder to change it."""
    home = tmp_path_factory.mktemp("reinforced")
    (home / "small.yaml").write_text(REINFORCED)
    (home / "machine.toml").write_text(MACHINE + f'run_folder = "{home}"\n')
    arguments = (str(home / "small.yaml"), "team.adapters=separate", "--config", str(home / "machine.toml"))
    small_chunks()
    outcome = call("train", *arguments, "--run", home / "run")
    assert outcome.code == 0, outcome.err
    return Finished(home / "run", arguments, outcome.out)


def verdict(folder: Path, iteration: int) -> Any:
    return json.loads((folder / f"iteration_{iteration:02d}/5_verdict.json").read_text())


def test_a_run_pays_each_message_and_trains_each_adapter_with_its_head(run: Finished) -> None:
    assert [verdict(run.folder, k)["step"] for k in range(2)] == ["reinforce", "reinforce"]
    for k in range(2):
        payments = read(run.folder / f"iteration_{k:02d}/3_payments.jsonl", Payment)
        ranked = read(run.folder / f"iteration_{k:02d}/2_rewards.jsonl", Rollouts)
        assert all(group.dialogues[0].format is None for group in ranked), "the format pool is for imitation"
        for payment, group in zip(payments, ranked, strict=True):
            assert payment.question == group.question.id
            for worth, dialogue, reward in zip(payment.rewards, group.dialogues, group.rewards, strict=True):
                assert worth == (reward.total,) * len(dialogue.turns)
        for name in ("Alice", "Bob"):
            place = run.folder / f"iteration_{k:02d}/4_adapter/{name}"
            assert (place / "value_head.safetensors").is_file() and (place / "README.md").is_file()
    heads = [path.read_bytes() for path in sorted(run.folder.rglob("value_head.safetensors"))]
    assert len(set(heads)) == 4, "each goes on learning"
    weights = [path.read_bytes() for path in run.folder.glob("iteration_*/4_adapter/*/adapter_model.safetensors")]
    assert len(set(weights)) == 4
    assert len([*run.folder.glob("evaluation/iteration_*.jsonl")]) == 2, "the held-out questions come at the end"


def test_its_tokens_count_as_preparation(run: Finished) -> None:
    spent = preparation_tokens(read_run(run.folder))
    assert all(isinstance(one, int) for one in spent.values())
    facts = json.loads((run.folder / "iteration_01/4_adapter/training.json").read_text())
    sampled = sum(
        len(turn.ids)
        for stage in ("1_dialogues", "5_validation")
        for group in read(run.folder / f"iteration_01/{stage}.jsonl", Rollouts)
        for dialogue in group.dialogues
        for turn in dialogue.turns
    )
    assert spent[1] - spent[0] == sampled + facts["trainer_tokens"]  # type: ignore[operator]


def test_the_report_has_a_table_of_it(run: Finished) -> None:
    told = call("report", run.folder).out
    table = told[told.index("reinforcement, iteration") :]
    for line in ("a message of Alice", "a message of Bob", "all worth the same", "error of the value head"):
        assert line in table
    steps = json.loads(call("report", run.folder, "--json").out)
    assert steps["imitations"] == [] and [one["iteration"] for one in steps["reinforcements"]] == [0, 1]
    assert steps["reinforcements"][0]["groups"] > 0


def test_a_stage_that_was_deleted_is_done_again_alike(run: Finished, tmp_path: Path) -> None:
    """Heads and adapters go on from those of the step before."""
    copied = shutil.copytree(run.folder, tmp_path / "run")
    (copied / "iteration_01/3_payments.jsonl").unlink()
    small_chunks()
    outcome = call("train", *run.arguments, "--run", copied)
    assert outcome.code == 0, outcome.err
    assert_same_run(copied, run.folder)


def test_the_single_agent_is_trained_as_the_team_was(run: Finished, tmp_path: Path) -> None:
    """By the rewards of its one message, with an adapter and a value head of its own."""
    team = read_run(shutil.copytree(run.folder, tmp_path / "run"))
    before = {path.relative_to(team.folder): path.read_bytes() for path in team.folder.rglob("*.jsonl")}
    small_chunks()
    train_alone(recall(team, machine=Machine(threads=1), iteration=None), team, observe=lambda event: None)
    own = read_run(team.folder / ALONE)
    for k in range(2):
        asked = [group.question.id for group in team.read(f"iteration_{k:02d}/2_rewards", Rollouts)]
        payments = own.read(f"iteration_{k:02d}/3_payments", Payment)
        assert [payment.question for payment in payments] == asked, "the same questions"
        assert {len(worth) for payment in payments for worth in payment.rewards} == {1}, "one message a dialogue"
        assert verdict(own.folder, k)["step"] == "reinforce"
        facts = own.read_json(f"iteration_{k:02d}/4_adapter/training.json")
        assert facts["rows"] == sum(len(payment.rewards) for payment in payments) and facts["steps"] > 0
    assert len({path.read_bytes() for path in team.folder.rglob("adapter_model.safetensors")}) == 6
    assert len({path.read_bytes() for path in team.folder.rglob("value_head.safetensors")}) == 6
    spent = preparation_tokens(own)
    assert spent[1] > spent[0] > 0  # type: ignore[operator]
    assert {name: (team.folder / name).read_bytes() for name in before} == before, "what the team had stays"


@pytest.mark.slow
def test_imitation_comes_first_where_it_is_wanted(run: Finished, tmp_path: Path) -> None:
    small_chunks()
    mixed = ("reinforce.imitations=1", "selection.min_reward=-9", "training.epochs=1")
    assert call("train", *run.arguments, *mixed, "--run", tmp_path / "run").code == 0
    assert [verdict(tmp_path / "run", k)["step"] for k in range(2)] == ["imitate", "reinforce"]
    stages = [{path.name for path in (tmp_path / "run").glob(f"iteration_{k:02d}/3_*")} for k in range(2)]
    assert stages == [{"3_demonstrations.jsonl"}, {"3_payments.jsonl"}]
    steps = json.loads(call("report", tmp_path / "run", "--json").out)
    assert [one["iteration"] for one in steps["imitations"]] == [0]
    assert [one["iteration"] for one in steps["reinforcements"]] == [1]


@pytest.mark.slow
def test_kills_change_nothing(run: Finished, tmp_path: Path) -> None:
    moments = random.Random()
    shares = sorted(moments.uniform(0.0, 0.9) for _ in range(6))
    print("moments:", shares)
    folder = tmp_path / "run"
    for share in shares:
        process = start(["train", *run.arguments, "--run", folder], output=tmp_path / "printed.txt")
        interrupt_at(folder, share, of=run.folder, process=process, with_signal=signal.SIGKILL, pause=moments.random())
        assert "Traceback" not in (tmp_path / "printed.txt").read_text()
    small_chunks()
    assert call("train", *run.arguments, "--run", folder).code == 0
    assert_same_run(folder, run.folder)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("schedule=isft-dpo", "schedule: is not read by method: reinforce"),
        ("selection.min_reward=1", "is read by method: reinforce where reinforce.imitations is above 0"),
        ("reinforce.gae_lambda=0.9", "reinforce.gae_lambda: is read with reinforce.advantage: value"),
        ("reinforce.kl_to=base", "reinforce.kl_to: is read where reinforce.kl_weight is above 0"),
        ("sampling.top_p=0.9", "sampling.top_p: must be 1 with method: reinforce"),
        ("sampling.rollouts=1", "sampling.rollouts: must be 2 or more where reinforce.advantage compares the runs"),
        ("reward.readability=inverse", "reward.readability: inverse has no upper bound"),
        ("reinforce.ratio=sequence reward.credit=difference", "reinforce.ratio: sequence gives all that an agent"),
        ("reinforce.roles=[Carol]", "reinforce.roles: names Carol, who has no part in the team"),
    ],
)
def test_settings_that_reinforcement_would_not_read_are_refused(override: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("model: {name: tiny}\ntask: {name: world}\nmethod: reinforce\n")
    outcome = call("check", tmp_path / "bare.yaml", *override.split(" "))
    assert outcome.code == 2 and why in " ".join(outcome.err.split()), outcome.err


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples of the signalling game, and its model."""
    home = tmp_path_factory.mktemp("signalling")
    made = subprocess.run([sys.executable, ROOT / "scripts" / "signalling.py", home / "model"], capture_output=True)
    assert made.returncode == 0, made.stderr
    for example in (ROOT / "examples" / "signalling").iterdir():
        if example.is_file():
            shutil.copyfile(example, home / example.name)
    (home / "machine.toml").write_text(MACHINE)
    return home


def played(game: Path, recipe: str, run: Path, *more: str) -> dict[tuple[str, str], float]:
    """The held-out scores of a run, by the line's name and decoding."""
    arguments = (f"model.name={game / 'model'}", *more, "--config", game / "machine.toml", "--run", run)
    outcome = call("train", game / recipe, *arguments)
    assert outcome.code == 0, outcome.err
    found = json.loads((run / "summary.json").read_text())["evaluations"]
    return {(row["name"], row["decoding"]): row["score"] for row in found}


@pytest.mark.slow
def test_what_is_rewarded_is_learnt_from_chance(game: Path, tmp_path: Path) -> None:
    """One agent of the signalling game's model, shown a symbol, is paid for saying it: nobody has to agree with it."""
    scores = played(game, "echo.yaml", tmp_path / "run")
    assert scores["untrained", "sampled"] < 0.4
    assert scores["iteration_19", "greedy"] > 0.9 and scores["iteration_19", "sampled"] > 0.6


@pytest.mark.slow
def test_a_sender_and_its_receivers_agree_on_a_code(game: Path, tmp_path: Path) -> None:
    """Nobody is told what a symbol means. The control is the same run in which the sender alone learns."""
    learnt = played(game, "signalling.yaml", tmp_path / "run")
    assert learnt["untrained", "sampled"] < 0.4
    settled = played(game, "signalling.yaml", tmp_path / "on", "--variant", "settled", f"start={tmp_path / 'run'}")
    assert settled["iteration_24", "greedy"] > 0.9 and settled["iteration_24", "sampled"] > 0.9
    alone = played(game, "signalling.yaml", tmp_path / "alone", "reinforce.roles=[Sender]", "team.adapters=separate")
    assert alone["iteration_29", "sampled"] < 0.5
