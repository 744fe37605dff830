"""Preference steps in the loop: every schedule, the verdicts, and that nothing that stops a run changes its outcome."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import ConfigError  # noqa: E402
from optima_lite.learn.sft import Steps  # noqa: E402
from optima_lite.methods.optima import explore, plan, prefer  # noqa: E402
from optima_lite.methods.train import train, train_alone  # noqa: E402
from optima_lite.records import PreferencePair, Rollouts, Tree  # noqa: E402
from optima_lite.runs.folder import RunFolder, read_run  # noqa: E402
from optima_lite.runs.listing import runs  # noqa: E402
from optima_lite.runs.progress import Event, Note, PhaseStarted  # noqa: E402
from optima_lite.runs.rows import Pieces  # noqa: E402
from optima_lite.runs.steps import Verdict, imitations, preferences  # noqa: E402
from optima_lite.runs.summary import preparation_tokens  # noqa: E402
from optima_lite.settings.config import LoadedRecipe, load_recipe  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.stage import judge, preflight  # noqa: E402
from optima_lite.stage.baselines import ALONE  # noqa: E402
from optima_lite.stage.cast import recall  # noqa: E402
from optima_lite.stage.evaluate import examine  # noqa: E402
from support import MACHINE, SMALL, assert_same_run, small_chunks, start  # noqa: E402

PREFERRING = (
    SMALL.replace("selection: {", "selection: {pair_min_reward: -9, min_gap: 0, pair_keep_fraction: 1, ")
    .replace("training: {iterations: 2, questions: 4", "training: {iterations: 2, questions: 2")
    .replace("evaluation: {questions: 4", "evaluation: {questions: 2")
    + "search: {searches: 2, rollouts: 2}\n"
    + "dpo: {questions: 2, batch_size: 2, learning_rate: 1e-3, warmup_ratio: 0}\n"
    + "schedule: isft-dpo\n"
)
ADAPTER = "adapter_model.safetensors"


def loaded(folder: Path, *overrides: str) -> LoadedRecipe:
    """PREFERRING with changes."""
    (folder / "small.yaml").write_text(PREFERRING)
    return load_recipe(folder / "small.yaml", overrides=overrides)


def ran(folder: Path, *overrides: str) -> tuple[RunFolder, list[Event]]:
    """A run of it, begun or carried on, and what it told."""
    events: list[Event] = []
    small_chunks()
    machine = Machine(threads=1, max_batch_tokens=8192)
    train(loaded(folder.parent, *overrides), machine=machine, folder=folder, observe=events.append)
    return read_run(folder), events


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run of two iterations of both steps; for reading only."""
    return ran(tmp_path_factory.mktemp("hybrid") / "run")[0]


def weights(folder: Path) -> bytes:
    return (folder / ADAPTER).read_bytes()


def rewarded(monkeypatch: pytest.MonkeyPatch, *rewards: float) -> None:
    """The mean validation rewards that the judge is to see, one after another: first the untrained pair's. Two
    questions are enough for it, whose rewards lie .02 apart."""
    left = [*rewards]

    def next_rewards(self: judge.Judge, probe: object) -> list[float]:
        mean = left.pop(0)
        return [mean - 0.01, mean + 0.01]

    monkeypatch.setattr(judge.Judge, "_rewards", next_rewards)
    monkeypatch.setattr(judge, "FEWEST", 2)
    monkeypatch.setattr(preflight, "FEWEST", 2)


# --- Schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "iteration", "steps"),
    [
        ("isft", 0, ["imitate"]),
        ("isft", 3, ["imitate"]),
        ("idpo", 0, ["imitate"]),
        ("idpo", 1, ["prefer"]),
        ("isft-dpo", 0, ["imitate", "prefer"]),
        ("isft-dpo", 3, ["imitate", "prefer"]),
    ],
)
def test_the_steps_of_an_iteration(tmp_path: Path, schedule: str, iteration: int, steps: list[str]) -> None:
    assert [*plan.steps(loaded(tmp_path, f"schedule={schedule}").recipe, iteration)] == steps


