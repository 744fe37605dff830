"""The numbers behind every sampled token: uniform, keyed, and turned into tokens that top-p allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from optima_lite.model import sampling
from optima_lite.model.sampling import KeyedSampler, Sampling, draw, row_key, uniforms

SAMPLED, GREEDY = Sampling(1.0, 1.0, 20), Sampling(0.0, 1.0, 20)
ALL = 1 << 20  # candidates: any vocabulary of these tests


def sampler(keys: Sequence[int], done: Sequence[int], *, how: Sampling = SAMPLED, steps: int = 1) -> KeyedSampler:
    return KeyedSampler(keys, done, sampling=how, steps=steps, candidates=ALL, device=torch.device("cpu"))


def test_random_numbers_are_uniform_and_unlike_each_other() -> None:
    numbers = uniforms(torch.arange(100)[:, None], torch.arange(100))
    assert numbers.shape == (100, 100)
    assert float(numbers.min()) > 0 and float(numbers.max()) < 1
    assert len(numbers.unique()) == 10_000
    counts = torch.histc(numbers, bins=10, min=0, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_a_rows_numbers_do_not_depend_on_slices() -> None:
    keys = [row_key("a"), row_key("b")]
    whole = sampler(keys, [0, 0], steps=12).uniforms
    later = sampler(keys[::-1], [5, 8], steps=4).uniforms
    assert torch.equal(later[0], whole[1, 5:9])
    assert torch.equal(later[1], whole[0, 8:12])


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-6])
def test_without_temperature_the_likeliest_token_is_taken(temperature: float) -> None:
    """Also where so little is left of it that logits divided by it are no numbers."""
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -torch.inf, 2.0]])
    assert sampler([1, 2], [0, 0], how=replace(GREEDY, temperature=temperature))(logits, 0).tolist() == [1, 0]


# --- Against the plainest way ---------------------------------------------------------------------


def drawn_plainly(logits: Tensor, uniform: float, *, temperature: float, top_p: float) -> int:
    """One row: tokens sorted by falling probability, and among equal ones as they come, kept while those before them
    have less than top_p; then the first in the order of the vocabulary up to which a uniform share of them lies."""
    chances = (logits.double() / temperature).softmax(-1).tolist()
    ranked = sorted(range(len(chances)), key=lambda i: (-chances[i], i))
    mass = [0.0, *accumulate(chances[i] for i in ranked)]
    kept = sorted(i for i, before in zip(ranked, mass, strict=False) if before < top_p or top_p == 1)
    upto = list(accumulate(chances[i] for i in kept))
    point = uniform * upto[-1]
    return next((i for i, below in zip(kept, upto, strict=True) if below > point), -1)


def hostile_rows(noise: torch.Generator, size: int) -> Tensor:
    """Logits of every kind that breaks shortcuts."""
    normal = torch.randn(size, generator=noise, dtype=torch.float64)
    one_hot = torch.full((size,), -torch.inf, dtype=torch.float64)
    one_hot[size // 3] = 0.0
    masked = normal.clone()
    masked[::2] = -torch.inf
    steps = torch.zeros(size, dtype=torch.float64)
    steps[: size // 4] = 2.0
    return torch.stack(
        [
            normal * 3,
            normal * 30,
            normal / 100,
            torch.zeros(size, dtype=torch.float64),  # flat: all equal
            (normal * 2).round(),  # many equal
            normal.to(torch.bfloat16).double() * 4,
            one_hot,
            masked,
            steps.flip(0),
        ]
    )


@pytest.mark.parametrize("candidates", [1, 4, 16, 37, ALL])
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([3, 40, 150]),
    top_p=st.sampled_from([0.05, 0.25, 0.5, 0.9, 0.999, 1.0]) | st.floats(0.01, 1.0),
    temperature=st.sampled_from([1.0, 0.7, 1.3, 3.0]),
)
def test_the_same_token_as_by_sorting_the_whole_vocabulary(
    candidates: int, seed: int, size: int, top_p: float, temperature: float
) -> None:
    noise = torch.Generator().manual_seed(seed)
    logits = hostile_rows(noise, size)
    points = torch.rand(len(logits), generator=noise, dtype=torch.float64)
    how = {"temperature": temperature, "top_p": top_p}
    tokens, beyond = draw(logits, points, candidates=candidates, **how)
    assert (beyond is None) == (top_p == 1)
    expected = [drawn_plainly(row, float(point), **how) for row, point in zip(logits, points, strict=True)]
    void = [False] * len(logits) if beyond is None else beyond.tolist()
    if candidates >= size:
        assert not any(void)
    told = [(token, right) for token, right, gone in zip(tokens.tolist(), expected, void, strict=True) if not gone]
    assert all(token == right for token, right in told), told


def test_a_narrow_nucleus_is_found_among_few_candidates() -> None:
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)) * 6
    points = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    few, beyond = draw(logits, points, temperature=1.0, top_p=0.9, candidates=512)
    assert beyond is not None and not beyond.any()
    assert torch.equal(few, draw(logits, points, temperature=1.0, top_p=0.9, candidates=ALL)[0])


def test_equal_tokens_at_the_edge_of_the_nucleus_are_taken_in_the_order_of_the_vocabulary() -> None:
    logits = torch.zeros(1, 8)  # half of eight equal tokens: the first four
    points = torch.arange(0.5, 16) / 16
    drawn = draw(logits.expand(16, 8), points.double(), temperature=1.0, top_p=0.5, candidates=ALL)[0]
    assert drawn.tolist() == [k // 4 for k in range(16)]
    assert draw(logits, points[:1].double(), temperature=1.0, top_p=0.5, candidates=4)[1], "top-k takes any of them"


def test_many_rows_of_a_large_vocabulary_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, points = torch.randn(7, 50), torch.rand(7, dtype=torch.float64)
    for top_p in (0.9, 1.0):
        monkeypatch.setattr(sampling, "AT_ONCE", 1 << 22)
        whole, beyond = draw(logits, points, temperature=1.0, top_p=top_p, candidates=20)
        monkeypatch.setattr(sampling, "AT_ONCE", 120)
        tokens, beyond_in_parts = draw(logits, points, temperature=1.0, top_p=top_p, candidates=20)
        assert torch.equal(tokens, whole)
        assert (beyond is None and beyond_in_parts is None) or torch.equal(beyond, beyond_in_parts)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("point", [1e-17, 0.5, 1 - 1e-17])
def test_no_impossible_token_is_drawn(point: float, top_p: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    drawn, _ = draw(logits, torch.tensor([point], dtype=torch.float64), temperature=1.0, top_p=top_p, candidates=ALL)
    assert int(drawn) in (1, 2)


# --- What it costs --------------------------------------------------------------------------------


class Passes(TorchDispatchMode):
    """Counts the operators that write, or sort, as many numbers as the logits have, by the bytes of each."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.names: list[str] = []
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        written = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
        full = [t for t in written if t.numel() >= self.numbers and t._base is None]
        if full:
            self.names.append(func.overloadpacket.__name__)
            self.bytes += sum(t.nbytes for t in full)
        return out


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_the_vocabulary_is_gone_through_few_times_and_never_sorted(top_p: float) -> None:
    rows, vocabulary = 4, 128_256
    logits = (torch.randn(rows, vocabulary) * 5).to(torch.bfloat16)
    points = torch.full((rows,), 0.3, dtype=torch.float64)
    with Passes(logits.numel()) as passes:
        draw(logits, points, temperature=1.0, top_p=top_p, candidates=1024)
    assert passes.names == ["_to_copy", "_softmax"] + (["cumsum"] if top_p == 1 else [])
    assert passes.bytes <= 3 * 8 * logits.numel()
