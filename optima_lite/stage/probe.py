"""What a model really takes: each phase of a run once, at full size, on made-up tokens, with its peak of memory.

The counterpart of `memory`, which forecasts the same phases from the model's shape.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..learn.dpo import PairIds, optimise
from ..learn.episodes import Episode
from ..learn.rl import reinforce
from ..learn.sft import fine_tune
from ..model.generate import Generator
from ..model.memory import Limits
from ..model.policy import Policy
from ..model.render import Rendered
from ..model.sampling import Sampling
from ..settings.reinforce import ReinforceSettings
from ..settings.sections import DpoSettings, TrainingSettings

PHASES = ("sample", "read", "sft", "dpo", "rl")  # of `memory.forecast`
_STATUS = Path("/proc/self/status")


@dataclass
class Peak:
    """bytes: the most that was held at a time, known when the block of `watch` is done."""

    bytes: int = 0


@contextmanager
def watch(device: torch.device) -> Iterator[Peak]:
    """The peak of what torch holds on a GPU, or of this process's resident memory on Linux (0 elsewhere)."""
    peak = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device)
    elif _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's own peak starts again from what is held now
        yield peak
        peak.bytes = resident("VmHWM")
    else:
        yield peak


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory now, or at most since the last `watch` began (VmHWM). Linux only."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measure(
    policy: Policy, limits: Limits, *, phases: Sequence[str] = PHASES, seed: int = 0
) -> Iterator[tuple[str, int]]:
    """Each phase's name, as in `memory.forecast`, and its measured peak in bytes.

    Two batches are sampled, one read, one optimiser step taken of each kind, on the longest rows there can be. The
    adapter is started afresh afterwards.
    """
    ids, examples = MadeUp(policy, seed), range(limits.micro_batch)
    rows = max(1, limits.batch_tokens // limits.row_tokens)
    generator = Generator(policy, max_batch_tokens=rows * limits.row_tokens, max_cache_bytes=limits.cache_bytes)
    how: dict[str, Any] = {"micro_batch": limits.micro_batch, "seed": seed, "on_step": lambda done: None}

    def sample() -> None:
        for _ in range(2):  # the memory of one batch is still held when the next is laid out
            prompts = [ids.text(limits.row_tokens - limits.turn_tokens) for _ in range(rows)]
            generator.generate(prompts, sampling=Sampling(1.0, 1.0, limits.turn_tokens), keys=range(rows))

    def read() -> None:
        generator.losses([ids.row(limits) for _ in range(rows)])

    def sft() -> None:
        generator.release()
        settings = TrainingSettings(epochs=1, batch_size=limits.micro_batch)
        fine_tune(policy, [ids.row(limits) for _ in examples], settings=settings, **how)

    def dpo() -> None:
        generator.release()
        settings = DpoSettings(batch_size=limits.micro_batch, sft_weight=1.0)
        optimise(policy, [ids.pair(limits) for _ in examples], settings=settings, **how)

    def rl() -> None:
        generator.release()
        settings = ReinforceSettings(batch_size=limits.micro_batch)
        made_up = [Episode(ids.row(limits), (1.0,), (1.0,)) for _ in examples]
        reinforce(policy, made_up, settings=settings, temperature=1.0, **how)

    for phase in (sample, read, sft, dpo, rl):
        if phase.__name__ in phases:
            with watch(policy.device) as peak:
                phase()
            yield phase.__name__, peak.bytes
    generator.release()
    policy.restart(seed=seed)


class MadeUp:
    """Random plain tokens, each row with one beginning-of-text; no two rows begin alike, so nothing can be shared."""

    def __init__(self, policy: Policy, seed: int) -> None:
        special = {policy.pad_id, *policy.end_ids, *policy.tokenizer.all_special_ids}
        self.random = random.Random(seed)
        self.plain = [i for i in range(min(len(policy.tokenizer), 4096)) if i not in special]
        bos = policy.tokenizer.bos_token_id
        self.start: tuple[int, ...] = () if bos is None else (bos,)
        self.end = policy.end_ids[0]

    def text(self, length: int) -> tuple[int, ...]:
        """A prompt of so many tokens."""
        return (*self.start, *self.random.choices(self.plain, k=length - len(self.start)))

    def turn(self, length: int) -> tuple[int, ...]:
        """A message of so many tokens, its end included."""
        return (*self.random.choices(self.plain, k=length - 1), self.end)

    def row(self, limits: Limits) -> Rendered:
        """A conversation of full length that ends in a message."""
        start = limits.row_tokens - limits.turn_tokens
        return Rendered(self.text(start) + self.turn(limits.turn_tokens), ((start, limits.row_tokens),))

    def pair(self, limits: Limits) -> PairIds:
        """Two messages after a prompt, of full length together with it."""
        prompt = self.text(limits.row_tokens - limits.turn_tokens)
        return PairIds(prompt, self.turn(limits.turn_tokens), self.turn(limits.turn_tokens))
