"""A run in which nothing is ever right stops before it trains, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from optima_lite.errors import DataError
from optima_lite.records import EvalRow
from optima_lite.runs.store import Run
from optima_lite.settings.config import load_recipe
from optima_lite.settings.recipe import Recipe
from optima_lite.stage.stage import require_something_right

EVALUATED = ("untrained_sampled", "untrained_greedy", "single_agent_sampled", "single_agent_greedy")


def required(folder: Path, *overrides: str, right: str | None = None, begun: bool = False) -> None:
    """Looks at a run whose evaluations score 0, but for one that is right a little."""
    recipe: Recipe = load_recipe("quickstart", overrides=overrides).recipe
    manifest = {"recipe": recipe.to_dict(), "recipe_name": "q", "variants": [], "versions": {}}
    with Run.open(folder, manifest) as run:
        for name in EVALUATED:
            score, (agents, _, decoding) = (0.02 if name == right else 0.0), name.rpartition("_")
            row = EvalRow(agents, decoding, 50, score, 0.0, 0.1, 30.0, 20.0, 40.0, 2.0, 0.5, None, 1.0)
            run.write_json(f"evaluation/{name}.json", row)
        if begun:
            (folder / "iteration_00").mkdir()
        require_something_right(run, recipe)


def test_it_stops_and_says_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        required(tmp_path / "run")
    assert "none of the 50 held-out questions was answered right" in str(caught.value)
    assert "chat" in str(caught.value.hint) and "evaluation.stop_if_none_right=false" in str(caught.value.hint)


def test_the_bundled_model_on_foreign_questions_is_named_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        required(tmp_path / "run", "task.name=jsonl", "task.path=rows.jsonl")
    assert "know the words of their own world alone" in str(caught.value.hint)


@pytest.mark.parametrize("right", EVALUATED)
def test_one_right_answer_anywhere_is_enough_to_go_on(tmp_path: Path, right: str) -> None:
    required(tmp_path / "run", right=right)


def test_who_wants_to_go_on_does_and_so_does_a_run_that_trains_already(tmp_path: Path) -> None:
    required(tmp_path / "one", "evaluation.stop_if_none_right=false")
    required(tmp_path / "other", begun=True)
