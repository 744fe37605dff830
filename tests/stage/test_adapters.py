"""Adapters by role: who speaks and learns with which, what a run with several leaves behind, and kills."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import RunError  # noqa: E402
from optima_lite.learn.rollout import Agents, sample  # noqa: E402
from optima_lite.learn.sft import fine_tune  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.records import Rollouts, Turn  # noqa: E402
from optima_lite.runs.folder import IMITATED, read_run  # noqa: E402
from optima_lite.runs.store import Run  # noqa: E402
from optima_lite.settings.config import load_recipe  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.workflow import speaking_with  # noqa: E402
from optima_lite.stage.cast import Cast, assemble, recall  # noqa: E402
from optima_lite.stage.crew import Alone  # noqa: E402
from optima_lite.stage.lesson import Lesson, together  # noqa: E402
from optima_lite.stage.stage import Stage  # noqa: E402
from optima_lite.tasks.questions import questions  # noqa: E402
from support import MACHINE, SMALL, assert_same_run, call, small_chunks  # noqa: E402

TEAM = SMALL.replace("protocol: {max_turns: 4}\n", "team: exchange\n")
PREFERRING = (
    TEAM.replace("iterations: 2, questions: 4", "iterations: 1, questions: 2").replace(
        "min_reward: -9", "min_reward: -9, min_gap: 0"
    )
    + "schedule: isft-dpo\n"
    + "search: {searches: 1, rollouts: 2}\n"
    + "dpo: {epochs: 1, batch_size: 2}\n"
)


def cast_of(folder: Path, *overrides: str) -> Cast:
    (folder / "team.yaml").write_text(TEAM)
    recipe = load_recipe(folder / "team.yaml", overrides=overrides).recipe
    return assemble(recipe, machine=Machine(threads=1, max_batch_tokens=8192), settle=lambda key, choose: choose())


def held(policy: Policy) -> dict[str, list[Any]]:
    return {name: [weight.detach().clone() for weight in policy.weights(name)] for name in policy.names}


def same(one: list[Any], two: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def talked(agents: Agents, count: int = 2) -> list[Rollouts]:
    from optima_lite.model.sampling import Sampling

    asked = questions(load_recipe("quickstart").recipe.task, "train", count, seed=0)
    return sample(agents, asked, rollouts=2, sampling=Sampling(0.0, 1.0, 32), seed=(0,))


def adapted(cast: Cast, folder: Path, learners: set[int]) -> Path:
    """The stage's folder after a training step on what some speakers have said."""
    cast.policy.restart(seed=0)
    rows: dict[str, list[Any]] = {name: [] for name in cast.team.workflow.adapters}
    for group in talked(cast.team):
        for dialogue in group.dialogues:
            turns = tuple(replace(turn, ids=ended(turn, cast)) for turn in dialogue.turns)
            for speaker, (name, row) in enumerate(cast.team.lessons(group.question, replace(dialogue, turns=turns))):
                if speaker in learners:
                    rows[name].append(row)
    with Run.open(folder, {"recipe": cast.recipe.to_dict(), "recipe_name": "x"}) as run:
        stage = Stage(cast, run, lambda event: None, Alone(cast))
        return stage.adapt(Lesson(fine_tune, rows, cast.recipe.training, 0, IMITATED), label="train")


def ended(turn: Turn, cast: Cast) -> tuple[int, ...]:
    return turn.ids if turn.finished else (*turn.ids, cast.policy.end_ids[0])


