"""Every shipped recipe, with each of its variants, loads, says how it is run, and states no default anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from optima_lite.model.memory import GIB, OVERHEAD, Setup, planned
from optima_lite.model.shapes import LLAMA3
from optima_lite.settings.config import LoadedRecipe, load_recipe, shipped_recipes
from optima_lite.settings.keys import reference
from optima_lite.settings.machine import Machine
from optima_lite.settings.recipe import Recipe
from optima_lite.settings.task import CODE_TASKS, BenchmarkName
from optima_lite.tasks.answers import extract, score
from optima_lite.team.talks import solo, team_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import settings_page  # noqa: E402

RECIPES = shipped_recipes()
CASES = [(name, variant) for name in RECIPES for variant in (None, *load_recipe(name).available)]
BENCHMARKS = get_args(BenchmarkName)
TAUGHT = ("proposer_critic", "planner_executor", "decompose_retrieve_answer")  # teams whose roles tiny-teams knows
SCHEDULES = ("isft", "idpo", "isft-dpo")
SIZES = {name: ("smoke",) if name in CODE_TASKS else ("smoke", "small", "paper") for name in BENCHMARKS}
COMBINATIONS = [(name, schedule, size) for name in BENCHMARKS for schedule in SCHEDULES for size in SIZES[name]]


def loaded(name: str, variant: str | None) -> LoadedRecipe:
    return load_recipe(name, variants=[variant] if variant else [])


def test_the_shipped_recipes_are_the_folder_s() -> None:
    assert RECIPES.keys() == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert {"quickstart", "hotpotqa_jsonl", "gsm8k_jsonl"} <= RECIPES.keys()


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_recipe_loads_with_each_of_its_variants(name: str, variant: str | None) -> None:
    recipe = loaded(name, variant)
    assert recipe.name == name
    assert Recipe.from_dict(recipe.recipe.to_dict(), where="manifest") == recipe.recipe


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_a_recipe_with_every_schedule_and_size(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.available == (*SCHEDULES, *SIZES[name])
    assert (recipe.recipe.task.name, recipe.recipe.schedule) == (name, "isft")


@pytest.mark.parametrize(("name", "schedule", "size"), COMBINATIONS)
def test_schedules_and_sizes_combine(name: str, schedule: str, size: str) -> None:
    """Any schedule with any size, in either order: nothing is set twice, and what is set is what was chosen."""
    recipe = load_recipe(name, variants=[schedule, size]).recipe
    assert load_recipe(name, variants=[f"{size},{schedule}"]).recipe == recipe
    alone = load_recipe(name, variants=[size]).recipe
    assert (recipe.schedule, recipe.training.questions) == (schedule, alone.training.questions)
    assert recipe.dpo.sft_weight == (1 if schedule == "idpo" else 0), "plain DPO in the hybrid"
    assert Recipe.from_dict(recipe.to_dict(), where="manifest") == recipe


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_dialogue_of_full_length_leaves_room_for_the_facts(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert team_of(recipe).max_steps * recipe.sampling.max_turn_tokens < 0.7 * 8192


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_the_header_adds_for_a_smaller_card_fits_it(name: str) -> None:
    lines = re.findall(r"^#   (\d+) GB: (.+)$", RECIPES[name].read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(card) for card, _ in lines] == [24, 16, 12]
    for card, added in lines:
        overrides = [] if added.startswith("nothing") else added.split()
        recipe = load_recipe(name, overrides=overrides, variants=["isft-dpo"]).recipe
        rows, room = recipe.model.max_length or 8192, int(card) * GIB - OVERHEAD
        assert rows - team_of(recipe).max_steps * recipe.sampling.max_turn_tokens > 1000, "room for the facts"
        setup = Setup(quantised=True, gpu=True, lora_rank=recipe.model.lora_rank)
        limits, phases = planned(recipe, Machine(), LLAMA3["8b"], setup, row_tokens=rows, room=room)
        most = max(phase.total for phase in phases)
        assert most <= room, (card, added)
        assert overrides or limits.cache_bytes > 2 * GIB, "what is left goes to the cache"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_agents_are_asked_for_the_mark_that_is_read_and_scored(name: str) -> None:
    recipe = load_recipe(name).recipe
    team, metric = team_of(recipe), recipe.task.metric
    assert (team.name == "exchange") == (name in ("hotpotqa", "2wikimultihopqa", "triviaqa", "cbt"))
    assert extract(solo(metric=metric).roles[0].system, metric=metric) == "answer"
    if name in CODE_TASKS:
        (asked,) = [team.step(step).reads or "" for step in team.answer]
        assert extract(asked, metric=metric) == "..."
        return
    assert extract(team.roles[0].system) == "answer"
    if metric != "math":  # which needs its library
        assert score(metric, "1,000", ["1,000"]) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_only_what_differs(name: str) -> None:
    """A variant may restore a default that the recipe changed; the recipe itself only states changes."""
    recipe = load_recipe(name)
    defaults = {key.path: key.default for key in reference(Recipe)}
    for key, origin in recipe.origins.items():
        value = recipe.recipe.to_dict()
        for part in key.split("."):
            value = value[part]
        default = defaults[key]
        stated = origin != "default"
        assert not (stated and default is not None and yaml.safe_load(default) == value), (
            f"{origin}: {key} is the default"
        )


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_header_gives_the_exact_command(name: str, variant: str | None) -> None:
    header = re.match(r"(?:#.*\n)+", RECIPES[name].read_text(encoding="utf-8"))
    assert header
    ending = f" --variant {variant}" if variant else ""
    assert re.search(rf"^#   optima-lite train {name}(?: task\.path=\S+)?{ending}$", header[0], re.MULTILINE)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_tiny_model_is_told_what_it_learned_with(name: str, variant: str | None) -> None:
    recipe = loaded(name, variant).recipe
    prompts = recipe.prompts
    if recipe.model.name == "tiny":
        assert prompts.system == "You are {name}, working with {partner}."
        assert prompts.solo_system == "You work alone. Think step by step."
        assert recipe.sampling.max_turn_tokens <= 56
    elif recipe.model.name == "tiny-teams":
        assert (prompts.system, prompts.solo_system) == (None, "You work alone. Think step by step.")
        assert recipe.team and recipe.team["name"] in TAUGHT
        assert recipe.sampling.max_turn_tokens <= 60
    else:
        assert prompts.system != "You are {name}, working with {partner}."


def test_recipes_are_data_only() -> None:
    assert {path.name for path in (ROOT / "recipes").iterdir() if path.suffix == ".py"} == {"__init__.py"}


def test_the_page_of_settings_is_that_of_the_schema() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "python scripts/settings_page.py"
