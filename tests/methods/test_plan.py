"""The plan of a run, against what a run then does."""

from __future__ import annotations

from pathlib import Path

import pytest

from optima_lite.methods.plan import plan
from optima_lite.runs.folder import read_run
from optima_lite.settings.config import load_machine, load_recipe
from optima_lite.stage.pace import measure
from support import Finished


def test_a_run_goes_through_the_phases_that_were_planned(finished: Finished) -> None:
    planned = [(phase.iteration, phase.phase) for phase in plan(load_recipe(finished.arguments[0]).recipe)]
    went = read_run(finished.folder).timings()[: len(planned)]  # the rest are later calls, which only read
    assert [(timing.iteration, timing.phase) for timing in went] == planned


def test_what_the_plan_says_of_a_phase_s_size_is_what_the_run_then_does(finished: Finished) -> None:
    sizes = {(phase.iteration, phase.phase): phase.total for phase in plan(load_recipe(finished.arguments[0]).recipe)}
    for timing in read_run(finished.folder).timings()[: len(sizes)]:
        if timing.phase != "train":  # as many as are selected
            assert sizes[timing.iteration, timing.phase] == timing.units


def test_a_short_talk_foretells_what_a_run_will_store(finished: Finished) -> None:
    recipe = load_recipe(finished.arguments[0]).recipe
    pace = measure(recipe, plan(recipe), machine=load_machine(Path(finished.arguments[2])))
    kept = [path for path in finished.folder.rglob("*") if path.suffix in (".jsonl", ".safetensors")]
    stored = sum(path.stat().st_size for path in kept if not path.parent.is_symlink())
    assert stored / 1.5 < pace.stored < stored * 1.5
    assert pace.seconds is not None and pace.seconds > 0


@pytest.mark.parametrize("schedule", ["isft", "idpo", "isft-dpo"])
def test_a_plan_has_the_steps_of_its_schedule(schedule: str) -> None:
    phases = plan(load_recipe("quickstart", overrides=[f"schedule={schedule}", "training.iterations=2"]).recipe)
    trained = [(phase.iteration, phase.phase) for phase in phases if phase.parts == ("train",)]
    imitated, preferred = [(0, "train"), (1, "train")], [(0, "prefer"), (1, "prefer")]
    wanted = {"isft": imitated, "idpo": [imitated[0], preferred[1]], "isft-dpo": [*imitated, *preferred]}
    assert sorted(trained) == sorted(wanted[schedule])
