"""A value head: what reward is to be expected, read off the model's last hidden state before each token.

The states are detached, so that the head learns without a say in what the adapter becomes. It learns while it goes
through a step's messages for the first time: it foretells as many rows as an optimiser step has, then takes one step
towards what came of them, so that no message is judged by a head that has seen its reward.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ModelError

_FILE = "value_head.safetensors"


class ValueHead(nn.Module):
    """Hidden states (..., hidden) to expected rewards (...). New, it expects nothing.

    The product is a mean over the width of the state, so that a learning rate means the same for every model.
    """

    def __init__(self, hidden: int, *, learning_rate: float, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden, device=device))
        self.bias = nn.Parameter(torch.zeros((), device=device))
        self._optimiser = torch.optim.Adam(self.parameters(), lr=learning_rate)

    def forward(self, states: Tensor) -> Tensor:
        """The expected reward at each state."""
        return (states.detach().float() * self.weight).mean(-1) + self.bias

    @torch.enable_grad()
    def learn(self, states: Tensor, rewards: Tensor, *, among: int) -> float:
        """Notes the rewards (n) that came of the states (n, hidden), n of the `among` that the next step is for; their
        squared errors, added up."""
        errors = (self(states) - rewards).square().sum()
        (errors / among).backward()
        return errors.item()

    def step(self) -> None:
        """Takes a step towards the rewards that were noted."""
        self._optimiser.step()
        self._optimiser.zero_grad()

    def save(self, folder: Path) -> None:
        """Writes the head beside its adapter."""
        save_file({name: weight.detach().cpu() for name, weight in self.named_parameters()}, folder / _FILE)

    def load(self, folder: Path) -> None:
        """Takes over the head in a folder; stays as it is where there is none, as after imitation. Raises ModelError
        for another model's."""
        path = folder / _FILE
        if not path.is_file():
            return
        try:
            self.load_state_dict(load_file(path))
        except RuntimeError as error:  # shapes differ
            raise ModelError("this value head belongs to another model", where=path) from error
