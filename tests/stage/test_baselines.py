"""Other ways to answer: who is asked what, that every token counts, and the two verbs that show it."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.learn.rollout import Agents
from optima_lite.records import Dialogue, Ending, Question, Reward, Rollouts, Turn
from optima_lite.runs.folder import read_run
from optima_lite.runs.store import Run
from optima_lite.runs.summary import preparation_tokens
from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Machine
from optima_lite.settings.teams import shipped
from optima_lite.settings.workflow import Workflow
from optima_lite.stage import baselines
from optima_lite.stage.baselines import ALONE, autoform, best_format, debaters, voted
from optima_lite.stage.cast import Cast, recall
from optima_lite.team.prompts import AUTOFORM
from optima_lite.team.talks import solo
from support import SMALL, Finished, Outcome, call, records

FEW = ("json", "table", "csv")
OTHER = SMALL.replace("max_turns: 4", "name: debate, max_turns: 2, roles: [Ann, Ben]")


@pytest.fixture
def few_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool of the finished run, cut to FEW: each one is tried alike."""
    monkeypatch.setattr(Cast, "formats", property(lambda cast: FEW))


def saying(cast: Cast, **prompts: Any) -> Cast:
    recipe = cast.recipe.model_copy(update={"prompts": cast.recipe.prompts.model_copy(update=prompts)})
    return replace(cast, recipe=recipe)


def systems(agents: Agents) -> set[str]:
    return {role.system for role in agents.workflow.roles}


def stop(workflow: Workflow) -> str:
    (by,) = {way.when[0].of for step in workflow.steps for way in step.ways if way.when}
    return by


def test_debaters_see_everything_and_stop_at_an_answer_given_twice(cast: Cast) -> None:
    agents = debaters(cast)
    assert stop(agents.workflow) == "anyone" and not agents.workflow.holders
    assert (agents.workflow.names, agents.workflow.max_steps) == (("Alice", "Bob"), 4)
    assert agents.generator is cast.team.generator
    assert systems(agents) == {"You are {name}, working with {partner}."}, "a recipe's own words stay"
    assert systems(debaters(saying(cast, system=None))) == {shipped("debate3").roles[0].system}


def test_autoform_adds_one_instruction_to_the_single_agent(cast: Cast) -> None:
    assert systems(autoform(cast)) == {f"You work alone. Think step by step. {AUTOFORM}"}
    built_in = replace(cast, single=replace(cast.single, workflow=solo()))
    assert systems(autoform(built_in)) == {f"{solo().roles[0].system} {AUTOFORM}"}
    assert cast.sampling(autoform(cast)) == cast.sampling(cast.single), "as much room as the single agent"


def test_a_vote_pays_for_all_its_samples(cast: Cast) -> None:
    question = Question("q", "?", ("x",), ((), ()))
    dialogues = [
        Dialogue("q", k, (Turn(0, (1,) * tokens, "", answer),), Ending.MAX_TURNS)
        for k, (tokens, answer) in enumerate([(10, "y"), (20, "x"), (30, "x"), (40, None)])
    ]
    rewards = [Reward(0.0, 0.0, 1.0, 1.0, loss) for loss in (0.5, 4.0, 1.0, 1.0)]
    row = voted([Rollouts(question, tuple(dialogues), tuple(rewards))], name="vote", cast=cast)
    assert (row.score, row.tokens, row.turns, row.agreement) == (1.0, 100.0, 4.0, 0.5)
    assert (row.tokens_per_correct, row.readability_loss) == (100.0, 4.0)


