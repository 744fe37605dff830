"""All combinations of prompts, one for every role: what tells two prompts apart, and which roles read each other. Pure.

Whatever is reckoned with prompts needs their embeddings only by inner products, so those are kept in the few
dimensions that the prompts of a workflow span: rotated, no inner product changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

Combination = tuple[int, ...]
"""For each role, in the order of the workflow, the number of its prompt; 0 is the original."""
Edge = tuple[int, int]
"""Two roles by number: the second reads what the first writes."""


@dataclass(frozen=True, eq=False)
class Space:
    """features: for each role its prompts' embeddings, [prompts, width] with one width for all. edges: of the graph of
    roles."""

    features: tuple[Tensor, ...]
    edges: tuple[Edge, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many prompts each role has."""
        return tuple(len(own) for own in self.features)

    @property
    def combinations(self) -> int:
        """How many there are."""
        return int(torch.tensor(self.sizes).prod())

    def stacked(self, combinations: Sequence[Combination]) -> Tensor:
        """The embeddings of every role's prompt in each combination: [combinations, roles, width]."""
        chosen = torch.tensor(combinations)
        return torch.stack([own[chosen[:, role]] for role, own in enumerate(self.features)], dim=1)

    def products(self, some: Sequence[Combination], others: Sequence[Combination]) -> Tensor:
        """For each role the inner products of its prompts in `some` with those in `others`: [roles, some, others]."""
        here, there = self.stacked(some), self.stacked(others)
        return torch.einsum("arw,brw->rab", here, there)


def space(embeddings: Sequence[Tensor], edges: Sequence[Edge]) -> Space:
    """The space of prompts with these embeddings, [prompts, width] for each role, all of one width.

    Of each role's prompts the mean is taken away, which they all share, and what is left has length 1. Prompts of equal
    embeddings, which nothing tells apart, become 0 where they are all that a role has.
    """
    apart = [normalize((own - own.mean(0)).double(), dim=1) for own in embeddings]
    whole = torch.cat(apart)
    spanned = torch.linalg.qr(whole.T).R.T if whole.shape[1] > len(whole) else whole
    return Space(tuple(part.contiguous() for part in spanned.split([len(own) for own in embeddings])), tuple(edges))
