"""The loop from end to end on the bundled model: what it writes, and that nothing that stops it changes the outcome."""

from __future__ import annotations

import errno
import json
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.records import Demonstration, Rollouts, from_json
from optima_lite.runs.store import Run
from support import SMALL, Finished, assert_same_run, call, records, small_chunks, start

GO_ON = "stopped; what is complete is kept. Go on with: optima-lite train"
ROW = {
    "name": str,
    "decoding": str,
    "questions": int,
    "score": float,
    "score_low": float,
    "score_high": float,
    "tokens": float,
    "tokens_low": float,
    "tokens_high": float,
    "turns": float,
    "agreement": float,
    "tokens_per_correct": float | None,
    "readability_loss": float,
    "flexible_score": float,
    "undecided": int,
    "hotpot_f1": float,
}


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished.folder, tmp_path / "copy")


def read(path: Path, kind: type[Any]) -> list[Any]:
    return [from_json(kind, json.loads(line)) for line in path.read_text().splitlines()]


def size(folder: Path) -> int:
    """How far a run has come, in bytes of its records; while it goes on, folders and files are renamed."""
    found = 0
    for place, _, names in os.walk(folder):  # unlike rglob it does not mind when a folder is gone
        for name in names:
            if name.endswith(".jsonl") and name != "timings.jsonl":
                with suppress(FileNotFoundError):
                    found += (Path(place) / name).stat().st_size
    return found


def interrupt_at(folder: Path, share: float, *, of: Path, process: Any, with_signal: int, pause: float = 0.0) -> None:
    """Sends a signal once the run has written this share of all its records, or at its start for 0."""
    deadline = time.monotonic() + 300
    while not (folder / "manifest.json").exists() or size(folder) < share * size(of):
        assert process.is_alive(), f"it ended by itself with {process.exitcode}"
        assert time.monotonic() < deadline, "it has come to nothing"
        time.sleep(0.005)
    time.sleep(pause)
    os.kill(process.pid, with_signal)
    process.join(60)
    assert process.exitcode is not None


# --- What a run leaves ----------------------------------------------------------------------------


def test_the_summary_has_its_promised_shape(finished: Finished) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert list(summary) == [
        "recipe",
        "seed",
        "adapter",
        "seconds",
        "work",
        "training_tokens",
        "validation_tokens",
        "evaluations",
    ]
    assert (summary["recipe"], summary["seed"]) == ("small", 0)
    assert summary["seconds"] > 0
    assert [(row["name"], row["decoding"]) for row in summary["evaluations"]] == [
        ("untrained", "sampled"),
        ("untrained", "greedy"),
        ("single_agent", "sampled"),
        ("single_agent", "greedy"),
        ("iteration_0", "sampled"),
        ("iteration_1", "sampled"),
        ("iteration_1", "greedy"),
    ]
    for row in summary["evaluations"]:
        assert list(row) == list(ROW)
        assert all(isinstance(row[key], kind) for key, kind in ROW.items()), row
        assert row["questions"] == 4 and row["score_low"] <= row["score"] <= row["score_high"]


def test_training_tokens_are_sampled_plus_trained_ones(finished: Finished) -> None:
    tokens = 0
    for iteration in finished.folder.glob("iteration_*"):
        rollouts = read(iteration / "1_dialogues.jsonl", Rollouts)
        tokens += sum(dialogue.tokens for group in rollouts for dialogue in group.dialogues)
        facts = json.loads((iteration / "4_adapter" / "training.json").read_text())
        assert facts["steps"] > 0 and facts["loss"] > 0
        tokens += facts["trainer_tokens"] * facts["epochs"]
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary["training_tokens"] == tokens
    probes = [finished.folder / "validation/untrained.jsonl", *finished.folder.glob("iteration_*/5_validation.jsonl")]
    judged = [dialogue.tokens for path in probes for group in read(path, Rollouts) for dialogue in group.dialogues]
    assert len(judged) == 3 * 2 and summary["validation_tokens"] == sum(judged)


def test_every_arrow_is_a_file_with_the_record_of_its_type(finished: Finished) -> None:
    for number, iteration in enumerate(sorted(finished.folder.glob("iteration_*"))):
        dialogues = read(iteration / "1_dialogues.jsonl", Rollouts)
        rewards = read(iteration / "2_rewards.jsonl", Rollouts)
        chosen = read(iteration / "3_demonstrations.jsonl", Demonstration)
        assert [group.dialogues for group in rewards] == [group.dialogues for group in dialogues]
        assert [len(group.dialogues) for group in dialogues] == [2] * 4
        assert all(len(group.rewards) == 2 for group in rewards)
        formats = {dialogue.format for group in dialogues for dialogue in group.dialogues}
        assert (formats == {None}) == (number > 0), "the pool is for iteration 0 only"
        found = {
            (group.question, d): r for group in rewards for d, r in zip(group.dialogues, group.rewards, strict=True)
        }
        assert chosen and all(found[(one.question, one.dialogue)] == one.reward for one in chosen)


