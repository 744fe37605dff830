"""A dialogue tree on the command line: by a run's agents or a recipe's, on any question; nothing is stored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from optima_lite.methods.optima.explore import stored_probe
from optima_lite.records import Rollouts
from optima_lite.runs.folder import read_run
from support import MACHINE, SMALL, Finished, Outcome, call, records

FEW = ("search.searches=2", "search.rollouts=2")


@pytest.fixture
def recipe(tmp_path: Path) -> tuple[Path, str, Path]:
    """A recipe and a machine file, as arguments."""
    (tmp_path / "machine.toml").write_text(MACHINE + f'run_folder = "{tmp_path}"\n')
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml", "--config", tmp_path / "machine.toml"


def visits(outcome: Outcome) -> list[int]:
    """Of every tree's root."""
    return [int(number) for number in re.findall(r"^value -?[\d.]+, (\d+) visits?, task", outcome.out, re.MULTILINE)]


def refused(outcome: Outcome, message: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"error {message}\n"


def test_the_trees_of_a_recipe_s_held_out_questions(recipe: tuple[Path, str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    outcome = call("search", *recipe, *FEW, "--sample", "2")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "probe: 20 questions" and "search: 8 dialogues" in lines
    assert visits(outcome) == [4, 4]
    assert outcome.out.count("  (answer: ") == 2
    assert re.search(r"^[├└]── (chosen |rejected )*Alice: ", outcome.out, re.MULTILINE)
    assert re.search(r"^[│ ]   [├└]── (chosen |rejected )*Bob: ", outcome.out, re.MULTILINE)
    assert re.fullmatch(r"\d+ pairs? to learn from, [\d,]+ tokens sampled", lines[-1])
    marks = outcome.out.count("── chosen"), outcome.out.count("── rejected")
    assert marks[0] == marks[1] == int(lines[-1].split()[0])
    assert sorted(tmp_path.iterdir()) == before, "nothing is stored"


def test_the_tree_of_a_question_that_somebody_asks(recipe: tuple[Path, str, Path]) -> None:
    facts = ("--facts-a", "Mira mother Tess", "--facts-a", "Ann home Rome", "--facts-b", "Tess home Portham")
    question = ("--question", "What is the [home] of the mother of Mira?")
    outcome = call("search", *recipe, *FEW, *question, *facts, "--answer", "Portham", "--answer", "P.", "--quiet")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("What is the [home] of the mother of Mira?  (answer: Portham or P.)\nvalue ")
    assert visits(outcome) == [4]
    printed = json.loads(call("search", *recipe, *FEW, *question, *facts, "--answer", "Portham", "--json").out)
    (tree,) = printed["trees"]
    assert tree["nodes"][0]["visits"] == 4 and tree["question"]["contexts"][1] == ["Tess home Portham"]
    assert all(pair["question"]["id"] == "question" for pair in printed["pairs"])


def test_the_tree_of_a_run_is_scaled_by_what_the_run_has_validated(finished: Finished) -> None:
    before = records(finished.folder)
    outcome = call("search", finished.folder.name, "--config", finished.arguments[2])
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("search: 24 dialogues\n"), "no probe is needed"
    assert visits(outcome) == [24]
    assert records(finished.folder) == before
    run = read_run(finished.folder)
    assert stored_probe(run, None) == run.read("validation/untrained", Rollouts) != []
    assert stored_probe(run, 1) == run.read("iteration_01/5_validation", Rollouts) != []


def test_what_cannot_be_searched_is_told(finished: Finished, recipe: tuple[Path, str, Path]) -> None:
    refused(
        call("search", finished.folder, "seed=3"),
        f"{finished.folder}: holds a run, whose recipe stands\n"
        "  try: leave out the settings and variants, or name a recipe",
    )
    refused(
        call("search", finished.folder, "--iteration", "7"),
        f"{finished.folder}: there is no iteration 7\n  try: trained so far: 0, 1",
    )
    refused(
        call("search", *recipe, "--iteration", "0"),
        "--iteration: a recipe has no iterations, only its runs have\n  try: name a run folder",
    )
    assert call("search", "quickstrat").err.startswith("error quickstrat: no such recipe\n  try: quickstart")
