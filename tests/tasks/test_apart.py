"""Which questions nobody may learn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from optima_lite.settings.config import load_recipe
from optima_lite.settings.recipe import Recipe
from optima_lite.tasks import world
from optima_lite.tasks.apart import KeptApart
from optima_lite.tasks.questions import ALL, questions


def of_file(folder: Path, *, alike: bool) -> Recipe:
    rows = [
        {"question": "Which?" if alike else f"Which is {k}?", "answers": ["a"], "context": ["rules", f"ticket {k}"]}
        for k in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "r.yaml").write_text(f"model: {{name: tiny}}\ntask: {{name: jsonl, path: {folder}/rows.jsonl}}\n")
    return load_recipe(folder / "r.yaml").recipe


def test_in_the_world_every_split_is_known_however_many_are_asked(tmp_path: Path) -> None:
    apart = KeptApart(load_recipe("quickstart").recipe)
    for split, found in (("train", None), ("validation", "validation"), ("held_out", "held_out")):
        assert {apart.split_of(question) for question in world.questions(split, 2, seed=0, start=500)} == {found}


@pytest.mark.parametrize("alike", [False, True])
def test_of_a_file_all_that_judge_are_known_and_no_others(tmp_path: Path, alike: bool) -> None:
    recipe = of_file(tmp_path, alike=alike)
    apart = KeptApart(recipe)
    for split, found in (("train", None), ("validation", "validation"), ("held_out", "held_out")):
        drawn = questions(recipe.task, split, ALL, seed=0)
        assert drawn and {apart.split_of(question) for question in drawn} == {found}
    # dealt to other hands, spelt another way, or without the facts that are not needed
    held_out = questions(recipe.task, "held_out", 1, seed=0)[0]
    facts = tuple(fact for hand in held_out.contexts for fact in hand)
    for contexts in ((facts, ()), ((), tuple(fact.upper() for fact in facts)), ((facts[1],), ()), ((), ())):
        assert apart.split_of(replace(held_out, text=held_out.text.upper(), contexts=contexts))