def test_no_question_is_asked_in_two_iterations_or_splits(finished: Finished) -> None:
    asked = [
        {group.question.id for group in read(path, Rollouts)}
        for path in [
            *finished.folder.glob("iteration_*/1_dialogues.jsonl"),
            finished.folder / "validation/untrained.jsonl",
        ]
    ]
    held_out = [{group.question.id for group in read(p, Rollouts)} for p in finished.folder.glob("evaluation/*.jsonl")]
    assert len(held_out) == 7 and all(ids == held_out[0] for ids in held_out), "the same for every model"
    parts = [*asked, held_out[0]]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_every_iteration_trains_another_adapter(finished: Finished) -> None:
    weights = [path.read_bytes() for path in finished.folder.rglob("adapter_model.safetensors")]
    assert len(weights) == len(set(weights)) == 2


def test_nothing_in_the_folder_is_pickled_or_left_over(finished: Finished) -> None:
    endings = {path.suffix for path in finished.folder.rglob("*") if path.is_file()}
    assert endings <= {".json", ".jsonl", ".safetensors", ".md", ".txt", ""}
    assert not [path for path in finished.folder.rglob("*.tmp")]


# --- Resuming -------------------------------------------------------------------------------------


def test_a_finished_run_prints_its_table_and_changes_nothing(finished: Finished) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.jsonl") if path.name != "timings.jsonl"
    }
    outcome = call("train", *finished.arguments)
    assert outcome.code == 0
    assert f"finished already in {finished.folder}" in outcome.out
    assert (
        outcome.out[outcome.out.index("evaluation ") :] == finished.printed[finished.printed.rindex("evaluation  ") :]
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before


def survive(
    finished: Finished, folder: Path, *, shares: list[float], pause: Callable[[], float], monkeypatch: Any
) -> None:
    """Ctrl-C, full disk, kills: each at a later moment; then the end, which must be the uninterrupted run's."""
    arguments = ["train", *finished.arguments, "--run", folder]
    printed = folder.with_name("printed.txt")
    for number, share in enumerate(shares):
        process = start(arguments, output=printed)
        stop = signal.SIGINT if number == 0 else signal.SIGKILL
        interrupt_at(folder, share, of=finished.folder, process=process, with_signal=stop, pause=pause())
        said = printed.read_text()
        if stop == signal.SIGINT:
            assert process.exitcode == 130, said
            assert said.splitlines()[-1] == f"{GO_ON} {' '.join(map(str, arguments[1:]))}"
        assert "Traceback" not in said, said
    fill_the_disk(monkeypatch, after=3)
    outcome = call(*arguments)
    monkeypatch.undo()
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert "cannot be written: the disk is full" in outcome.err
    assert outcome.err.rstrip().endswith(
        "try: free some space, then run the same command again; every complete chunk is kept"
    )
    small_chunks()
    assert call(*arguments).code == 0
    assert_same_run(folder, finished.folder)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """From the given number of appended chunks on there is no room."""
    left, write = [after], os.write

    def failing(descriptor: int, data: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)


def test_a_run_that_is_interrupted_killed_and_out_of_disk_ends_as_if_nothing_had_been(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survive(finished, tmp_path / "run", shares=[0.2, 0.7], pause=lambda: 0.1, monkeypatch=monkeypatch)


@pytest.mark.slow
def test_ten_kills_change_nothing(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At other moments every time."""
    moments = random.Random()
    shares = sorted(moments.uniform(0.0, 0.9) for _ in range(11))
    print("moments:", shares)
    survive(finished, tmp_path / "run", shares=shares, pause=lambda: moments.uniform(0, 0.3), monkeypatch=monkeypatch)


@pytest.mark.parametrize("name", ["iteration_01/2_rewards.jsonl", "evaluation/single_agent_sampled.jsonl"])
def test_a_stage_that_was_deleted_is_done_again_and_so_is_what_follows(
    finished: Finished, copied: Path, name: str
) -> None:
    kept = {path: path.stat().st_mtime_ns for path in copied.glob("iteration_00/*.jsonl")}
    gone = copied / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    outcome = call("train", *finished.arguments, "--run", copied)
    assert outcome.code == 0, outcome.err
    assert_same_run(copied, finished.folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_profile_tells_where_the_time_went(finished: Finished, copied: Path) -> None:
    (evaluated := next((copied / "evaluation").glob("iteration_*_greedy.jsonl"))).unlink()
    outcome = call("train", *finished.arguments, "--run", copied, "--profile")
    assert outcome.code == 0, outcome.err
    assert evaluated.exists() and "where the time went (seconds)" in outcome.out
    profile = json.loads((copied / "profile.json").read_text())
    assert list(profile)[-1] == "everything else"
    work = profile["evaluate"]
    assert work["generate"] > 0 and work["loss"] > 0 and work["arrange"] > 0 and work["train"] == 0 < work["tokens"]
    assert work["generate"] + work["loss"] + work["arrange"] <= work["seconds"] + 0.01


def test_a_torn_tail_is_computed_again(finished: Finished, copied: Path) -> None:
    (copied / "summary.json").unlink()
    path = copied / "evaluation/iteration_01_greedy.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    path.with_suffix(".json").unlink()
    assert call("train", *finished.arguments, "--run", copied).code == 0
    assert_same_run(copied, finished.folder)


def test_iterations_may_grow(finished: Finished, copied: Path) -> None:
    before = records(copied)
    outcome = call("train", *finished.arguments, "training.iterations=3", "--run", copied)
    assert outcome.code == 0
    assert "iteration 2 generate" in outcome.out, "the new iteration shows its progress"
    after = records(copied)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert (copied / "iteration_02/4_adapter/adapter_model.safetensors").is_file()
    names = [row["name"] for row in json.loads((copied / "summary.json").read_text())["evaluations"]]
    assert names[-3:] == ["iteration_1", "iteration_2", "iteration_2"]


# --- Refusing -------------------------------------------------------------------------------------


def test_another_recipe_is_refused_with_the_difference(finished: Finished) -> None:
    before = records(finished.folder)
    outcome = call(
        "train", *finished.arguments, "sampling.rollouts=4", "reward.token_weight=0.1", "--run", finished.folder
    )
    assert outcome.code == 2
    assert outcome.err == (
        f"error {finished.folder}: holds a run of another recipe:\n"
        "  sampling.rollouts: 2 -> 4\n"
        "  reward.token_weight: 0.6 -> 0.1\n"
        "  try: --run OTHER to start a new run; to resume this one, undo the changes, or add sampling.rollouts=2 "
        "reward.token_weight=0.6\n"
    )
    assert "finished already" not in outcome.out
    assert records(finished.folder) == before


def test_a_recipe_that_was_changed_by_others_goes_on_with_what_the_message_says(
    finished: Finished, tmp_path: Path
) -> None:
    """A new version of a shipped recipe, say: nothing that its user could undo in a file."""
    changed = SMALL.replace("You are {name}", "I'm {name}").replace("rollouts: 2", "rollouts: 3, temperature: 0.5")
    (tmp_path / "small.yaml").write_text(changed)
    command = ("train", tmp_path / "small.yaml", *finished.arguments[1:], "--run", finished.folder)
    added = call(*command).err.partition("or add ")[2]
    assert "prompts.system" in added and "sampling.rollouts=2" in added
    outcome = call(*command, *shlex.split(added))
    assert (outcome.code, outcome.err) == (0, "")


def test_fewer_iterations_are_another_recipe(finished: Finished) -> None:
    outcome = call("train", *finished.arguments, "training.iterations=1", "--run", finished.folder)
    assert outcome.code == 2 and "training.iterations: 2 -> 1" in outcome.err


def test_a_run_that_another_process_works_on_is_refused(finished: Finished) -> None:
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    with Run.open(finished.folder, manifest):
        outcome = call("train", *finished.arguments)
    assert outcome.code == 2
    assert outcome.err == (
        f"error {finished.folder}: another process (pid {os.getpid()}) is working in this run folder\n"
        "  try: wait until it is done or stop it; or --run OTHER\n"
    )


def test_a_folder_that_is_no_run_is_refused(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    outcome = call("train", *finished.arguments, "--run", tmp_path)
    assert outcome.code == 2
    assert outcome.err == (
        f"error {tmp_path}: holds other files and no manifest.json, so it is not a run folder\n"
        "  try: --run OTHER, or an empty folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_read_only_place_is_refused(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **named: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    outcome = call("train", *finished.arguments, "--run", tmp_path / "run")
    monkeypatch.undo()
    assert outcome.code == 2
    assert outcome.err == (
        f"error {tmp_path / 'run'}: cannot be written: the file system is read-only\n"
        "  try: make the folder writable, or use --run OTHER, then run the same command again; "
        "every complete chunk is kept\n"
    )


# --- From Python ----------------------------------------------------------------------------------


def test_the_loop_is_a_function_too_as_often_as_one_likes(finished: Finished) -> None:
    import optima_lite
    from optima_lite.runs.progress import RunStarted

    recipe, _, machine = finished.arguments
    events: list[Any] = []
    for _ in range(2):
        summary = optima_lite.train(recipe, config=machine, observe=events.append)
        assert summary == json.loads((finished.folder / "summary.json").read_text())
    assert [event.resumed for event in events if isinstance(event, RunStarted)] == [True, True]
