"""Sampling keyed by row: which token comes next depends on the logits, a row's key and the step alone.

Every step draws one uniform number hashed from (key, step) and inverts the cumulative distribution after temperature
and top-p. So a row says the same in whatever batch it is, and whoever shares it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

_AT_ONCE = 1 << 24  # probabilities held at a time: a large vocabulary times many rows is taken in parts
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio as a signed integer: the increment of splitmix64


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 means greedy. top_p in (0, 1]. max_new_tokens counts the turn end."""

    temperature: float
    top_p: float
    max_new_tokens: int


def row_key(*parts: object) -> int:
    """A 63-bit key from whatever identifies a row: seed, iteration, question, rollout, turn."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def seed_of(*parts: object) -> int:
    """A 32-bit seed, which every library takes, from whatever identifies a draw: seed, iteration, step, purpose.

    Sums would not do: seed 0 in iteration 1 is not to draw what seed 1 draws in iteration 0.
    """
    return row_key(*parts) % 2**32


class KeyedSampler(LogitsProcessor):
    """Leaves each row the one token that its own random number points at.

    keys: one a row. done: tokens that each row has sampled already. start: length of the padded prompts, so that the
    step is known from the ids seen so far. steps: how many will be asked for.
    """

    def __init__(self, keys: Sequence[int], done: Sequence[int], *, sampling: Sampling, start: int, steps: int) -> None:
        self.uniforms = uniforms(torch.tensor(keys)[:, None], torch.tensor(done)[:, None] + torch.arange(steps))
        self.sampling = sampling
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (rows, vocabulary) logits; returns the same with every token but the drawn one at minus infinity."""
        self.uniforms = self.uniforms.to(scores.device)  # all steps in one transfer
        uniform = self.uniforms[:, input_ids.shape[1] - self.start]
        token = draw(scores, uniform, temperature=self.sampling.temperature, top_p=self.sampling.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """One float64 in (0, 1) per key and step, by the splitmix64 finaliser; both int64, of shapes that broadcast."""
    z = keys + (steps + 1) * _GOLDEN  # int64 wraps around, as it should
    z = (z ^ _shift(z, 30)) * -4658895280553007687
    z = (z ^ _shift(z, 27)) * -7723592293110705685
    z = z ^ _shift(z, 31)
    return (_shift(z, 11).to(torch.float64) + 0.5) / 2.0**53


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def draw(logits: Tensor, uniform: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """Inverse-CDF sampling. logits: (rows, vocabulary); uniform: (rows,) in (0, 1); returns token ids (rows,).

    Probabilities are taken in float64, in the order of the vocabulary, so that a hair's difference in the logits
    moves the border between two neighbouring tokens by a hair.
    """
    at_once = max(1, _AT_ONCE // logits.shape[1])
    parts = zip(logits.split(at_once), uniform.split(at_once), strict=True)
    return torch.cat([_draw(some, points, temperature, top_p) for some, points in parts])


def _draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    probabilities = torch.softmax(logits.to(torch.float64) / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.masked_fill(torch.empty_like(outside).scatter_(1, order, outside), 0.0)
    cumulative = probabilities.cumsum(-1)
    target = uniform * cumulative[:, -1]
    token = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    # Rounding at the very end of the scale may point one past the last token that has any probability.
    last = cumulative.shape[1] - 1 - (probabilities > 0).flip(-1).to(torch.int8).argmax(-1)
    return torch.minimum(token, last)
