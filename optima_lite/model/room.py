"""The memory that a run may take on this machine in all: what is free, and what the loaded weights hold already."""

from __future__ import annotations

import torch

from ..settings.machine import Machine
from .memory import GIB
from .policy import Policy
from .resources import free_memory


def available(policy: Policy, *, machine: Machine) -> int:
    """Bytes that a run may take in all, those of the weights included: what is free now besides them.

    On a GPU, what other programs hold of the card is left to them, and machine.max_vram_gib is kept.
    """
    if policy.device.type != "cuda":
        resting = (weight for name in policy.names if name != policy.worn for weight in policy.weights(name))
        return free_memory() + sum(weight.nbytes for weight in (*policy.model.parameters(), *resting))
    return card_room(machine)


def card_room(machine: Machine) -> int:
    """Bytes of the GPU that a run may take in all; see `available`."""
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return min(free, free if machine.max_vram_gib == "auto" else int(machine.max_vram_gib * GIB)) - GIB // 4
