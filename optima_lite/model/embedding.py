"""Texts as vectors: the mean of the base model's last hidden states, adapter off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .policy import Policy


def embeddings(policy: Policy, texts: Sequence[Sequence[int]]) -> Tensor:
    """[texts, hidden size] in float32, on the CPU. texts: token ids, at least one each.

    One text at a time, so that none depends on what it is embedded with.
    """
    found = []
    with policy.reading() as base:
        for ids in texts:
            states = base.model(input_ids=torch.tensor([ids], device=policy.device)).last_hidden_state
            found.append(states[0].float().mean(0).cpu())
    return torch.stack(found)
