"""Code of the user's own: found by its names, told about, hashed; its mistakes are told with file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from optima_lite.errors import ConfigError
from optima_lite.settings.config import load_recipe
from optima_lite.settings.plugin import load, load_file
from support import MACHINE, call

TEXT = (Path(__file__).resolve().parents[2] / "docs/plugins.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# (\w+\.\w+)\n(.*?)```", TEXT, re.DOTALL))
GOOD = "from optima_lite import Question\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with everything that the document shows, and a machine file."""
    for name, content in BLOCKS.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "optima_lite.toml").write_text(MACHINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dialogues(run: Path) -> list[Any]:
    """What the first iteration of a run has sampled."""
    return [json.loads(line) for line in (run / "iteration_00/1_dialogues.jsonl").read_text().splitlines()]


def test_a_task_of_ones_own_trains_resumes_and_opens_as_long_as_its_code_is_the_same(here: Path) -> None:
    checked = call("check", "sums.yaml", "--no-probe", "--show", "1")
    assert "runs code of yours: sums.py (questions)" in checked.out and "The box holds" in checked.out, checked.err
    outcome = call("train", "sums.yaml")
    assert outcome.code == 0, outcome.err
    assert "runs code of yours: sums.py (questions)" in outcome.out + outcome.err
    manifest = json.loads((here / "runs/sums-seed0/manifest.json").read_text())
    code = load(here / "sums.yaml", "sums.py")
    assert manifest["plugin"] == {"path": str(code.path), "sha256": code.sha256}
    rows = dialogues(here / "runs/sums-seed0")
    assert [row["question"]["id"] for row in rows] == ["train-0-0", "train-0-1"]
    assert call("chat", "sums-seed0", "--sample", "1", "--greedy").code == 0
    assert call("train", "sums.yaml").code == 0

    with (here / "sums.py").open("a") as file:
        file.write("# another content\n")
    for arguments in (["train", "sums.yaml"], ["chat", "sums-seed0", "--sample", "1"]):
        outcome = call(*arguments)
        assert outcome.code == 2 and "has changed since" in outcome.err, outcome.err
    assert json.loads((here / "runs/sums-seed0/manifest.json").read_text()) == manifest


def test_a_score_takes_the_place_of_the_metrics(here: Path) -> None:
    from optima_lite.tasks.answers import Scoring

    scoring = Scoring(own=load(here / "sums.yaml", "close.py").score)
    assert [scoring.score(answer, ("Bern",)) for answer in (None, "Bern", "Basel", "Genf")] == [0, 1, 0.5, 0]
    assert not scoring.undecided("Basel", ("Bern",))


def test_a_term_of_the_reward_is_added_with_its_weight_wherever_rewards_are_made(here: Path) -> None:
    from optima_lite.learn.ranking import ranked, search_rewards
    from optima_lite.learn.reward import Scale, rewards
    from optima_lite.learn.rollout import sample
    from optima_lite.settings.machine import Machine
    from optima_lite.stage.cast import assemble
    from optima_lite.tasks.questions import questions

    recipe = load_recipe("polite.yaml").recipe
    cast = assemble(recipe, machine=Machine(threads=1, max_batch_tokens=8192), settle=lambda key, choose: choose())
    bare = recipe.reward.model_copy(update={"plugin_weight": 0.0})
    asked = questions(recipe.task, "train", 2, seed=0)
    talked = sample(cast.team, asked, rollouts=2, sampling=cast.sampling(cast.team), seed=(0,))
    added = [0.3 * cast.team.own(group.question, one) for group in talked for one in group.dialogues]  # type: ignore[misc]
    assert any(added)

    def totals(settings: Any) -> list[list[float]]:
        found = ranked(cast.team, talked, settings=settings)
        scale = Scale(tokens=20, best_loss=1.0)
        pairs = [(group.question, one) for group in talked for one in group.dialogues]
        searched = search_rewards(cast.team, pairs, settings=settings, scale=scale)
        again = rewards(found, scale=scale, settings=settings, own=cast.team.own)
        return [[one.total for one in part] for part in ([r for g in found for r in g.rewards], searched, again)]

    for full, less in zip(totals(recipe.reward), totals(bare), strict=True):
        assert [one - other for one, other in zip(full, less, strict=True)] == pytest.approx(added)


def test_a_tool_answers_at_its_step_and_is_cut_where_a_message_would_be(here: Path) -> None:
    outcome = call("train", "register.yaml")
    assert outcome.code == 0, outcome.err
    assert "runs code of yours: register.py (tool)" in outcome.out + outcome.err
    rows = dialogues(here / "runs/register-seed0")
    said = [one["turns"][1] for row in rows for one in row["dialogues"] if len(one["turns"]) > 1]
    assert said and all(turn["ids"] == [] and turn["speaker"] == 2 for turn in said)
    facts = {fact for row in rows for facts in row["question"]["contexts"] for fact in facts}
    assert any(turn["text"].splitlines()[0] in facts for turn in said)


@pytest.mark.parametrize("name", ["../sums.py", "/sums.py", "sub/sums.py", "sums.txt", "sums"])
def test_only_the_recipes_folder_is_looked_at(here: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a Python file"):
        load_recipe("sums.yaml", overrides=[f"plugin={name}"])
    with pytest.raises(ConfigError, match=r"missing\.py: the plugin cannot be read: No such file"):
        load_recipe("sums.yaml", overrides=["plugin=missing.py"])


@pytest.mark.parametrize(
    ("source", "line", "told"),
    [
        ("x = 1\ndef score(:\n", 2, "is no Python"),
        ("import a_library_that_is_not_there\n", 1, "ModuleNotFoundError: No module named"),
        ("def help():\n    raise KeyError('x')\nhelp()\n", 2, "KeyError: 'x'"),
        ("x = 1\n", None, "has none of the functions questions, score, reward, tool"),
        ("\n\ndef score(answer):\n    return 1\n", 3, "score cannot be called as score(answer, answers)"),
        ("score = 3\n", None, "score must be a function"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(
    tmp_path: Path, source: str, line: int | None, told: str
) -> None:
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_file(tmp_path / "mine.py")
    assert told in raised.value.what
    assert raised.value.where == str(tmp_path / "mine.py") + (f":{line}" if line else "")


QUESTION = "Question('q', 'Who?', ('x',), ((), ()))"


@pytest.mark.parametrize(
    ("source", "line", "told"),
    [
        ("def score(answer, answers):\n    return 1 / 0\n", 2, "ZeroDivisionError"),
        ("def score(answer, answers):\n    return 2\n", 1, "must return a finite number from 0 to 1, not 2"),
        ("def score(answer, answers):\n    return 'much'\n", 1, "not 'much'"),
        ("def reward(question, dialogue):\n    return float('nan')\n", 1, "must return a finite number, not nan"),
        ("def tool(question, asked):\n    return None\n", 1, "must return text, not None"),
        ("def questions(split, count, *, seed, start):\n    return 3\n", 1, "must return a list of"),
        ("def questions(split, count, *, seed, start):\n    return []\n", 1, "returned 0 questions of 'train'"),
        (f"{GOOD}def questions(split, count, *, seed, start):\n    return [{QUESTION}] * 2\n", 2, "two questions"),
        (
            f"{GOOD}def questions(split, count, *, seed, start):\n    return [{QUESTION.replace('(), ()', '()')}]\n",
            2,
            "contexts must be two tuples",
        ),
    ],
)
def test_what_goes_wrong_in_a_call_is_told_with_its_line(tmp_path: Path, source: str, line: int, told: str) -> None:
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    code = load_file(tmp_path / "mine.py")
    calls: dict[str, Any] = {
        "questions": lambda: code.questions("train", 2, seed=0, start=0),
        "score": lambda: code.score("x", ("x",)),
        "reward": lambda: code.reward(None, None),  # type: ignore[arg-type]
        "tool": lambda: code.tool(None, ""),  # type: ignore[arg-type]
    }
    with pytest.raises(ConfigError) as raised:
        calls[code.offers[0]]()
    assert told in raised.value.what and raised.value.where == f"{tmp_path / 'mine.py'}:{line}"


def test_a_file_of_another_content_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise RuntimeError('ran')\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has changed since the run began"):
        load_file(tmp_path / "mine.py", sha256="0" * 64)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["task.name=plugin", "plugin=null"], "task.name plugin needs the function questions of a plugin"),
        (["plugin=close.py"], "task.name plugin needs a function questions, which is not in the plugin"),
        (["reward.plugin_weight=1"], "reward.plugin_weight needs a function reward"),
        (["task.path=rows.jsonl"], "is not read by task.name plugin"),
        (["task.validation_share=0.3"], "splits rows; task.name plugin makes its own questions"),
    ],
)
def test_a_recipe_and_its_plugin_must_fit(here: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_recipe("sums.yaml", overrides=overrides)


def test_a_mistake_in_the_middle_of_a_run_is_a_message(here: Path) -> None:
    (here / "sums.py").write_text(
        BLOCKS["sums.py"].replace("    return [one", "    assert start < 2, 'used up'\n    return [one"),
        encoding="utf-8",
    )
    outcome = call("train", "sums.yaml", "training.iterations=2")
    assert outcome.code == 2
    assert "AssertionError: used up" in outcome.err and "sums.py:7" in outcome.err and "Traceback" not in outcome.err
    assert (here / "runs/sums-seed0/iteration_00/4_adapter").is_dir(), "nothing computed is lost"
