"""Which combination to evaluate next: the upper confidence bound, climbed one role at a time. Pure.

The bound is what the surrogate expects plus `exploration` times the uncertainty of a linear model of the embeddings
(section 4 of arXiv 2603.02630), which takes no training: it falls around what has been evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .space import Combination, Space

Score = Callable[[Sequence[Combination]], Tensor]
"""A value for each of some combinations."""

DAMPING = 1.0  # of the information matrix before anything is known: the unit that all else is measured in


def uncertainty(
    space: Space, combinations: Sequence[Combination], seen: Sequence[Combination], *, information: float
) -> Tensor:
    """sqrt(x^T M^-1 x) of every combination, x being its prompts' embeddings side by side and M = DAMPING I +
    information * sum of x x^T over what was seen. information: of one evaluation.

    Nothing of M's size is built (the matrix inversion lemma): with k = X x, X what was seen, it is
    sqrt((x.x - k^T (X X^T + DAMPING / information I)^-1 k) / DAMPING), of which the matrix has a row an evaluation.
    """
    own = (space.stacked(combinations) ** 2).sum((1, 2))
    if seen:
        known = space.products(seen, seen).sum(0) + DAMPING / information * torch.eye(len(seen), dtype=own.dtype)
        shared = space.products(seen, combinations).sum(0)
        own = own - (shared * torch.linalg.solve(known, shared)).sum(0)
    return (own.clamp_min(0) / DAMPING).sqrt()


def bound(
    space: Space, expected: Score, seen: Sequence[Combination], *, exploration: float, information: float
) -> Score:
    """The upper confidence bound. expected: what the surrogate makes of combinations."""

    def score(combinations: Sequence[Combination]) -> Tensor:
        return expected(combinations) + exploration * uncertainty(space, combinations, seen, information=information)

    return score


def ascend(start: Combination, sizes: Sequence[int], score: Score, *, sweeps: int) -> Combination:
    """Where coordinate ascent leads: role by role its best prompt while the others keep theirs, `sweeps` times over."""
    best = start
    for _ in range(sweeps):
        for role in range(len(sizes)):
            ways = along(best, role, sizes)
            best = ways[int(score(ways).argmax())]
    return best


def along(combination: Combination, role: int, sizes: Sequence[int]) -> list[Combination]:
    """The combinations that differ in one role's prompt at most."""
    return [(*combination[:role], prompt, *combination[role + 1 :]) for prompt in range(sizes[role])]
