"""Where runs are kept: other settings, another folder; the same settings, the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optima_lite.runs.naming import run_folder
from optima_lite.settings.config import LoadedRecipe, load_recipe
from optima_lite.settings.machine import Machine


def named(*overrides: str, folder: str = "runs", variants: tuple[str, ...] = ()) -> str:
    loaded = load_recipe("quickstart", overrides=overrides, variants=variants)
    return run_folder(loaded, Machine(run_folder=folder)).name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "quickstart-seed0"),
        (("seed=3",), "quickstart-seed3"),
        (("training.iterations=5", "evaluation.stop_if_none_right=false"), "quickstart-seed0"),
        (("reward.token_weight=0",), "quickstart-token_weight0.0-seed0"),
        (("training.questions=40", "seed=1"), "quickstart-training.questions40-seed1"),
        (("dpo.questions=9", "training.questions=4"), "quickstart-training.questions4-dpo.questions9-seed0"),
        (("training.questions=4", "dpo.questions=9"), "quickstart-training.questions4-dpo.questions9-seed0"),
        (("schedule=isft",), "quickstart-scheduleisft-seed0"),
    ],
)
def test_what_the_command_line_changed_is_in_the_name(overrides: tuple[str, ...], name: str) -> None:
    assert named(*overrides) == name


def test_values_that_are_no_names_stay_apart_and_short() -> None:
    one, other = named("prompts.system=Be {name}, a/b"), named("prompts.system=Be {name}, a:b")
    assert one != other and "/" not in one
    long = [f"prompts.system={'a' * 300}", f"prompts.solo_system={'b' * 300}", "reward.token_weight=0.123"]
    assert len(named(*long)) < 110 and named(*long) != named(*long[:2])


def begun(folder: Path, loaded: LoadedRecipe) -> None:
    (folder / "iteration_00").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"recipe": loaded.recipe.to_dict()}))
    (folder / "iteration_00" / "1_dialogues.jsonl").write_text("")


def test_a_run_that_was_begun_under_the_short_name_is_found_again(tmp_path: Path) -> None:
    begun(tmp_path / "quickstart-seed0", load_recipe("quickstart", overrides=["training.questions=40"]))
    assert named("training.questions=40", folder=str(tmp_path)) == "quickstart-seed0"
    assert named("training.questions=50", folder=str(tmp_path)) == "quickstart-training.questions50-seed0"


def test_a_team_is_in_the_name_by_its_own_name() -> None:
    assert named("team=proposer_critic") == "quickstart-proposer_critic-seed0"
    apart = named("team=proposer_critic", "team.adapters=separate")
    assert apart.startswith("quickstart-proposer_critic_") and apart != named("team=proposer_critic")
