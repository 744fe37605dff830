"""The surrogate of a few lines: kernel regression on roles, and on pairs of roles that read each other. Pure.

Two combinations are alike as far as the prompts of each role are, and as far as those of both roles of an edge are at
once; without the second part the worth of a combination would be a sum over roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from .acquisition import Score
from .space import Combination, Space

_WIDTHS = (0.5, 1.0, 2.0)  # of the likeness of two prompts, whose embeddings have length 1
_NOISES = (0.01, 0.1, 0.5)  # variance of an evaluation, where those of the whole history are 1
_PAIRS = (0.0, 0.5, 2.0)  # weight of an edge's likeness, a role's being 1


@dataclass(frozen=True)
class _Likeness:
    """width: of a prompt's surroundings. noise: of an evaluation. pairs: weight of an edge."""

    width: float
    noise: float
    pairs: float


def fit(space: Space, seen: Sequence[Combination], values: Sequence[float]) -> Score:
    """What the evaluated combinations let expect of others. values: of those seen, one each, in any unit.

    Width, noise and weight are those of a small grid that foretell each evaluation best from all others.
    """
    targets = torch.tensor(values, dtype=torch.float64)
    middle, spread = targets.mean(), targets.std(unbiased=False).clamp_min(1e-9)
    wanted = (targets - middle) / spread
    products = space.products(seen, seen)
    best, weights = min(((how, *_solved(products, space, how, wanted)) for how in _grid(space)), key=_error)[:2]

    def expected(combinations: Sequence[Combination]) -> Tensor:
        likeness = _alike(space.products(combinations, seen), space, best)
        return middle + spread * (likeness @ weights)

    return expected


def _grid(space: Space) -> Iterator[_Likeness]:
    for width, noise, pairs in product(_WIDTHS, _NOISES, _PAIRS if space.edges else (0.0,)):
        yield _Likeness(width, noise, pairs)


def _error(found: tuple[_Likeness, Tensor, float]) -> float:
    return found[2]


def _solved(products: Tensor, space: Space, how: _Likeness, wanted: Tensor) -> tuple[Tensor, float]:
    """The weights of the evaluations, and the mean squared error of each one foretold without itself."""
    alike = _alike(products, space, how)
    inverse = torch.linalg.inv(alike / alike.diagonal().mean() + how.noise * torch.eye(len(wanted), dtype=alike.dtype))
    weights = inverse @ wanted
    left_out = weights / inverse.diagonal()
    return weights / alike.diagonal().mean(), float((left_out**2).mean())


def _alike(products: Tensor, space: Space, how: _Likeness) -> Tensor:
    """How alike combinations are, from the inner products of their prompts: [some, others]."""
    # |x - y|^2 = 2 - 2 x.y for embeddings of length 1
    roles = torch.exp((products - 1) / how.width**2)
    pairs = [roles[one] * roles[other] for one, other in {tuple(sorted(edge)) for edge in space.edges}]
    return roles.sum(0) + how.pairs * torch.stack(pairs).sum(0) if pairs else roles.sum(0)
