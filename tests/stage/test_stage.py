"""What the steps of a run share: the draws of a seed, an iteration and a step are nobody else's."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.learn.sft import TrainingFacts, adapter_weights  # noqa: E402
from optima_lite.model.sampling import seed_of  # noqa: E402
from optima_lite.runs.folder import IMITATED, PREFERRED  # noqa: E402
from optima_lite.runs.store import Run  # noqa: E402
from optima_lite.stage.cast import Cast  # noqa: E402
from optima_lite.stage.crew import Alone  # noqa: E402
from optima_lite.stage.lesson import Lesson  # noqa: E402
from optima_lite.stage.stage import Stage  # noqa: E402


def test_seeds_iterations_and_steps_share_no_draws(cast: Cast, tmp_path: Path) -> None:
    """Of runs with neighbouring seeds each adapter begins differently, and each shuffle is another."""
    starts: list[bytes] = []
    shuffles: list[int] = []

    def optimise(policy: Any, rows: Any, *, seed: int, **_: Any) -> TrainingFacts:
        starts.append(b"".join(w.numpy().tobytes() for n, w in adapter_weights(policy.model).items() if "lora_A" in n))
        shuffles.append(seed)
        return TrainingFacts(0, 0, 0, 0, None)

    for seed, iteration in product((0, 1, 2), (0, 1, 2)):
        recipe = cast.recipe.model_copy(
            update={
                "seed": seed,
                "training": cast.recipe.training.model_copy(update={"restart": "base"}),
                "dpo": cast.recipe.dpo.model_copy(update={"restart": "base"}),
            }
        )
        manifest = {"recipe": recipe.to_dict(), "recipe_name": "x"}
        with Run.open(tmp_path / f"seed{seed}", manifest) as run:
            seeded = replace(cast, recipe=recipe)
            stage = Stage(seeded, run, lambda event: None, Alone(seeded))
            for name, settings in ((IMITATED, recipe.training), (PREFERRED, recipe.dpo)):
                stage.adapt(Lesson(optimise, {"shared": [object()]}, settings, iteration, name), label="train")
    assert len(shuffles) == len(set(shuffles)) == 18, "no two shuffle their rows alike"
    assert len(starts) == len(set(starts)) == 18, "no two start from the same adapter"


def test_a_seed_is_one_that_every_library_takes() -> None:
    assert seed_of(0, 1, "x") == seed_of(0, 1, "x") != seed_of(1, 0, "x")
    assert all(0 <= seed_of(k) < 2**32 for k in range(100))
