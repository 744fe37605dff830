"""The numbers behind every sampled token: uniform, keyed, and turned into tokens that top-p allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.model.sampling import KeyedSampler, Sampling, draw, row_key, uniforms

SAMPLED = Sampling(1.0, 1.0, 20)


def test_random_numbers_are_uniform_and_unlike_each_other() -> None:
    numbers = uniforms(torch.arange(100)[:, None], torch.arange(100))
    assert numbers.shape == (100, 100)
    assert float(numbers.min()) > 0 and float(numbers.max()) < 1
    assert len(numbers.unique()) == 10_000
    counts = torch.histc(numbers, bins=10, min=0, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_a_rows_numbers_do_not_depend_on_slices() -> None:
    keys = [row_key("a"), row_key("b")]
    whole = KeyedSampler(keys, [0, 0], sampling=SAMPLED, start=0, steps=12).uniforms
    later = KeyedSampler(keys[::-1], [5, 8], sampling=SAMPLED, start=0, steps=4).uniforms
    assert torch.equal(later[0], whole[1, 5:9])
    assert torch.equal(later[1], whole[0, 8:12])


@given(st.integers(0, 10**6), st.floats(0.05, 1.0), st.floats(0.1, 3.0))
def test_top_p_keeps_the_likeliest_and_draws_nothing_else(seed: int, top_p: float, temperature: float) -> None:
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 20, generator=noise, dtype=torch.float64) * 3
    points = torch.rand(5, generator=noise, dtype=torch.float64)
    tokens = draw(logits, points, temperature=temperature, top_p=top_p)
    for line, token in zip((logits / temperature).softmax(-1), tokens, strict=True):
        assert float(line[line > line[token]].sum()) < top_p


def test_many_rows_of_a_large_vocabulary_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, points = torch.randn(7, 50), torch.rand(7, dtype=torch.float64)
    whole = draw(logits, points, temperature=1.0, top_p=0.9)
    monkeypatch.setattr("optima_lite.model.sampling._AT_ONCE", 120)
    assert torch.equal(draw(logits, points, temperature=1.0, top_p=0.9), whole)


@pytest.mark.parametrize("point", [1e-17, 0.5, 1 - 1e-17])
def test_no_impossible_token_is_drawn(point: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    drawn = draw(logits, torch.tensor([point], dtype=torch.float64), temperature=1.0, top_p=1.0)
    assert int(drawn) in (1, 2)
