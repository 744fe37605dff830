"""The surrogate of the paper: graph attention over the roles of a workflow (section 4 of arXiv 2603.02630).

A role's node holds the embedding of its prompt. An encoder for each role makes it small; one layer of GATv2 attention
(arXiv 2105.14491) lets roles look at those that they read, at themselves and, unless told otherwise, at those that read
them; their mean, through two linear maps, is the worth of the combination. Sizes and training are those of the authors'
code for embeddings of 1024 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, mse_loss

from .acquisition import Score
from .space import Combination, Edge, Space

_ENCODER, _WIDTH, _HEADS, _DROPOUT = 128, 32, 4, 0.05
_EPOCHS, _PATIENCE, _PLATEAU = 800, 200, 30


class GraphAttention(nn.Module):
    """Embeddings of every role's prompt, [combinations, roles, width], to a worth in (0, 1) of each combination.

    seen: [roles, roles], true where the first role looks at the second.
    """

    def __init__(self, width: int, seen: Tensor) -> None:
        super().__init__()
        roles = len(seen)
        self.encoder = nn.ParameterList([_uniform(roles, width, _ENCODER), _uniform(roles, _ENCODER, _WIDTH)])
        self.own, self.others = nn.Linear(_WIDTH, _HEADS * _WIDTH), nn.Linear(_WIDTH, _HEADS * _WIDTH, bias=False)
        self.weigh = nn.Parameter(_uniform(_HEADS, _WIDTH))
        self.worth = nn.Sequential(nn.Linear(_HEADS * _WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 1), nn.Sigmoid())
        self.dropout = nn.Dropout(_DROPOUT)
        self.register_buffer("seen", seen)

    def forward(self, prompts: Tensor) -> Tensor:
        """The worth of each combination."""
        nodes = self._encoded(prompts)
        heads = torch.einsum("chij,cjhw->cihw", self._attention(nodes), self._heads(self.others(nodes)))
        return self.worth(torch.relu(heads).flatten(2).mean(1)).squeeze(1)

    def attention(self, prompts: Tensor) -> Tensor:
        """How much each role looks at each other one, mean over heads and combinations: [roles, roles], rows add up to
        1."""
        return self._attention(self._encoded(prompts)).mean((0, 1))

    def _encoded(self, prompts: Tensor) -> Tensor:
        first, second = self.encoder
        hidden = self.dropout(torch.relu(torch.einsum("crw,rwh->crh", prompts, first)))
        return torch.relu(torch.einsum("crw,rwh->crh", hidden, second))

    def _attention(self, nodes: Tensor) -> Tensor:
        """[combinations, heads, roles, roles]."""
        pairs = self._heads(self.own(nodes))[:, :, None] + self._heads(self.others(nodes))[:, None]
        scores = torch.einsum("cijhw,hw->chij", leaky_relu(pairs, 0.2), self.weigh)
        return scores.masked_fill(~self.seen, -torch.inf).softmax(-1)

    def _heads(self, nodes: Tensor) -> Tensor:
        return nodes.unflatten(-1, (_HEADS, _WIDTH))


def _uniform(*shape: int) -> Tensor:
    """Weights as `nn.Linear` begins with them; the last but one size is what they read."""
    return (torch.rand(shape) * 2 - 1) / shape[-2] ** 0.5


def looks(edges: Sequence[Edge], roles: int, *, both_ways: bool) -> Tensor:
    """Who looks at whom: each role at itself and at those that it reads; both_ways: at those that read it, too."""
    seen = torch.eye(roles, dtype=torch.bool)
    for writer, reader in edges:
        seen[reader, writer] = True
        seen[writer, reader] |= both_ways
    return seen


def train(
    space: Space, seen: Sequence[Combination], values: Sequence[float], *, both_ways: bool, seed: int
) -> GraphAttention:
    """The network after training on all evaluations, from new weights. values: in [0, 1]. seed: of weights and
    dropout; nothing else draws from it."""
    prompts, targets = space.stacked(seen).float(), torch.tensor(values, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GraphAttention(prompts.shape[2], looks(space.edges, prompts.shape[1], both_ways=both_ways))
        optimiser = torch.optim.Adam(network.parameters(), lr=5e-3, weight_decay=1e-5, fused=True)
        slower = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.7, patience=_PLATEAU)
        least, waited = float("inf"), 0
        for _ in range(_EPOCHS):
            optimiser.zero_grad()
            loss = mse_loss(network(prompts), targets)
            loss.backward()
            optimiser.step()
            found = loss.item()
            slower.step(found)
            least, waited = (found, 0) if found < least else (least, waited + 1)
            if waited == _PATIENCE:
                break
    return network.eval()


def fit(space: Space, seen: Sequence[Combination], values: Sequence[float], *, both_ways: bool, seed: int) -> Score:
    """What the evaluated combinations let expect of others. values, seed: as in `train`."""
    network = train(space, seen, values, both_ways=both_ways, seed=seed)

    def expected(combinations: Sequence[Combination]) -> Tensor:
        with torch.no_grad():
            return network(space.stacked(combinations).float()).double()

    return expected


def between_roles(
    space: Space, seen: Sequence[Combination], values: Sequence[float], *, seed: int
) -> list[list[float]]:
    """How much each role looks at each other one once a network has learnt all evaluations, for reports: a row for
    each who looks. values: in [0, 1]."""
    network = train(space, seen, values, both_ways=True, seed=seed)
    with torch.no_grad():
        found = network.attention(space.stacked(seen).float())
    return [[round(float(one), 4) for one in row] for row in found]