def test_the_best_format_is_chosen_by_reward_and_its_search_is_counted(
    cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Run.open(tmp_path / "kept", {"recipe": {}, "recipe_name": "x", "variants": [], "versions": {}})
    bench = baselines._Bench(saying(cast, formats=("json", "table")), 0, 4, kept, lambda event: None)
    asked: dict[str, list[Rollouts]] = {}
    real = baselines._Bench.ask

    def watch(self: Any, *arguments: Any, formats: Any = (), **options: Any) -> list[Rollouts]:
        found = real(self, *arguments, formats=formats, **options)
        if formats == ("table",):  # as if the table had always been right
            found = [replace(one, rewards=tuple(replace(r, task=5.0) for r in one.rewards)) for one in found]
        asked[formats[0]] = found
        return found

    monkeypatch.setattr(baselines._Bench, "ask", watch)
    best, tokens = best_format(bench)
    assert best == "table" and list(asked) == ["json", "table"]
    dialogues = [dialogue for found in asked.values() for group in found for dialogue in group.dialogues]
    assert len(dialogues) == 4 and tokens == sum(dialogue.tokens for dialogue in dialogues)
    assert {dialogue.format for dialogue in dialogues} == {"json", "table"}


def test_the_table_of_baselines(finished: Finished, few_formats: None) -> None:
    before = records(finished.folder)
    wanted = ("eval", finished.folder, "--baselines", "--samples", "2", "--config", finished.arguments[2])
    outcome = call(*wanted, "--json")
    assert outcome.code == 0, outcome.err
    rows, summary = contenders(outcome), json.loads((finished.folder / "summary.json").read_text())
    assert [name for name in rows if not name[0].startswith("format_")] == [
        ("single_agent", "sampled"),
        ("single_agent", "greedy"),
        ("self_consistency_2", "sampled"),
        ("multi_agent_debate", "sampled"),
        ("autoform", "sampled"),
        ("untrained", "sampled"),
        ("iteration_0", "sampled"),
        ("iteration_1", "sampled"),
        ("iteration_1", "greedy"),
    ]
    (best,) = [name for name in rows if name[0].removeprefix("format_") in FEW]
    assert [*rows].index(best) == 6
    assert all(one["row"]["questions"] == 4 for one in rows.values())
    single, vote = rows["single_agent", "sampled"]["row"], rows["self_consistency_2", "sampled"]["row"]
    assert vote["tokens"] > single["tokens"] and vote["turns"] == 2
    assert [one["preparation"] for one in [*rows.values()][:6]] == [0] * 6 and rows[best]["preparation"] > 0
    spent = {i: rows[f"iteration_{i}", "sampled"]["preparation"] for i in (0, 1)}
    assert spent[0] < spent[1] == summary["training_tokens"] + summary["validation_tokens"]
    assert preparation_tokens(read_run(finished.folder)) == spent
    stored = {(row["name"], row["decoding"]): row for row in summary["evaluations"]}
    for name in {*rows} & {*stored}:  # the same questions, seeds and counting as in the run
        assert rows[name]["row"] | {"readability_loss": 0} == stored[name] | {"readability_loss": 0}
    assert records(finished.folder) == before, "the run stays as it is"
    notes = [event["text"] for event in outcome.events if event.get("event") == "note"]
    assert "the single agent has not been trained as the pair was, so it is missing: --train-single" in notes


def contenders(outcome: Outcome) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of the table of baselines by name and decoding, in their order."""
    return {(one["row"]["name"], one["row"]["decoding"]): one for one in outcome.events[-1]["baselines"]}


@pytest.mark.slow
def test_the_single_agent_is_trained_as_the_pair_was(finished: Finished, tmp_path: Path) -> None:
    run = shutil.copytree(finished.folder, tmp_path / "run")
    before = records(run)
    wanted = ("eval", run, "--baselines", "--samples", "1", "--config", finished.arguments[2], "--json")
    outcome = call(*wanted, "--train-single")
    assert outcome.code == 0, outcome.err
    after = records(run)
    assert {name: after[name] for name in before} == before, "what the run had stays as it is"
    alone = read_run(run / ALONE)
    for iteration in (0, 1):
        name = f"iteration_{iteration:02d}/1_dialogues"
        theirs, own = (one.read(name, Rollouts) for one in (read_run(run), alone))
        assert [group.question.text for group in own] == [group.question.text for group in theirs], "the same questions"
        assert {len(dialogue.turns) for group in own for dialogue in group.dialogues} == {1}
        assert [len(group.dialogues) for group in own] == [len(group.dialogues) for group in theirs]
    rows = contenders(outcome)
    spent = rows["single_agent_trained", "sampled"]["preparation"]
    assert spent == preparation_tokens(alone)[1] > 0 and spent == rows["single_agent_trained", "greedy"]["preparation"]
    stored = {
        row["decoding"]: row for row in alone.read_json("summary.json")["evaluations"] if row["name"] == "iteration_1"
    }
    for decoding, row in stored.items():
        found = rows["single_agent_trained", decoding]["row"]
        assert (found["score"], found["tokens"]) == (row["score"], row["tokens"]), "it is the trained one that answers"
    kept = (
        path for path in run.rglob("adapter_model.safetensors") if path.parent.name != "adapter"
    )  # not the pointers
    weights = [path.read_bytes() for path in kept]
    assert len(weights) == len(set(weights)) == 4, "an adapter of its own"
    assert "team `solo`" in (run / ALONE / "iteration_01/4_adapter/README.md").read_text()

    (run / ALONE / "iteration_01/2_rewards.jsonl").unlink()
    assert call(*wanted, "--train-single").code == 0
    assert records(run) == after, "what was lost is computed again, and nothing else"
    assert ("single_agent_trained", "sampled") in contenders(call(*wanted)), "once trained it stays in the table"
    outcome = call("eval", run, "--train-single")
    assert outcome.code == 2 and "add --baselines" in outcome.err


def test_baselines_are_compared_with_every_iteration(finished: Finished) -> None:
    outcome = call("eval", finished.folder, "--baselines", "-i", "0")
    assert outcome.code == 2
    assert outcome.err == "error --baselines looks at every iteration\n  try: leave out --iteration\n"


def test_scaling_begins_where_the_evaluation_was(finished: Finished, tmp_path: Path) -> None:
    wanted = ("scale", finished.folder, "--samples", "3", "--questions", "4", "--output", tmp_path, "--quiet")
    outcome = call(*wanted, "--no-png", "--config", finished.arguments[2])
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith(f"wrote {tmp_path / 'scaling.csv'}\n")
    with (tmp_path / "scaling.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["name"], row["samples"]) for row in rows] == [
        (name, size) for name in ("iteration_1", "untrained", "single_agent") for size in "123"
    ]
    stored = json.loads((finished.folder / "summary.json").read_text())["evaluations"]
    for row in stored:
        if row["decoding"] == "sampled" and row["name"] != "iteration_0":
            (first,) = [one for one in rows if (one["name"], one["samples"]) == (row["name"], "1")]
            assert float(first["majority"]) == float(first["coverage"]) == row["score"]
            assert float(first["tokens"]) == pytest.approx(row["tokens"])


def test_scale_says_what_it_lacks_before_it_computes(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = call("scale", finished.folder, "--output", tmp_path / "nowhere", "--no-png")
    assert outcome.code == 2 and f"{tmp_path / 'nowhere'}: there is no such folder" in outcome.err
    monkeypatch.setattr("optima_lite.stage.scaling_view.find_spec", lambda name: None)
    outcome = call("scale", finished.folder)
    assert outcome.code == 2 and "pip install '.[plot]'" in outcome.err


def test_a_run_meets_the_task_of_another_recipe(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(OTHER.replace("questions: 4, validation", "questions: 3, validation"))
    other = load_recipe(tmp_path / "other.yaml").recipe
    cast = recall(read_run(finished.folder), machine=Machine(threads=1), iteration=1, other=other)
    assert cast.team.workflow.names == ("Ann", "Ben") and cast.team.workflow.name == "debate"
    assert cast.recipe.task == other.task and cast.recipe.evaluation.questions == 3
    own = read_run(finished.folder).manifest["recipe"]
    assert cast.recipe.to_dict()["reward"] == own["reward"] and cast.recipe.to_dict()["model"] == own["model"]

    outcome = call("eval", finished.folder, "--task", tmp_path / "other.yaml", "--json")
    assert outcome.code == 0, outcome.err
    rows = [event["row"] for event in outcome.events if event["event"] == "evaluated"]
    assert [(row["decoding"], row["questions"]) for row in rows] == [("sampled", 3), ("greedy", 3)]
    assert all(row["turns"] <= 2 for row in rows)
    outcome = call("eval", finished.folder, "--task", "nowhere.yaml")
    assert outcome.code == 2 and "nowhere.yaml: no such recipe" in outcome.err


def test_questions_bound_every_part_and_a_second_call_samples_nothing(
    finished: Finished, few_formats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ("eval", finished.folder, "--baselines", "--samples", "2", "--questions", "1", "--json")
    first = call(*wanted, "--config", finished.arguments[2])
    assert first.code == 0, first.err
    sizes = {event["phase"]: event["total"] for event in first.events[:-1] if event["event"] == "phase_started"}
    assert sizes.pop("single agent") == 2 and set(sizes.values()) == {1}
    assert {f"try format {name}" for name in FEW} < sizes.keys()
    planned = next(event["phases"] for event in first.events if event["event"] == "planned")
    assert {phase["phase"]: phase["total"] for phase in planned} == sizes | {"single agent": 2}

    monkeypatch.setattr(baselines, "sample", lambda *arguments, **options: pytest.fail("was sampled already"))
    second = call(*wanted, "--config", finished.arguments[2])
    assert second.events[-1] == first.events[-1]


@pytest.mark.slow
def test_baselines_go_on_where_they_were_interrupted(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("eval", finished.folder, "--baselines", "--samples", "1", "--questions", "2", "--json", "--seed", "5")
    real, calls = baselines.sample, list[int]()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(baselines, "sample", interrupted)
    assert call(*wanted, "--config", finished.arguments[2]).code == 130
    assert call(*wanted, "--config", finished.arguments[2]).code == 0
    assert len(calls) == 1 + 2 + 1 + 1 + 1 + 14 + 1 + 3, "each part once, and the interrupted one again"
