"""A whole run of `method: prompts`: what it stores, how it resumes, and the team that comes of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import RunError  # noqa: E402
from optima_lite.methods.plan import plan  # noqa: E402
from optima_lite.methods.prompts import attention  # noqa: E402
from optima_lite.model.embedding import embeddings  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.records import Domain, Rollouts  # noqa: E402
from optima_lite.runs.chosen import BEGUN, chosen  # noqa: E402
from optima_lite.runs.folder import STARTED, read_run  # noqa: E402
from optima_lite.runs.searches import CONFIRMED, DIALOGUES, DOMAINS, prompt_search  # noqa: E402
from optima_lite.runs.store import Run  # noqa: E402
from optima_lite.runs.summary import preparation_tokens, summary  # noqa: E402
from optima_lite.settings.config import load_recipe  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.stage.baselines import begins_with_prompts  # noqa: E402
from optima_lite.stage.cast import recall  # noqa: E402
from optima_lite.stage.start import begin  # noqa: E402
from optima_lite.team.prompts import FORMATS  # noqa: E402
from support import MACHINE, SMALL, assert_same_run, call  # noqa: E402

OWN = "You are {name}, working with {partner}."
RECIPE = """\
model: {name: tiny}
task: {name: world}
method: prompts
protocol: {max_turns: 4}
prompts:
  system: You are {name}, working with {partner}.
  solo_system: You work alone. Think step by step.
  formats: [arrows, json]
sampling: {max_turn_tokens: 24}
reward: {readability: capped}
prompt_search:
  formats: true
  domains: {Bob: ["{name} and {partner} work together."]}
  written: 1
  evaluations: 5
  warm_up: 3
  questions: 3
  confirmation_questions: 2
  repeats: 2
