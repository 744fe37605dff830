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

AT_ONCE = 1 << 22  # probabilities held at a time: a large vocabulary times many rows is taken in parts
_ALMOST_ONE = 1 - 2.0**-53  # times this, a float64 becomes the one below it
_COLDEST = 1e-5  # what is divided by less may not be a number any more, and the likeliest token has all the chance
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio as a signed integer: the increment of splitmix64


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 means greedy, as does anything below 1e-5. top_p in (0, 1]. max_new_tokens counts the turn end."""

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


class KeyedSampler:
    """Chooses the tokens of a few steps, for each row by its own random numbers.

    keys: one a row. done: tokens that each row has sampled already. steps: how many will be asked for. candidates: see
    `draw`. beyond: (rows,) above 0 where some nucleus went beyond them, so that what this chose is void.
    """

    def __init__(
        self,
        keys: Sequence[int],
        done: Sequence[int],
        *,
        sampling: Sampling,
        steps: int,
        candidates: int,
        device: torch.device,
    ) -> None:
        numbers = uniforms(torch.tensor(keys)[:, None], torch.tensor(done)[:, None] + torch.arange(steps))
        self.uniforms = numbers.to(device)  # all steps in one transfer
        self.sampling = sampling
        self.candidates = candidates
        self.beyond = torch.zeros(len(keys), dtype=torch.long, device=device)

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """Logits (rows, vocabulary) of a step to token ids (rows,)."""
        how = self.sampling
        if how.temperature < _COLDEST:
            return logits.argmax(-1)
        uniform = self.uniforms[:, step]
        tokens, beyond = draw(logits, uniform, temperature=how.temperature, top_p=how.top_p, candidates=self.candidates)
        if beyond is not None:
            self.beyond += beyond
        return tokens


class MixedSampler:
    """The same for rows of several samplings: each is drawn as it would be among its like."""

    def __init__(self, parts: Sequence[tuple[Tensor, KeyedSampler]]) -> None:
        """parts: the numbers of some rows, and what samples these; together all rows."""
        self._parts = parts

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """As of `KeyedSampler`."""
        return self._gathered([sampler(logits[rows], step) for rows, sampler in self._parts])

    @property
    def beyond(self) -> Tensor:
        """As of `KeyedSampler`."""
        return self._gathered([sampler.beyond for _, sampler in self._parts])

    def _gathered(self, values: Sequence[Tensor]) -> Tensor:
        found = values[0].new_empty(sum(map(len, values)))
        for (rows, _), some in zip(self._parts, values, strict=True):
            found[rows] = some
        return found


def sampler_of(
    keys: Sequence[int],
    done: Sequence[int],
    *,
    samplings: Sequence[Sampling],
    steps: int,
    candidates: int,
    device: torch.device,
) -> KeyedSampler | MixedSampler:
    """What chooses the tokens of a few steps for rows with a sampling each; see `KeyedSampler`."""
    alike: dict[tuple[float, float], list[int]] = {}
    for row, how in enumerate(samplings):
        alike.setdefault((how.temperature, how.top_p), []).append(row)
    parts = [
        KeyedSampler(
            [keys[row] for row in rows],
            [done[row] for row in rows],
            sampling=samplings[rows[0]],
            steps=steps,
            candidates=candidates,
            device=device,
        )
        for rows in alike.values()
    ]
    if len(parts) == 1:
        return parts[0]
    return MixedSampler(
        [(torch.tensor(rows, device=device), part) for rows, part in zip(alike.values(), parts, strict=True)]
    )


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


def draw(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_p: float, candidates: int
) -> tuple[Tensor, Tensor | None]:
    """Inverse-CDF sampling. logits: (rows, vocabulary); uniform: (rows,) in (0, 1). Returns token ids (rows,), and
    which rows' nucleus goes beyond the candidates, so that their token is void; None where top_p is 1.

    The nucleus are the likeliest tokens, of equal ones the first, as long as those before them have less than top_p.
    It is looked for among so many candidates only, because sorting a large vocabulary costs more than all the rest.
    Probabilities are taken in float64, in the order of the vocabulary, so that a hair's difference in the logits
    moves the border between two neighbouring tokens by a hair.
    """
    at_once = max(1, AT_ONCE // logits.shape[1])
    drawn = [
        _draw(some, points, temperature, top_p, candidates)
        for some, points in zip(logits.split(at_once), uniform.split(at_once), strict=True)
    ]
    if len(drawn) == 1:
        return drawn[0]
    tokens, beyond = zip(*drawn, strict=True)
    return torch.cat(tokens), None if top_p == 1 else torch.cat(beyond)


def _draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float, candidates: int
) -> tuple[Tensor, Tensor | None]:
    precise = logits.to(torch.float64)
    probabilities = torch.softmax(precise if temperature == 1 else precise / temperature, dim=-1)
    del precise  # a third copy would be held to the end
    if top_p == 1:
        return _invert(probabilities, uniform), None
    chances, tokens, beyond = _nucleus(probabilities, top_p, min(candidates, logits.shape[1]))
    return tokens.gather(1, _invert(chances, uniform)[:, None])[:, 0], beyond


def _invert(chances: Tensor, uniform: Tensor) -> Tensor:
    """The first columns (rows,) up to which more than a uniform share of the row lies; never one without chance."""
    cumulative = chances.cumsum(-1)
    total = cumulative[:, -1]
    below = total * _ALMOST_ONE  # a share may round to the whole
    return torch.searchsorted(cumulative, torch.minimum(uniform * total, below)[:, None], right=True)[:, 0]


def _nucleus(probabilities: Tensor, top_p: float, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates in the order of the vocabulary, (rows, candidates): their chances, 0 outside of the nucleus; their
    ids; and which rows' nucleus may hold a token that is no candidate."""
    tokens = probabilities.topk(candidates, sorted=False).indices.sort(-1).values
    chances = probabilities.gather(1, tokens)
    ranked, order = chances.sort(dim=-1, descending=True, stable=True)
    before = torch.nn.functional.pad(ranked.cumsum(-1)[:, :-1], (1, 0))
    outside = torch.empty_like(before, dtype=torch.bool).scatter_(1, order, before >= top_p)
    nucleus = chances.masked_fill(outside, 0.0)
    # Of equal tokens top-k takes any, so all that equal the last of the nucleus must be among the candidates.
    last = nucleus.masked_fill(outside, torch.inf).amin(-1)
    beyond = ranked[:, -1] >= last if candidates < probabilities.shape[1] else torch.zeros_like(last, dtype=torch.bool)
    return nucleus, tokens, beyond
