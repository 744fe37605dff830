"""Before a run: does this model, on this machine, say the same alone as in a batch, and with its cache as without?

Left padding, reused attention states and in-place caches go wrong silently: another library, driver or version then
samples from a distorted model. Two prompts and some twenty tokens show it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from .generate import Generator
from .policy import Policy
from .render import Rendered
from .sampling import Sampling

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # nats per token; half precision below
_HALF_TOLERANCE = 0.05
_BUDGET = 1 << 14
_CACHE = 1 << 28


@dataclass(frozen=True, slots=True)
class Agreement:
    """batches, cache: whether results in a left-padded batch, and those from reused states, agree with those of a
    prompt alone. furthest: the largest difference seen, in nats per token."""

    batches: bool
    cache: bool
    furthest: float


def agreement(policy: Policy, *, seed: int = 0) -> Agreement:
    """Greedy messages and their losses, computed in four ways; nothing is left behind in the policy.

    The longer prompt extends the shorter one, so that states are shared. A message counts as the same when the base
    finds it as likely as the one generated alone: equal candidates may fall either way. The adapter must be new (zero).
    """
    prompts = _prompts(policy, random.Random(seed))
    alone, single = _bare(policy), []
    for prompt in prompts:
        single += _greedy(alone, [prompt])
    expected = [_loss(alone, prompt, message) for prompt, message in zip(prompts, single, strict=True)]

    def distance(generator: Generator) -> float:
        messages = _greedy(generator, prompts)
        likelihood = [_loss(alone, prompt, message) for prompt, message in zip(prompts, messages, strict=True)]
        read = _losses(generator, prompts, single)
        pairs = [*zip(likelihood, expected, strict=True), *zip(read, expected, strict=True)]
        return max(abs(one - two) for one, two in pairs)

    batched = distance(_bare(policy))
    caching = Generator(policy, max_batch_tokens=_BUDGET, max_cache_bytes=_CACHE)
    reused = max(distance(caching), distance(caching))  # the second time everything is there already
    tolerance = _TOLERANCE.get(policy.model.dtype, _HALF_TOLERANCE)
    return Agreement(batched <= tolerance, reused <= tolerance, max(batched, reused))


def _bare(policy: Policy) -> Generator:
    return Generator(policy, max_batch_tokens=_BUDGET, max_cache_bytes=0)


def _prompts(policy: Policy, draw: random.Random) -> list[tuple[int, ...]]:
    special = {policy.pad_id, *policy.end_ids, *policy.tokenizer.all_special_ids}
    plain = [i for i in range(min(len(policy.tokenizer), 1000)) if i not in special]
    bos = policy.tokenizer.bos_token_id
    shorter = (*(() if bos is None else (bos,)), *draw.choices(plain, k=23))
    return [shorter, (*shorter, *draw.choices(plain, k=18))]


def _greedy(generator: Generator, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return generator.generate(prompts, sampling=Sampling(0.0, 1.0, 8), keys=range(len(prompts)))


def _losses(generator: Generator, prompts: list[tuple[int, ...]], messages: list[tuple[int, ...]]) -> list[float]:
    rows = [
        Rendered(prompt + message, ((len(prompt), len(prompt) + len(message)),))
        for prompt, message in zip(prompts, messages, strict=True)
    ]
    return [losses[0] for losses in generator.losses(rows)]


def _loss(generator: Generator, prompt: tuple[int, ...], message: tuple[int, ...]) -> float:
    return _losses(generator, [prompt], [message])[0]