evaluation: {questions: 2, stop_if_none_right: false}
"""


@dataclass(frozen=True)
class Searched:
    """A finished search, for reading only, and the arguments that made it."""

    folder: Path
    arguments: tuple[str, ...]


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_EPOCHS", 5)
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    home = tmp_path_factory.mktemp("searched")
    (home / "search.yaml").write_text(RECIPE)
    (home / "machine.toml").write_text(MACHINE)
    arguments = (str(home / "search.yaml"), "--config", str(home / "machine.toml"))
    outcome = call("train", *arguments, "--run", home / "run")
    assert outcome.code == 0, outcome.err
    return Searched(home / "run", arguments)


def test_every_evaluation_is_stored_with_its_dialogues_and_tokens(searched: Searched) -> None:
    run = read_run(searched.folder)
    search = prompt_search(run)
    assert search is not None and len(search.trials) == 5
    assert len({trial.combination for trial in search.trials}) == 5
    assert search.trials[0].combination == (0, 0)
    for trial in search.trials:
        groups = run.read(DIALOGUES + "-".join(map(str, trial.combination)), Rollouts)
        assert [len(group.dialogues) for group in groups] == [2, 2, 2]
        assert trial.sampled == sum(one.tokens for group in groups for one in group.dialogues)
        scores = [sum(one.task for one in group.rewards) / 2 for group in groups]
        assert trial.scores == tuple(scores) and trial.value == pytest.approx(sum(scores) / 3)
    written = sum(domain.tokens for domain in run.read(DOMAINS, Domain))
    spent = written + sum(trial.sampled for trial in search.trials)
    assert summary(run)["training_tokens"] == search.tokens == spent > written > 0
    assert preparation_tokens(run) == {0: spent + search.confirming}
    assert search.confirming > 0


def test_every_combination_is_told_to_the_roles(searched: Searched) -> None:
    alice, bob = read_run(searched.folder).read(DOMAINS, Domain)
    assert [prompt.origin for prompt in bob.prompts[:4]] == ["own", "format arrows", "format json", "listed"]
    assert alice.prompts[1].system == f"{OWN} {FORMATS['arrows']}"
    search = prompt_search(read_run(searched.folder))
    assert search is not None
    best = max(search.trials, key=lambda trial: trial.value).combination
    assert search.chosen == {"Alice": alice.prompts[best[0]], "Bob": bob.prompts[best[1]]}


def test_the_confirmation_asks_other_questions_than_the_search(searched: Searched) -> None:
    asked = {group.question.id for group in read_run(searched.folder).read(f"{DIALOGUES}0-0", Rollouts)}
    own, best = (read_run(searched.folder).read(name, Rollouts) for name in CONFIRMED.values())
    fresh = [group.question.id for group in own]
    assert fresh == [group.question.id for group in best] and len(fresh) == 2
    assert not asked & {*fresh}
    verdict = json.loads((searched.folder / "iteration_00" / "5_verdict.json").read_text())
    after = [group.rewards[0].task for group in best]
    assert verdict["step"] == "prompts" and verdict["after"] == pytest.approx(sum(after) / 2)


def test_an_interrupted_search_goes_on_to_the_same_records(searched: Searched, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched.folder, folder)
    trials = folder / "iteration_00" / "2_trials.jsonl"
    lines = trials.read_bytes().splitlines(keepends=True)
    trials.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while it wrote
    (folder / f"{DIALOGUES}{'-'.join(map(str, json.loads(lines[4])['combination']))}.jsonl").unlink()
    for path in [*folder.glob("iteration_00/[345]_*"), *folder.glob("evaluation/iteration_*"), folder / "summary.json"]:
        path.unlink()
    outcome = call("train", *searched.arguments, "--run", folder)
    assert outcome.code == 0, outcome.err
    assert_same_run(folder, searched.folder)


def test_a_run_goes_through_the_phases_that_were_planned(searched: Searched) -> None:
    planned = [(phase.iteration, phase.phase) for phase in plan(load_recipe(searched.arguments[0]).recipe)]
    went = [(timing.iteration, timing.phase) for timing in read_run(searched.folder).timings()]
    assert went[: len(planned)] == planned


def test_the_team_of_a_run_has_the_chosen_prompts(searched: Searched) -> None:
    run, machine = read_run(searched.folder), Machine(threads=1, max_batch_tokens=8192)
    found = chosen(run, 0)
    assert {*found} == {"Alice", "Bob"} and chosen(run, None) == {}
    before, after = (recall(run, machine=machine, iteration=iteration).team.workflow for iteration in (None, 0))
    assert {role.system for role in before.roles} == {OWN}
    assert {role.name: role.system for role in after.roles} == {name: one.system for name, one in found.items()}


def test_a_choice_that_was_given_up_is_in_force_nowhere(searched: Searched, tmp_path: Path) -> None:
    shutil.copytree(searched.folder, tmp_path / "run")
    path = tmp_path / "run" / "iteration_00" / "5_verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verdict": "revert"}))
    assert chosen(read_run(tmp_path / "run"), 0) == {}


def test_the_chosen_prompts_can_be_pasted_into_a_recipe(searched: Searched, tmp_path: Path) -> None:
    (tmp_path / "pasted.yaml").write_text(
        "model: {name: tiny}\ntask: {name: world}\n" + (searched.folder / "prompts.yaml").read_text()
    )
    systems = load_recipe(tmp_path / "pasted.yaml").recipe.prompts.system
    assert systems == {name: one.system for name, one in chosen(read_run(searched.folder), 0).items()}


def test_another_run_begins_with_the_chosen_prompts(searched: Searched, tmp_path: Path) -> None:
    (tmp_path / "next.yaml").write_text(SMALL)
    recipe = load_recipe(tmp_path / "next.yaml", overrides=[f"start={searched.folder}"]).recipe
    with Run.open(tmp_path / "next", {"recipe": recipe.to_dict(), "recipe_name": "next"}) as run:
        begin(run, recipe, machine=Machine(), notify=lambda text: None)
        earlier = read_run(searched.folder)
        assert chosen(run, None) == chosen(earlier, 0)
        assert json.loads((tmp_path / "next" / STARTED / BEGUN).read_text()).keys() == {"Alice", "Bob"}
        assert run.read_json("start.json")["preparation"] == preparation_tokens(earlier)[0]
        assert begins_with_prompts(run) and not begins_with_prompts(earlier)
    other = load_recipe(tmp_path / "next.yaml", overrides=[f"start={searched.folder}", "team=chain"])
    foreign = pytest.raises(RunError, match="has chosen prompts for Alice, Bob, and the roles of the team are First")
    with Run.open(tmp_path / "other", {"recipe": other.recipe.to_dict(), "recipe_name": "other"}) as run, foreign:
        begin(run, other.recipe, machine=Machine(), notify=lambda text: None)


def test_the_report_shows_the_search(searched: Searched) -> None:
    shown = call("report", searched.folder).out
    for part in ("prompt search, evaluations", "best so far", "regret", "attention of", "to paste into a recipe"):
        assert part in shown
    assert re.search(r"5 of \d+ combinations evaluated", shown)
    told = json.loads(call("report", searched.folder, "--json").out)["prompt_search"]
    assert told["trials"][0]["combination"] == [0, 0]


def test_an_embedding_is_the_base_model_s_mean_hidden_state(policy: Policy) -> None:
    ids = policy.tokenizer("Mimo mother Tess", add_special_tokens=False)["input_ids"]
    alone, *both = embeddings(policy, [ids, [*ids, *ids]])
    with torch.no_grad():
        for layer in policy.model.modules():
            if hasattr(layer, "lora_B"):
                torch.nn.init.ones_(layer.lora_B["default"].weight)
    again = embeddings(policy, [ids])[0]
    assert torch.equal(alone, again), "the adapter is off"
    with policy.reading() as base:
        states = base(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(alone, states[0].mean(0), atol=1e-5)
    assert both[0].shape == alone.shape


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("prompt_search.evaluations=2", "prompt_search.warm_up: must be at most evaluations, 2"),
        ("prompt_search.domains={Bob: []}", "prompt_search.domains: must hold at least one item"),
        ("prompt_search.domains={Bob: ['{name}']}", "domains.Bob: item 1 lacks {partner}"),
        ("prompt_search.domains={Eve: ['x']}", "there is no such role"),
        ("prompt_search.edges=dag", "read each other in a loop (Alice -> Bob -> Alice)"),
        ("training.epochs=7", "is about training, and method: prompts changes no weights"),
        ("method=optima", "is read by method: prompts only"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    searched: Searched, override: str, told: str, tmp_path: Path
) -> None:
    outcome = call("train", searched.arguments[0], override, "--run", tmp_path / "run")
    assert outcome.code == 2 and told in outcome.err
    assert not (tmp_path / "run").exists()


def test_the_official_preset_of_a_search_is_that_of_its_own_authors() -> None:
    recipe = load_recipe("prompts_quickstart", overrides=["preset=official"]).recipe
    how = recipe.prompt_search
    assert (how.surrogate, how.information, how.start, how.repeated) == ("attention", 10.0, "last", "count")
    assert recipe.protocol.stop is None, "and not what Optima's authors do in a talk"


def test_nothing_to_choose_among_is_refused(searched: Searched, tmp_path: Path) -> None:
    nothing = ("prompt_search.formats=false", "prompt_search.written=0", "prompt_search.domains={}")
    outcome = call("train", searched.arguments[0], *nothing, "--run", tmp_path / "run")
    assert outcome.code == 2 and "there is nothing to choose among" in outcome.err
