"""A run whose iteration 0 is shown how it is done: what it stores, resumes, refuses and tells."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from chat_server import Body, ChatServer, chat_server
from optima_lite.errors import DataError
from optima_lite.learn.teaching import retold
from optima_lite.methods.optima.imitate import said
from optima_lite.outlets.card import write_card
from optima_lite.records import Demonstration, Origin, Reply, Rollouts
from optima_lite.runs.demonstrations import write_demonstrations
from optima_lite.runs.folder import read_run
from optima_lite.runs.progress import silent
from optima_lite.runs.replies import Replies
from optima_lite.runs.steps import Taught, imitations, learnt_from
from optima_lite.runs.store import Run
from optima_lite.runs.summary import training_tokens
from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Machine
from optima_lite.settings.recipe import Recipe
from optima_lite.settings.teacher import TeacherSettings
from optima_lite.stage.cast import Cast, spoken_elsewhere
from optima_lite.stage.crew import Alone
from optima_lite.stage.stage import Stage
from optima_lite.stage.start import begin
from optima_lite.stage.taught import taught, usable
from optima_lite.tasks import world
from support import MACHINE, SMALL, assert_same_run, call, small_chunks
from talks import said_about

RECIPE = (
    SMALL.replace("{iterations: 2, questions: 4", "{iterations: 1, questions: 3")
    .replace("{questions: 4, validation_questions: 2", "{questions: 1, validation_questions: 1")
    .replace("min_reward: -9", "min_reward: -9, keep_fraction: 1")
    + "teacher: {demonstrations: shown.jsonl}\n"
)
NUMBERS = (0, 7, 8)  # of the questions that are shown; the first is among those that iteration 0 asks


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, assembled: Cast) -> Path:
    """A folder with a recipe, its demonstrations and its run."""
    home = tmp_path_factory.mktemp("taught")
    (home / "taught.yaml").write_text(RECIPE)
    (home / "machine.toml").write_text(MACHINE)
    write_demonstrations(home / "shown.jsonl", rows(assembled, "train", NUMBERS))
    small_chunks()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        done = train(home / "run")
        assert done.code == 0, done.err
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def rows(cast: Cast, split: str, numbers: Sequence[int]) -> list[Rollouts]:
    """Demonstrations as `import` makes them; under an id of their own, as those of a file have."""
    found = []
    for line, number in enumerate(numbers, start=1):
        (question,) = world.questions(split, 1, seed=0, start=number)
        said = [(("Alice", "Bob")[k % 2], text) for k, text in enumerate(said_about(question))]
        origin = Origin("talks.jsonl", "CC-BY-4.0", "example.org", line=line, sha256="0" * 64)
        dialogue = retold(cast.team, question, said, most_tokens=24, origin=origin)
        found.append(Rollouts(question, (dialogue,)))
    return found


def recipe_of(*settings: str) -> Recipe:
    return load_recipe("taught.yaml", overrides=settings).recipe


def train(folder: Path, *settings: str) -> Any:
    return call("train", "taught.yaml", *settings, "--run", folder, "--config", "machine.toml", "--quiet")


def test_demonstrations_are_ranked_and_selected_among_the_team_s_own(here: Path) -> None:
    run = read_run(here / "run")
    asked = world.questions("train", 3, seed=0)
    shown = [world.questions("train", 1, seed=0, start=number)[0] for number in NUMBERS]
    own, ranked = run.read("iteration_00/1_dialogues", Rollouts), run.read("iteration_00/2_rewards", Rollouts)
    # as many questions as ever: those that are shown take the place of the last ones
    assert [group.question for group in own] == [asked[0], *shown[1:]]
    assert all(dialogue.taught is None for group in own for dialogue in group.dialogues)
    for line, group in enumerate(ranked, start=1):
        assert [dialogue.rollout for dialogue in group.dialogues] == [0, 1, 2] and len(group.rewards) == 3
        origins = [dialogue.taught for dialogue in group.dialogues]
        assert origins[:2] == [None, None]
        assert origins[2] == Origin("talks.jsonl", "CC-BY-4.0", "example.org", line, "0" * 64)
        assert group.rewards[2].task == 1.0 and group.rewards[2].worst_loss > 0
    chosen = run.read("iteration_00/3_demonstrations", Demonstration)
    best = {group.question.id: max(reward.total for reward in group.rewards) for group in ranked}
    assert {one.question.id: one.reward.total for one in chosen} == best, "the best of each, whoever said it"
    assert any(one.dialogue.taught for one in chosen)
    stored = (here / "run/iteration_00/1_dialogues.jsonl").read_text()
    assert "origin" not in stored, "the team's own rows are as they were"


def test_what_came_from_whom_is_counted_and_told(here: Path, tmp_path: Path) -> None:
    run = read_run(here / "run")
    (step,) = imitations(run)
    shown = run.read("iteration_00/0_taught", Rollouts)
    tokens = sum(dialogue.tokens for group in shown for dialogue in group.dialogues)
    learnt = sum(one.dialogue.taught is not None for one in run.read("iteration_00/3_demonstrations", Demonstration))
    assert step.dialogues == 9 and step.taught == (
        Taught("talks.jsonl", "CC-BY-4.0", "example.org", 3, tokens, learnt),
    )
    own = run.read("iteration_00/1_dialogues", Rollouts)
    sampled = sum(dialogue.tokens for group in own for dialogue in group.dialogues)
    assert training_tokens(run)[0] == sampled + tokens + (step.trainer_tokens or 0)
    line = f"3 demonstrations of talks.jsonl, {tokens} tokens, {learnt} of 3 selected dialogues"
    told = " ".join(call("report", "run").out.split())
    assert f"iteration 0: {line} (licence CC-BY-4.0, from example.org)" in told
    write_card(tmp_path, run, 0, kind="adapter")
    card = (tmp_path / "README.md").read_text()
    assert f"Trained on {learnt} demonstrations of talks.jsonl as well, under the licence CC-BY-4.0, from" in card


def test_a_run_that_begins_with_such_a_run_tells_its_teachers(here: Path, tmp_path: Path) -> None:
    recipe = recipe_of("start=run", "teacher.demonstrations=null")
    with Run.open(tmp_path / "next", {"recipe": recipe.to_dict()}) as run:
        begin(run, recipe, machine=Machine(run_folder=str(here)), notify=lambda text: None)
        assert learnt_from(run) == learnt_from(read_run(here / "run")) != []


@pytest.mark.parametrize("stage", ["0_taught", pytest.param("2_rewards", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    folder = shutil.copytree(here / "run", tmp_path / "run", symlinks=True)
    (folder / f"iteration_00/{stage}.jsonl").unlink()
    with monkeypatch.context() as patch:
        append = Run.append

        def dies(run: Run, name: str, records: Any) -> None:
            append(run, name, records)
            if name.endswith("2_rewards"):
                raise KeyboardInterrupt

        patch.setattr(Run, "append", dies)
        assert train(folder).code == 130
    torn = (folder / "iteration_00/2_rewards.jsonl").read_bytes()
    assert 0 < len(torn) < (here / "run/iteration_00/2_rewards.jsonl").stat().st_size
    (folder / "iteration_00/2_rewards.jsonl").write_bytes(torn + torn[:50])  # and a line was being written
    assert train(folder).code == 0
    assert_same_run(folder, here / "run")


def test_a_changed_file_is_refused_on_resume(here: Path) -> None:
    path = here / "shown.jsonl"
    before = path.read_bytes()
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:2]))
    done = train(here / "run")
    path.write_bytes(before)
    assert done.code == 2 and "holds a run of other demonstrations: shown.jsonl has changed since (SHA-256" in done.err


def test_demonstrations_can_take_the_place_of_sampling(here: Path, tmp_path: Path, assembled: Cast) -> None:
    cast = replace(assembled, recipe=recipe_of("teacher.own=false", "teacher.at_most=2"))
    with Run.open(tmp_path / "run", {"recipe": {}}) as run:
        found = said(Stage(cast, run, silent, Alone(cast)), 0)
    assert [[dialogue.taught is not None for dialogue in group.dialogues] for group in found] == [[True]] * 2
    assert [path.name for path in (tmp_path / "run/iteration_00").iterdir()] == ["0_taught.jsonl", "0_questions.json"]


@pytest.mark.slow
def test_demonstrations_alone_need_no_sampling(here: Path, tmp_path: Path) -> None:
    done = train(tmp_path / "alone", "teacher.own=false", "teacher.at_most=2")
    assert done.code == 0, done.err
    run = read_run(tmp_path / "alone")
    assert not (run.folder / "iteration_00/1_dialogues.jsonl").exists()
    ranked = run.read("iteration_00/2_rewards", Rollouts)
    assert [[dialogue.taught is not None for dialogue in group.dialogues] for group in ranked] == [[True]] * 2
    assert imitations(run)[0].dialogues == 2


def test_what_the_run_is_judged_by_is_refused_with_its_line(here: Path, tmp_path: Path, assembled: Cast) -> None:
    path = tmp_path / "leak.jsonl"
    write_demonstrations(path, [*rows(assembled, "train", [1]), *rows(assembled, "held_out", [0])])
    with pytest.raises(DataError, match=f"{path}:2: held out: its question is among the held-out questions"):
        usable(replace(assembled, recipe=recipe_of(f"teacher.demonstrations={path}")))
    done = train(tmp_path / "run", "teacher.demonstrations=none.jsonl")
    assert done.code == 2 and "none.jsonl: no such file of demonstrations" in done.err
    assert not (tmp_path / "run").exists()


def plays(body: Body, number: int) -> str:
    """A model that knows every answer: whichever role it plays, it says what comes next in a right and terse talk."""
    told = body["messages"]
    (question,) = [one for one in world.questions("train", 9, seed=0) if one.text in told[1]["content"]]
    return said_about(question)[len(told) - 2 + ("Alice:" in told[1]["content"])]


SPEAKER = ("teacher.demonstrations=null", "teacher.speaker=gpt", "teacher.licence=terms of gpt", "teacher.at_most=2")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(plays) as server:
        yield server


def test_a_model_elsewhere_plays_the_whole_team(
    here: Path, tmp_path: Path, assembled: Cast, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine.model_validate({"speakers": {"gpt": {"url": server.url, "model": "m", "at_once": 1}}})
    cast = replace(assembled, recipe=recipe_of(*SPEAKER))

    def shown(run: Run) -> list[Rollouts]:
        teacher = spoken_elsewhere(cast, "gpt", machine=machine, run=run, notify=pytest.fail)
        return taught(Stage(cast, run, silent, Alone(cast), teacher))

    with Run.open(tmp_path / "run", {"recipe": {}}) as run:
        with monkeypatch.context() as patch:
            add = Replies.add

            def dies(replies: Replies, reply: Reply) -> None:
                add(replies, reply)
                if len(replies) == 3:
                    raise KeyboardInterrupt

            patch.setattr(Replies, "add", dies)
            with pytest.raises(KeyboardInterrupt):
                shown(run)
        found = shown(run)
        turns = sum(len(group.dialogues[0].turns) for group in found)
        assert turns <= len(server.asked) <= turns + 1, "nothing is asked twice but what was on its way at the kill"
        asked = len(server.asked)
        assert shown(run) == found and len(server.asked) == asked
    questions = world.questions("train", 3, seed=0)
    assert [group.question for group in found] == questions[:2]
    for group, question in zip(found, questions, strict=False):
        (dialogue,) = group.dialogues
        assert [turn.text for turn in dialogue.turns] == [text.strip() for text in said_about(question)]
        assert dialogue.taught == Origin("gpt (m)", "terms of gpt") and dialogue.format is not None
        assert not any(turn.spoken_by for turn in dialogue.turns), "each message is learnt"
    missing = train(tmp_path / "other", *SPEAKER)
    assert "teacher.speaker: there is no speaker gpt in optima_lite.toml" in missing.err


@pytest.mark.slow
def test_a_run_learns_from_a_model_elsewhere(here: Path, tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "machine.toml").write_text(f'{MACHINE}[speakers.gpt]\nurl = "{server.url}"\nmodel = "m"\n')
    done = call(
        *("train", "taught.yaml", *SPEAKER, "--run", tmp_path / "run"),
        *("--config", tmp_path / "machine.toml", "--quiet"),
    )
    assert done.code == 0, done.err
    run = read_run(tmp_path / "run")
    ranked = run.read("iteration_00/2_rewards", Rollouts)
    assert [len(group.dialogues) for group in ranked] == [3, 3, 2]
    assert [group.rewards[2].task for group in ranked[:2]] == [1.0, 1.0]
    (shown,) = imitations(run)[0].taught
    assert (shown.teacher, shown.dialogues) == ("gpt (m)", 2)
    assert "2 demonstrations of gpt (m)" in " ".join(call("report", tmp_path / "run").out.split())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["teacher.demonstrations=null", "teacher.own=false"], "teacher.own: is read with teacher.demonstrations or"),
        (["teacher.licence=MIT"], "teacher.licence: is of what teacher.speaker says; a file's rows have"),
        (["method=reinforce"], "teacher.demonstrations: is read by method: reinforce where reinforce.imitations is"),
        (["method=prompts", "team=exchange"], "teacher.demonstrations: is about training, and method: prompts"),
        (["teacher.at_most=0"], "teacher.at_most: must be at least 1, not 0"),
    ],
)
def test_settings_that_nothing_would_read(here: Path, tmp_path: Path, settings: list[str], said: str) -> None:
    done = train(tmp_path / "run", *settings)
    assert done.code == 2 and said in done.err


def test_a_run_has_no_teacher_unless_it_is_given_one() -> None:
    assert not TeacherSettings().teaches
    stated = {"demonstrations": None, "speaker": None, "licence": "unknown", "at_most": None, "own": True}
    assert TeacherSettings().model_dump() == stated
