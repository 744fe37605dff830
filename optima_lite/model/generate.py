"""Token ids to token ids: batched generation with sampling keyed per row; and the base model's text loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .decoding import Decoding, Row
from .policy import Policy
from .prefix_cache import Batch
from .render import Rendered
from .resources import cores
from .sampling import Sampling
from .states import States
from .template import THINKING

_AT_ONCE = 1 << 24  # logits held at a time: a large vocabulary times many rows is taken in parts


class Generator:
    """Generates with the adapter that a policy wears, and reads with its base.

    max_batch_tokens: positions that a batch may hold, rows times their padded length; halved when memory does not
    suffice, of which `notify` is told once. max_cache_bytes: room for keys and values that may be of use again; 0
    computes everything anew. The cache only changes what a result costs. hear: is told the key of a row whenever it
    has said a few tokens.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        max_batch_tokens: int,
        max_cache_bytes: int = 1 << 31,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.policy = policy
        self.states = States(policy, max_batch_tokens=max_batch_tokens, max_cache_bytes=max_cache_bytes, notify=notify)
        self.hear: Callable[[int], None] = lambda key: None
        self.meter, self.counts = self.states.meter, self.states.meter.counts
        self._losses: dict[tuple[tuple[int, ...], int], float] = {}  # by the ids up to a span's end, and its start
        # A message that holds a special token could not be trained on, or would pretend to be several; a thought would
        # be trained on, and the partner would read it.
        known = policy.tokenizer.added_tokens_decoder.items()
        special = {i for i, token in known if token.special or token.content in THINKING}
        self.unsayable = sorted(special - set(policy.end_ids))
        self._fingerprint = self.fingerprint()

    def forget(self) -> None:
        """Empties the cache: what follows is then computed in the same batches as in any other process."""
        self.states.cache.clear()
        self._losses.clear()
        self._fingerprint = self.fingerprint()

    def wear(self, adapter: str) -> None:
        """What is generated from here on is said with the adapter of this name."""
        self.policy.wear(adapter)

    def release(self) -> None:
        """Empties the cache and gives all memory back, to whoever trains next."""
        self.forget()
        self.states.workspace.clear()

    def generate(
        self, prompts: Sequence[Sequence[int]], *, sampling: Sampling, keys: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """The sampled continuation of each prompt, turn end included; without one it was cut at max_new_tokens. No
        other special token is ever sampled.

        prompts: ids of each row, of any length. keys: one a row (see `row_key`). Raises ModelError when the memory does
        not even suffice for one row at a time.
        """
        rows = [Row(key, len(ids), list(ids), sampling.max_new_tokens) for ids, key in zip(prompts, keys, strict=True)]
        self.carry_on(rows, sampling=sampling)
        return [tuple(row.said) for row in rows]

    def carry_on(self, rows: Sequence[Row], *, sampling: Sampling) -> None:
        """Samples every row to its end, its pause, or its own limit, whichever comes first; what it says is added to
        its ids. A row that pauses and is carried on later, as another row, says what it would have said without a
        pause. Raises as `generate`."""
        before = sum(len(row.ids) for row in rows)
        self._forget_old_weights()
        with self.meter("generate"), self.policy.speaking() as model, torch.no_grad():
            for numbers in self.states.windows([tuple(row.ids) for row in rows]):
                self._sample(model, [rows[i] for i in numbers], sampling)
        self.meter.count(sampled=sum(len(row.ids) for row in rows) - before)

    def _sample(self, model: Any, rows: Sequence[Row], sampling: Sampling) -> None:
        """Carries rows to their ends."""
        self.states.compute_shared(
            model.get_base_model(), [tuple(row.ids[:-1]) for row in rows], adapter=self.policy.worn
        )
        decoding = Decoding(self.states, model, sampling, unsayable=self.unsayable, waiting=rows, hear=self.hear)
        while decoding.waiting or decoding.running:
            decoding.fill()
            if not self.states.fits(decoding.advance, rows=len(decoding.running), longest=decoding.longest):
                decoding.start_over()

    def losses(self, rows: Sequence[Rendered]) -> list[tuple[float, ...]]:
        """Mean nats per token of every span of every row, under the base model with the adapter off.

        Each token of a span is predicted from all that precedes it in its row, so spans must not start at position 0.
        Raises ModelError when the memory does not even suffice for one row at a time.
        """
        self._forget_old_weights()
        losses = self._losses if self.states.cache.max_bytes else {}
        wanted = {
            row: [(start, end) for start, end in row.spans if (row.ids[:end], start) not in losses] for row in rows
        }
        unread = [(row, spans) for row, spans in wanted.items() if spans]
        with self.meter("loss"), self.policy.reading() as base:
            for numbers in self.states.windows([row.ids for row, _ in unread]):
                reading = [unread[i] for i in numbers]
                self.states.compute_shared(base, [row.ids[: spans[0][0] - 1] for row, spans in reading], adapter=None)
                self.states.compute(
                    base,
                    [row.ids for row, _ in reading],
                    # The position before a span predicts its first token, so it is computed even if it is known.
                    [spans[0][0] - 1 for _, spans in reading],
                    adapter=None,
                    use=partial(self._read, base, reading, losses),
                )
        return [tuple(losses[row.ids[:end], start] for start, end in row.spans) for row in rows]

    def _read(
        self,
        base: Any,
        reading: Sequence[tuple[Rendered, list[tuple[int, int]]]],
        losses: dict[tuple[tuple[int, ...], int], float],
        numbers: Sequence[int],
        batch: Batch,
        hidden: Tensor,
    ) -> None:
        """Enters the losses of the spans that a batch of rows is read for."""
        chosen = [reading[i] for i in numbers]
        lines: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for k, (row, spans) in enumerate(chosen):
            offset = batch.ids.shape[1] - len(row.ids)  # column of the row's first id; before the batch if negative
            for start, end in spans:
                lines += [k] * (end - start)
                columns += range(start - 1 + offset, end - 1 + offset)
                targets += row.ids[start:end]
        nats = iter(_nats(base.lm_head, hidden[lines, columns], targets))
        for row, spans in chosen:
            for start, end in spans:
                losses[row.ids[:end], start] = sum(next(nats) for _ in range(start, end)) / (end - start)

    def fingerprint(self) -> tuple[int, ...]:
        """What differs whenever the weights of any adapter do, whichever is worn: the policy's own count of changes,
        and torch's count of writes to each tensor, which sees changes that bypass the policy."""
        held = (weight for name in self.policy.names for weight in self.policy.weights(name))
        return (self.policy.version, *(number for w in held for number in (w._version, w.data_ptr())))

    def _forget_old_weights(self) -> None:
        if self._fingerprint != self.fingerprint():
            self.forget()


def _nats(head: Any, hidden: Tensor, targets: Sequence[int]) -> list[float]:
    """The negative log-likelihood of each target. hidden: (targets, hidden size)."""
    at_once = max(1, _AT_ONCE // head.out_features)
    nats: list[float] = []
    for states, wanted in zip(
        hidden.split(at_once), torch.tensor(targets, device=hidden.device).split(at_once), strict=True
    ):
        logits = head(states)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats += cross_entropy(precise, wanted, reduction="none").tolist()
    return nats


def fastest_threads(policy: Policy) -> int:
    """How many threads generate fastest here and now: small models on busy cores lose more by sharing than they gain.

    Measured on a short batch with 1, 2, 4, ... threads up to the cores this process may use; on a GPU all of them.
    """
    most = cores()
    if policy.device.type != "cpu":
        return most
    candidates = [n for n in (1, 2, 4, 8, 16, 32) if n < most] + [most]
    generator, sampling = Generator(policy, max_batch_tokens=1 << 20), Sampling(1.0, 1.0, 8)
    prompts = [[policy.pad_id] * 128] * 32
    seconds = dict.fromkeys(candidates, float("inf"))
    before = torch.get_num_threads()
    for _ in range(3):  # interleaved, best of three: a passing load hits all candidates alike
        for n in candidates:
            torch.set_num_threads(n)
            started = time.perf_counter()
            generator.generate(prompts, sampling=sampling, keys=range(32))
            seconds[n] = min(seconds[n], time.perf_counter() - started)
    torch.set_num_threads(before)
    best = min(seconds.values())
    return min(n for n in candidates if seconds[n] <= 1.05 * best)
