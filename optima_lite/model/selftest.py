"""Before a run: does this model, on this machine, compute the same alone as in a batch, and with its cache as without?

Left padding, reused attention states and in-place caches go wrong silently: another library, driver or version then
samples from a distorted model. Two prompts and some twenty tokens show it. What is compared is how likely each way
finds the same tokens, never which ones it would choose: in half precision two of those may lie within rounding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .generate import Generator
from .policy import Policy
from .render import Rendered
from .sampling import Sampling

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # nats per token; half precision below
_HALF_TOLERANCE = 0.15  # between rounding and the mildest of the faults in the tests
_BUDGET = 1 << 14
_CACHE = 1 << 28
_TOKENS = 12  # of a message: more than a slice, so that decoding goes on in its batch


Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """batches, cache: whether results in a left-padded batch, and those from reused states, agree with those of a
    prompt alone. furthest: the largest difference seen, in nats per token."""

    batches: bool
    cache: bool
    furthest: float


def agreement(policy: Policy, *, seed: int = 0) -> Agreement:
    """How likely the tokens of fixed messages are: two prompts alone, in a batch, and with a cache.

    Each way reads the messages at once, decodes them a step at a time, and says something of its own, whose tokens must
    be as likely as the likeliest. The longer prompt extends the shorter one, so that states are shared. The adapter
    must be new (zero). Nothing is left behind in the policy.
    """
    prompts, messages = _conversations(policy, random.Random(seed))
    alone = _bare(policy)
    expected = torch.cat([_read(alone, [p], [m]) for p, m in zip(prompts, messages, strict=True)])

    @cache  # as a rule all ways say the same
    def worse(prompt: Ids, message: Ids) -> Tensor:
        return _decode(alone, [prompt], [message])[1].mean()

    def distance(generator: Generator) -> float:
        read = (_read(generator, prompts, messages) - expected).abs().mean(1)
        decoded = (_decode(generator, prompts, messages)[0] - expected).abs().mean(1)
        said = generator.generate(prompts, sampling=Sampling(0.0, 1.0, _TOKENS), keys=range(len(prompts)))
        return float(max(*read, *decoded, *map(worse, prompts, said)))

    batched = distance(_bare(policy))
    caching = Generator(policy, max_batch_tokens=_BUDGET, max_cache_bytes=_CACHE)
    reused = max(distance(caching), distance(caching))  # the second time everything is there already
    tolerance = _TOLERANCE.get(policy.model.dtype, _HALF_TOLERANCE)
    return Agreement(batched <= tolerance, reused <= tolerance, max(batched, reused))


def _bare(policy: Policy) -> Generator:
    return Generator(policy, max_batch_tokens=_BUDGET, max_cache_bytes=0)


def _conversations(policy: Policy, draw: random.Random) -> tuple[list[Ids], list[Ids]]:
    """Two prompts of plain tokens, and a message after each."""
    special = {policy.pad_id, *policy.end_ids, *policy.tokenizer.all_special_ids}
    plain = [i for i in range(min(len(policy.tokenizer), 1000)) if i not in special]
    bos = policy.tokenizer.bos_token_id
    shorter = (*(() if bos is None else (bos,)), *draw.choices(plain, k=23))
    longer = (*shorter, *draw.choices(plain, k=18))
    return [shorter, longer], [tuple(draw.choices(plain, k=_TOKENS)) for _ in range(2)]


def _read(generator: Generator, prompts: list[Ids], messages: list[Ids]) -> Tensor:
    """Nats (rows, tokens) of each message, read as for the reward."""
    rows = [
        Rendered(prompt + message, tuple((k, k + 1) for k in range(len(prompt), len(prompt + message))))
        for prompt, message in zip(prompts, messages, strict=True)
    ]
    return torch.tensor(generator.losses(rows), dtype=torch.float64)


def _decode(generator: Generator, prompts: list[Ids], messages: list[Ids]) -> tuple[Tensor, Tensor]:
    """Nats (rows, tokens) of each message, a token at a time as it is sampled; and how much less they are for the
    likeliest token that may be said in its place."""
    states, nats, least = generator.states, [], []
    unsayable = torch.tensor(generator.unsayable, dtype=torch.long, device=states.like.device)
    with generator.policy.speaking() as model, torch.no_grad():
        base = model.get_base_model()
        states.compute_shared(base, [prompt[:-1] for prompt in prompts], adapter=states.policy.worn)
        found = [states.find(prompt, len(prompt) - 1, adapter=states.policy.worn) for prompt in prompts]
        batch = states.lay_out(prompts, found, room=len(messages[0]), take=states.workspace.take)
        for tokens in torch.tensor(messages, device=states.like.device).T:
            logits = base.lm_head(states.forward(base, batch)[:, -1]).double()
            nats.append(cross_entropy(logits, tokens, reduction="none"))
            sayable = logits.index_fill(1, unsayable, -torch.inf)
            least.append(logits.logsumexp(-1) - sayable.amax(-1))
            batch.go_on(tokens[:, None])
    found_nats = torch.stack(nats, dim=1).cpu()
    return found_nats, found_nats - torch.stack(least, dim=1).cpu()