def test_both_steps_leave_their_records(hybrid: RunFolder) -> None:
    for iteration in (0, 1):
        folder = hybrid.folder / f"iteration_{iteration:02d}"
        trees = hybrid.read(f"{folder.name}/6_trees", Tree)
        chosen = hybrid.read(f"{folder.name}/7_pairs", PreferencePair)
        assert [tree.nodes[0].visits for tree in trees] == [4, 4]
        assert chosen and {pair.question.id for pair in chosen} <= {tree.question.id for tree in trees}
        asked = {group.question.id for group in hybrid.read(f"{folder.name}/1_dialogues", Rollouts)}
        assert asked.isdisjoint({tree.question.id for tree in trees}), "no question is asked in both steps"
        facts = json.loads((folder / "8_adapter/training.json").read_text())
        assert facts["rows"] == len(chosen) and facts["steps"] == -(-len(chosen) // 2)
        assert weights(folder / "4_adapter") != weights(folder / "8_adapter"), "it has learnt something"
        for number in (5, 9):
            verdict = json.loads((folder / f"{number}_verdict.json").read_text())
            assert verdict["verdict"] == "keep"
            assert verdict["adapter"] == f"{folder.name}/{number - 1}_adapter"
            assert len(hybrid.read(f"{folder.name}/{number}_validation", Rollouts)) == 2
    searched = [{tree.question.id for tree in hybrid.read(f"iteration_0{i}/6_trees", Tree)} for i in (0, 1)]
    assert searched[0].isdisjoint(searched[1])
    assert [step.iteration for step in (*imitations(hybrid), *preferences(hybrid))] == [0, 1, 0, 1]
    sampled = sum(step.tokens for step in (*imitations(hybrid), *preferences(hybrid)))
    assert hybrid.read_json("summary.json")["training_tokens"] > sampled


def test_a_verdict_goes_on_from_the_one_before(hybrid: RunFolder) -> None:
    verdicts = [hybrid.read_json(f"iteration_0{i}/{n}_verdict.json") for i in (0, 1) for n in (5, 9)]
    assert [one["step"] for one in verdicts] == ["imitate", "prefer"] * 2
    assert [one["before"] for one in verdicts[1:]] == [one["after"] for one in verdicts[:-1]]


@pytest.mark.slow
def test_iterated_preference_begins_with_an_imitation_and_keeps_what_is_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewarded(monkeypatch, 0.5, 0.4, 0.6)
    run, events = ran(tmp_path / "run", "schedule=idpo", "dpo.sft_weight=1.0")
    names = {path.relative_to(run.folder).as_posix() for path in run.folder.glob("iteration_*/*_adapter")}
    assert names == {"iteration_00/4_adapter", "iteration_01/8_adapter"}
    phases = [(one.iteration, one.phase) for one in events if isinstance(one, PhaseStarted)]
    assert [name for name in phases if name[0] is not None and not name[1].startswith(("validate", "evaluate"))] == [
        (0, "generate"),
        (0, "rank"),
        (0, "train"),
        (1, "search"),
        (1, "prefer"),
    ]
    assert [step.iteration for step in imitations(run)] == [0]
    assert [step.iteration for step in preferences(run)] == [1]
    assert run.read_json("summary.json")["training_tokens"] > 0
    (described,) = runs(tmp_path)
    assert (described.iterations_done, described.finished) == (2, True)
    adapters = run.adapter(0), run.adapter(1)
    assert adapters == (run.folder / "iteration_00/4_adapter", run.folder / "iteration_01/8_adapter")
    assert run.read_json("iteration_00/5_verdict.json") == {
        "step": "imitate",
        "before": 0.5,
        "after": 0.4,
        "verdict": "keep",
        "interval": pytest.approx([-0.1, -0.1]),
        "adapter": "iteration_00/4_adapter",
    }
    warnings = [one.text for one in events if isinstance(one, Note) and "reward" in one.text]
    assert warnings == [
        "iteration 0: step `imitate` kept (training.on_worse: keep), though the validation reward fell by 0.100 "
        "[0.100, 0.100]"
    ]


# --- Verdicts -------------------------------------------------------------------------------------


def evaluated(run: RunFolder, iteration: int | None, name: str, *, greedy: bool = False) -> None:
    """The agents that are recalled say what the run's own evaluation has stored."""
    cast = recall(run, machine=Machine(), iteration=iteration)
    stored = run.read(name, Rollouts)
    recipe = cast.recipe
    again: list[Rollouts] = []
    asked = [group.question for group in stored]
    for part in Pieces(asked, [range(len(asked))]).split(cast.parts):
        again += examine(
            cast.team,
            part,
            sampling=cast.sampling(cast.team, greedy=greedy),
            seed=recipe.seed,
            settings=recipe.reward,
            advance=lambda done, **told: None,
        )
    assert again == stored


def test_a_step_that_is_worse_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In iteration 0 both steps fail, so the pair is as good as new; in iteration 1 only the second fails."""
    rewarded(monkeypatch, 0.5, 0.4, 0.3, 0.6, 0.5)
    run, events = ran(tmp_path / "run", "training.on_worse=revert")
    told = [one.text for one in events if isinstance(one, Note)]
    assert told[0] == "iteration 0: step `imitate` undone: the validation reward fell by 0.100 [0.100, 0.100]"
    assert told[0] in (run.folder / "log.txt").read_text()
    verdicts = [run.read_json(f"iteration_0{i}/{n}_verdict.json") for i in (0, 1) for n in (5, 9)]
    assert [(*(round(one[when], 9) for when in ("before", "after")), one["verdict"]) for one in verdicts] == [
        (0.5, 0.4, "revert"),
        (0.5, 0.3, "revert"),
        (0.5, 0.6, "keep"),
        (0.6, 0.5, "revert"),
    ]
    assert run.adapter(0) is None and run.adapter(1) == run.folder / "iteration_01/4_adapter"
    evaluated(run, 0, "evaluation/iteration_00_sampled")
    evaluated(run, 1, "evaluation/iteration_01_sampled")
    untrained = run.read("evaluation/untrained_sampled", Rollouts)
    assert run.read("evaluation/iteration_00_sampled", Rollouts) == untrained
    assert explore.stored_probe(run, 0) == run.read("validation/untrained", Rollouts)
    assert explore.stored_probe(run, 1) == run.read("iteration_01/5_validation", Rollouts)


def judged(before: list[float], after: list[float], *, on_worse: str = "revert") -> Verdict:
    """What becomes of a step with these rewards of the validation questions."""
    recipe = SimpleNamespace(training=SimpleNamespace(on_worse=on_worse))
    asked = SimpleNamespace(stage=SimpleNamespace(cast=SimpleNamespace(recipe=recipe)))
    return judge.Judge._verdict(asked, before, after)  # type: ignore[arg-type]


def test_a_fall_within_the_noise_is_no_reason_to_undo_a_step() -> None:
    """The mean falls by a twentieth, and every second question rises."""
    before = [1.0] * 50
    noisy = [1.0 + (0.6 if k % 2 else -0.7) for k in range(50)]
    found = judged(before, noisy)
    assert found.change == pytest.approx(-0.05) and found.verdict == "keep"
    assert found.interval is not None and found.interval[0] < 0 < found.interval[1]


@pytest.mark.parametrize(("on_worse", "verdict"), [("keep", "keep"), ("revert", "revert"), ("stop", "stop")])
def test_a_fall_beyond_the_noise_is_what_on_worse_is_for(on_worse: str, verdict: str) -> None:
    before = [float(k) for k in range(50)]  # questions differ far more than the step changes any of them
    after = [reward - 0.05 + (0.02 if k % 2 else -0.02) for k, reward in enumerate(before)]
    found = judged(before, after, on_worse=on_worse)
    assert found.verdict == verdict and found.interval is not None and found.interval[1] < 0


def test_too_few_questions_decide_nothing() -> None:
    assert judged([1.0] * 19, [0.0] * 19).verdict == "keep"
    assert judged([1.0] * 20, [0.0] * 20).verdict == "revert"
    assert judged([1.0], [0.0]).interval is None


def test_a_step_that_changes_nothing_is_seldom_undone() -> None:
    """Where nothing changes but the dice, one step in forty is undone; by two means it was every second one."""
    undone = 0
    for seed in range(400):
        draw = random.Random(seed)
        before, after = ([draw.gauss(0, 1) + k for k in range(50)] for _ in range(2))
        undone += judged(before, after).verdict == "revert"
    assert undone / 400 < 0.06


def test_both_sides_of_a_verdict_are_asked_the_same_with_the_same_dice(hybrid: RunFolder) -> None:
    probes = [hybrid.read(name, Rollouts) for name in ("validation/untrained", "iteration_00/9_validation")]
    assert [group.question for group in probes[0]] == [group.question for group in probes[1]]
    evaluated(hybrid, None, "validation/untrained")  # each asks with the seed that every evaluation has
    evaluated(hybrid, 0, "iteration_00/9_validation")


def test_too_few_validation_questions_are_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        ran(tmp_path / "run", "training.on_worse=revert", "evaluation.validation_questions=1")
    assert str(error.value) == (
        "evaluation.validation_questions is 1, too few to tell a worse step from bad luck, and training.on_worse is "
        "revert\n  try: evaluation.validation_questions=20 or more, or training.on_worse=keep"
    )
    assert not (tmp_path / "run").exists()


def test_a_stored_verdict_stands(hybrid: RunFolder, tmp_path: Path) -> None:
    """Those of earlier versions went by two means; what follows them was computed from the pair they left."""
    copy = shutil.copytree(hybrid.folder, tmp_path / "run")
    path = copy / "iteration_01/9_verdict.json"
    old = json.loads(path.read_text()) | {"verdict": "revert", "adapter": "iteration_01/4_adapter"}
    del old["interval"]
    path.write_text(json.dumps(old))
    (copy / "evaluation/iteration_01_greedy.jsonl").unlink()
    run, _ = ran(copy)
    assert run.adapter(1) == copy / "iteration_01/4_adapter"
    evaluated(run, 1, "evaluation/iteration_01_greedy", greedy=True)


def test_a_step_that_is_worse_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewarded(monkeypatch, 0.5, 0.4)
    run, _ = ran(tmp_path / "run", "training.on_worse=stop")
    assert run.read_json("iteration_00/5_verdict.json")["verdict"] == "stop"
    assert run.iterations() == [0] and not (run.folder / "iteration_00/6_trees.jsonl").exists()
    assert run.adapter(0) is None
    names = [row["name"] for row in run.read_json("summary.json")["evaluations"] if row["decoding"] == "greedy"]
    assert names == ["untrained", "single_agent", "iteration_0"]
    evaluated(run, 0, "evaluation/iteration_00_sampled")
    (described,) = runs(tmp_path)
    assert (described.iterations_done, described.iterations_planned, described.finished) == (1, 2, True)


def test_the_agents_of_a_run_are_those_of_its_last_adapter(hybrid: RunFolder) -> None:
    evaluated(hybrid, None, "evaluation/untrained_sampled")
    evaluated(hybrid, 1, "evaluation/iteration_01_sampled")


def test_the_single_agent_goes_through_both_steps_too(hybrid: RunFolder, tmp_path: Path) -> None:
    """Its tree is its question and its answers: all that a preference can be about. One iteration shows it."""
    run = read_run(shutil.copytree(hybrid.folder, tmp_path / "run"))
    cast = recall(run, machine=Machine(threads=1), iteration=1)
    once = cast.recipe.training.model_copy(update={"iterations": 1})
    cast = replace(cast, recipe=cast.recipe.model_copy(update={"training": once}))
    train_alone(cast, run, observe=lambda event: None)
    own = read_run(run.folder / ALONE)
    trees, theirs = (one.read("iteration_00/6_trees", Tree) for one in (own, run))
    assert [tree.question.id for tree in trees] == [tree.question.id for tree in theirs]
    assert all(node.parent in (None, 0) for tree in trees for node in tree.nodes)
    assert [tree.nodes[0].visits for tree in trees] == [4, 4]
    verdicts = [own.read_json(f"iteration_00/{n}_verdict.json") for n in (5, 9)]
    assert [one["step"] for one in verdicts] == ["imitate", "prefer"]
    assert preparation_tokens(own)[0]


# --- Resuming -------------------------------------------------------------------------------------


class Killed(BaseException):
    """As sudden as a kill, in this process."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a function of a module raise Killed after so many calls; undone at the end of the test, or by a call."""

    def kill(module: Any, name: str, *, after: int) -> None:
        monkeypatch.undo()
        function, left = getattr(module, name), [after]

        def failing(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, failing)

    yield kill
    monkeypatch.undo()


@pytest.mark.slow
def test_a_run_killed_in_search_in_pairing_and_in_training_ends_as_if_nothing_had_been(
    hybrid: RunFolder, tmp_path: Path, killing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    killing(explore, "search", after=1)
    with pytest.raises(Killed):
        ran(folder)
    assert len((folder / "iteration_00/6_trees.jsonl").read_bytes().splitlines()) == 1, "the first tree is kept"
    killing(prefer, "pairs", after=0)
    with pytest.raises(Killed):
        ran(folder)
    assert not (folder / "iteration_00/7_pairs.jsonl").exists()
    killing(Steps, "on_step_end", after=0)
    with pytest.raises(Killed):
        ran(folder)
    assert (folder / "iteration_00/7_pairs.jsonl").exists() and not (folder / "iteration_00/8_adapter").exists()
    monkeypatch.undo()
    ran(folder)
    assert_same_run(folder, hybrid.folder)


def test_pairs_that_were_deleted_are_chosen_again_and_what_follows_is_done_again(
    hybrid: RunFolder, tmp_path: Path
) -> None:
    copy = shutil.copytree(hybrid.folder, tmp_path / "run")
    (copy / "iteration_01/7_pairs.jsonl").unlink()
    before = {path: path.stat().st_mtime_ns for path in copy.glob("iteration_01/[1-6]_*.jsonl")}
    ran(copy)
    assert_same_run(copy, hybrid.folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_kills_during_a_preference_step_change_nothing(hybrid: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(PREFERRING)
    (tmp_path / "machine.toml").write_text(MACHINE)
    folder, step = tmp_path / "run", tmp_path / "run/iteration_01"
    arguments = ["train", tmp_path / "small.yaml", "--config", tmp_path / "machine.toml", "--run", folder]
    for reached in ("6_trees.jsonl", "7_pairs.jsonl", "8_adapter.tmp"):
        process = start(arguments, output=tmp_path / "printed.txt")
        deadline = time.monotonic() + 300
        while not (step / reached).exists():
            assert process.is_alive() and time.monotonic() < deadline, (tmp_path / "printed.txt").read_text()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    ran(folder)
    assert_same_run(folder, hybrid.folder)
