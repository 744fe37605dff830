"""The forecast of memory against what a process really takes, phase by phase, on the CPU (Linux).

    python scripts/measure_memory.py 30m [--nf4] [--row-tokens 512] [--batch-tokens 4096] [--micro-batch 2]

Out: rows of a Markdown table: shape, phase, forecast and measured MiB, and their ratio. Measured is resident memory
above that of the process with its libraries but without the model. The 1b shape takes minutes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
from pathlib import Path

# Freed memory goes back to the system at once, so that no phase is charged for another; read when Python starts.
if os.environ.get("MALLOC_MMAP_THRESHOLD_") != "65536":
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"})

import random_llama
import torch

from optima_lite.model.loading import load
from optima_lite.model.memory import Limits, adapter_bytes, forecast, weight_bytes
from optima_lite.settings.machine import Machine
from optima_lite.settings.sections import ModelSettings
from optima_lite.stage.probe import measure, resident

MIB = 2**20


def main() -> None:
    """Measures each phase once, after a first round in small that loads what is loaded late."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=random_llama.SHAPES)
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--turn-tokens", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        random_llama.write(given.shape, Path(scratch), nf4=given.nf4)
        policy = load(ModelSettings(name=scratch, max_length=given.row_tokens), machine=Machine(), seed=0)
        for weight in policy.model.parameters():
            weight.data = weight.data.clone()  # off the mapped file, of which only what is read counts as resident
        for _ in measure(policy, Limits(32, 4, 16, 1, 0)):
            pass
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        held = weight_bytes(policy.shape, policy.setup) + adapter_bytes(policy.shape, policy.setup)
        without = resident() - held
        limits = Limits(given.batch_tokens, given.turn_tokens, given.row_tokens, given.micro_batch, 0)
        expected = {phase.name: phase.total for phase in forecast(policy.shape, policy.setup, limits)}
        name = f"{given.shape} nf4" if given.nf4 else given.shape
        for phase, peak in measure(policy, limits):
            ours, real = expected[phase] / MIB, (peak - without) / MIB
            print(f"| {name} | {phase} | {ours:,.0f} | {real:,.0f} | {ours / real:.2f} |", flush=True)


if __name__ == "__main__":
    main()
