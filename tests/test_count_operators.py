"""The work of a decoding step at the shape of an 8B, counted without a card: it must not grow unnoticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.model.shapes import LLAMA3  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from count_operators import SLICE, WAYS, step  # noqa: E402

EIGHT = LLAMA3["8b"]


@pytest.mark.parametrize(
    ("sampling", "outside"),
    [(Sampling(1.0, 1.0, 64), 30), (Sampling(1.0, 0.9, 64), 45), (Sampling(0.0, 1.0, 64), 25)],
    ids=["sampled", "nucleus", "greedy"],
)
def test_a_step_of_an_8b_starts_few_kernels_and_waits_once_a_slice(sampling: Sampling, outside: int) -> None:
    ours = step(EIGHT, "loop", sampling)
    assert ours.layer <= 54
    assert ours.outside <= outside
    assert ours.waits == 1 / SLICE, "whoever looks at a token in between makes the card run dry"


def test_what_it_saves_of_the_plain_ways() -> None:
    generate, peft, ours = (step(EIGHT, way, Sampling(1.0, 1.0, 64)) for way in WAYS)
    assert peft.layer - ours.layer >= 5 * 7, "for each linear map: casts there and back, a copy, a scale and a sum"
    assert generate.layer == peft.layer
    assert generate.outside - ours.outside >= 40
    assert generate.waits >= 1
