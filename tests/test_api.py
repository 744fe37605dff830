"""The functions of the package: they do what the command line does, print nothing and refuse what it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import optima_lite
from optima_lite.errors import DataError, RunError
from optima_lite.records import Question
from support import SMALL, call, records

if TYPE_CHECKING:
    from optima_lite.stage.asking import Team
    from support import Finished

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def team(finished: Finished) -> Team:
    """The trained agents of the finished run."""
    return optima_lite.load(finished.folder)


def test_every_public_name_is_there_and_no_other() -> None:
    for name in optima_lite.__all__:
        assert getattr(optima_lite, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", optima_lite.__version__)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        optima_lite.tarin  # noqa: B018


def test_a_run_is_read_without_being_changed(finished: Finished) -> None:
    before = records(finished.folder)
    run = optima_lite.open_run(finished.folder)
    assert run.iterations == (0, 1) and run.recipe["training"]["questions"] == 4
    names = [(row.name, row.decoding) for row in run.evaluations]
    assert names[0] == ("untrained", "sampled") and names[-1] == ("iteration_1", "greedy")
    assert [len(found.dialogues) for found in run.dialogues()] == [1] * 4
    stored = {(row.name, row.decoding): row.tokens for row in run.evaluations}
    for name, iteration in (("iteration_1", "last"), ("iteration_0", 0), ("untrained", "untrained")):
        tokens = [found.dialogues[0].tokens for found in run.dialogues(iteration)]
        assert sum(tokens) / 4 == stored[name, "sampled"]
    assert list(run.dialogues(0, decoding="greedy")) == []
    assert [len(found.dialogues) for found in run.rollouts(0)] == [2] * 4
    assert run.adapter("untrained") is None and run.adapter() == finished.folder / "iteration_01/4_adapter"
    assert optima_lite.open_run(finished.folder.name, config=finished.arguments[2]).folder == finished.folder
    assert records(finished.folder) == before


def test_what_is_not_there_is_refused(finished: Finished) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        optima_lite.open_run("nowhere")
    run = optima_lite.open_run(finished.folder)
    for read in (run.adapter, run.dialogues, run.rollouts, lambda wanted: optima_lite.load(run, iteration=wanted)):
        with pytest.raises(RunError, match="no iteration 7"):
            read(7)
        with pytest.raises(RunError, match="'best' is no iteration"):
            read("best")
    with pytest.raises(RunError, match="'loud' is no decoding"):
        run.dialogues(decoding="loud")


def test_the_team_says_what_it_said_in_the_run(finished: Finished, team: Team) -> None:
    run = optima_lite.open_run(finished.folder)
    for found in run.dialogues("last", decoding="greedy"):
        again = team.ask(found.question)
        assert [turn.text for turn in again.turns] == [turn.text for turn in found.dialogues[0].turns]
        assert [turn.role for turn in again.turns] == [team.roles[turn.speaker] for turn in found.dialogues[0].turns]
        assert (again.answer, again.ending, again.tokens) == (
            found.dialogues[0].answer,
            found.dialogues[0].ending,
            found.dialogues[0].tokens,
        )


def test_a_seed_decides_what_is_sampled_and_every_turn_is_heard(team: Team) -> None:
    heard: list[Any] = []
    one = team.ask("Who?", ["Mira mother Tess"], sample=True, seed=1, hear=heard.append)
    assert tuple(heard) == one.turns and sum(turn.tokens for turn in one.turns) == one.tokens
    assert team.ask("Who?", ["Mira mother Tess"], sample=True, seed=1) == one
    assert any(team.ask("Who?", ["Mira mother Tess"], sample=True, seed=seed) != one for seed in (2, 3, 4))


def test_it_prints_nothing(finished: Finished, capfd: pytest.CaptureFixture[str]) -> None:
    optima_lite.load(finished.folder).ask("Who?", ["Mira mother Tess"])
    optima_lite.train(finished.arguments[0], config=finished.arguments[2])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("facts", "first", "second"),
    [
        ((), (), ()),
        (["a", "b", "c"], ("a", "c"), ("b",)),
        ([["a", "b"], []], ("a", "b"), ()),
        ({"Bob": ["b"]}, (), ("b",)),
    ],
)
def test_facts_come_into_hands(facts: Any, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    from optima_lite.stage.asking import hands
    from optima_lite.team.talks import exchange

    assert hands(facts, exchange(("Alice", "Bob"), 4)) == (first, second)


def test_where_everyone_sees_everything_there_is_one_list() -> None:
    from optima_lite.stage.asking import hands
    from optima_lite.team.talks import debate

    team = debate(("Ann", "Ben"), 4)
    assert hands(["a", "b"], team) == (("a", "b"), ())
    for facts in ([["a"], ["b"]], {"Ann": ["a"]}):
        with pytest.raises(DataError, match=r"facts: .*(no agent has a share|nobody does)"):
            hands(facts, team)


@pytest.mark.parametrize(
    ("question", "facts", "told"),
    [
        ("Who?", "Mira mother Tess", "must be a list of texts, not one text"),
        ("Who?", [["a"]], "holds 1 lists, where there must be one for each of the 2 that hold a share: Alice, Bob"),
        ("Who?", {"Alcie": ["a"]}, "Alcie holds no share of the facts; did you mean Alice"),
        ("Who?", {"Alice": "a"}, "must be texts in a list"),
        ("Who?", ["a", ["b"]], "must be texts in a list"),
        (" ", ["a"], "there is no question"),
        (Question("q", "Who?", ("",), ((), ())), ["a"], "has its own facts"),
    ],
)
def test_facts_that_cannot_be_handed_out_are_refused(team: Team, question: Any, facts: Any, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        team.ask(question, facts)


def test_evaluate_and_search_are_those_of_the_command_line(finished: Finished) -> None:
    rows = optima_lite.evaluate(finished.folder, iteration=0, questions=2, seed=5)
    printed = call("eval", finished.folder, "-i", "0", "--questions", "2", "--seed", "5", "--json").events
    found = [(event["row"]["decoding"], event["row"]["tokens"]) for event in printed if event["event"] == "evaluated"]
    assert [(row.decoding, row.tokens) for row in rows] == found
    (tree,) = optima_lite.search(finished.folder)
    assert f"{tree.sampled:,} tokens sampled" in call("search", finished.folder, "--quiet").out


def test_the_examples_of_the_document_run(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`quickstart` is a file with a small recipe here, whose run is there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "quickstart").write_text(SMALL, encoding="utf-8")
    shutil.copytree(finished.folder, tmp_path / "runs/quickstart-seed0")
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(snippet, names)
    printed = capsys.readouterr().out
    assert "iteration_1 greedy" in printed and "Alice: " in printed and "4_adapter" in printed
