"""The tutorial, followed to the letter in an empty folder: its rows, its recipe, its commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import Outcome, call

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"


def blocks(language: str) -> list[str]:
    """The code of the tutorial in a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What the tutorial's commands said, by their verb."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        exec(blocks("python")[0], {})
        (folder / "tickets.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
        commands = [line.split()[1:] for block in blocks("bash") for line in block.splitlines()]
        return {command[0]: call(*command) for command in commands}


def test_check_tells_the_splits_and_shows_what_each_agent_sees(followed: dict[str, Outcome]) -> None:
    outcome = followed["check"]
    assert outcome.code == 0, outcome.err
    for said in ("42 training questions", "6 validation questions", "12 held-out questions", "chance decides"):
        assert said in outcome.out
    alice, bob = outcome.out.split("Alice sees")[1].split("Bob sees")
    assert re.search(r"Ticket \d+: ", alice) and "Money goes to billing." not in alice
    assert "Money goes to billing." in bob.split("one agent alone")[0]
    assert not re.search(r"Ticket \d+: ", bob.split("one agent alone")[0])


def test_train_stops_and_says_why(followed: dict[str, Outcome]) -> None:
    outcome = followed["train"]
    assert outcome.code == 2
    assert "none of the 12 held-out questions was answered right before any training" in outcome.err
    assert "know the words of their own world alone" in outcome.err
    assert "evaluation.stop_if_none_right=false" in outcome.err
    assert "iteration 0" not in outcome.out


def test_three_files_are_a_setting_that_is_read() -> None:
    from optima_lite.settings.config import load_recipe

    stated = "task.path={train: train.jsonl, validation: dev.jsonl, held_out: test.jsonl}"
    assert "{train: train.jsonl, validation: dev.jsonl, held_out: test.jsonl}" in blocks("yaml")[1]
    path = load_recipe("gsm8k_jsonl", overrides=[stated]).recipe.task.path
    assert path == {"train": "train.jsonl", "validation": "dev.jsonl", "held_out": "test.jsonl"}