def test_training_one_adapter_leaves_the_others_bit_for_bit(tmp_path: Path) -> None:
    cast = cast_of(tmp_path, "team.adapters=separate")
    cast.policy.restart(seed=0)
    before = held(cast.policy)
    folder = adapted(cast, tmp_path / "run", {1})
    after = held(cast.policy)
    assert same(after["Alice"], before["Alice"]) and not same(after["Bob"], before["Bob"])
    facts = {place: json.loads((folder / place / "training.json").read_text()) for place in ("Alice", "Bob", ".")}
    assert facts["Alice"]["rows"] == 0 and facts["Bob"]["rows"] > 0 and facts["."] == facts["Bob"]
    assert "It speaks for Bob alone." in (folder / "Bob" / "README.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["Alice", "Bob", "training.json"]


def test_a_shared_adapter_learns_for_all_roles_and_is_stored_as_ever(tmp_path: Path) -> None:
    cast = cast_of(tmp_path)
    before = held(cast.policy)
    folder = adapted(cast, tmp_path / "run", {1})
    assert not same(held(cast.policy)["shared"], before["shared"])
    assert {role.adapter for role in cast.team.workflow.roles} == {"shared"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    assert "Every agent of the team speaks with this adapter." in (folder / "README.md").read_text()


def test_everybody_speaks_with_the_own_adapter_and_equal_ones_say_what_a_shared_one_says(tmp_path: Path) -> None:
    cast = cast_of(tmp_path, "team.adapters=separate")
    policy = cast.policy
    policy.model.double()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights("Alice"):
            weight.normal_(0, 0.1)
    policy.hold(("Alice", "Bob"))
    separate = replace(cast.team, generator=Generator(policy, max_batch_tokens=4096))
    shared = replace(separate, workflow=speaking_with(separate.workflow, "Alice"))
    right = talked(shared)
    assert talked(separate) == right

    with torch.no_grad():
        for weight in policy.weights("Bob"):
            weight.normal_(0, 0.3)
    changed = 0
    for one, other in zip(talked(separate), right, strict=True):
        for dialogue, before in zip(one.dialogues, other.dialogues, strict=True):
            assert dialogue.turns[0] == before.turns[0], "Alice is who she was"
            changed += dialogue.turns[1:2] != before.turns[1:2]
    assert changed, "Bob is not"


def test_what_several_have_learnt_adds_up() -> None:
    one = {"rows": 2, "trainer_tokens": 100, "epochs": 1.0, "steps": 1, "loss": 3.0, "stopped": False}
    two = {"rows": 4, "trainer_tokens": 300, "epochs": 0.5, "steps": 3, "loss": 1.0, "stopped": True}
    none = {"rows": 0, "trainer_tokens": 0, "epochs": 0, "steps": 0, "loss": None, "stopped": False}
    assert together([one]) == together([none, one]) == one
    assert together([none, none]) == none
    total = {"rows": 6, "trainer_tokens": 400, "epochs": 0.625, "steps": 4, "loss": 1.5, "stopped": True}
    assert together([one, none, two]) == total


@pytest.mark.slow
def test_a_run_with_separate_adapters_survives_a_kill_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team.yaml").write_text(PREFERRING)
    (tmp_path / "machine.toml").write_text(MACHINE + "max_cache_gib = 1\n")
    given = ("train", tmp_path / "team.yaml", "team.adapters=separate", "--config", tmp_path / "machine.toml", "--run")
    small_chunks()
    outcome = call(*given, tmp_path / "whole")
    assert outcome.code == 0, outcome.err
    run = read_run(tmp_path / "whole")
    for step in ("4_adapter", "8_adapter"):
        rows = [run.read_json(f"iteration_00/{step}/{name}/training.json")["rows"] for name in ("Alice", "Bob")]
        assert run.read_json(f"iteration_00/{step}/training.json")["rows"] == sum(rows) > 0

    save, saved = Policy.save_adapter, list[str]()

    def killed(policy: Policy, folder: Path) -> None:
        saved.append(folder.name)
        if saved == ["Alice", "Bob", "Alice", "Bob"]:  # the last of the preference step
            raise KeyboardInterrupt
        save(policy, folder)

    monkeypatch.setattr(Policy, "save_adapter", killed)
    assert [call(*given, tmp_path / "run").code for _ in range(2)] == [130, 0]
    assert_same_run(tmp_path / "run", tmp_path / "whole")

    cast = recall(run, machine=Machine(threads=1), iteration=0)
    alice, bob = (cast.policy.weights(name) for name in ("Alice", "Bob"))
    assert not same(list(alice), list(bob))
    other = load_recipe(tmp_path / "team.yaml").recipe
    with pytest.raises(RunError, match="has trained Alice, Bob, and the other recipe's team speaks with shared"):
        recall(run, machine=Machine(threads=1), iteration=0, other=other)
