"""Token ids to token ids: batched Hugging Face generate with sampling keyed per row; and the base model's text loss.

A row's tokens depend on its prompt, the settings and its key alone, not on which rows share its batch. So rows may come
and go: generation proceeds in slices of a few tokens, between which finished rows leave and waiting ones take their
places.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LogitsProcessorList

from .errors import ModelError
from .memory import is_out_of_memory
from .meter import Meter
from .model import Policy
from .prefix_cache import Batch, PrefixCache, Workspace
from .render import Rendered
from .sampling import KeyedSampler, Sampling

_SLICE = 8  # tokens between two looks at who has finished: fewer cost more calls, more keep finished rows longer
_WORTH_SHARING = 8  # unknown tokens below which computing a common prefix apart costs more than it saves
_AT_ONCE = 1 << 24  # logits held at a time: a large vocabulary times many rows is taken in parts


@dataclass(slots=True)
class Counts:
    """Tokens of prompts and texts that went through the model or were found in the cache, and tokens sampled."""

    computed: int = 0
    reused: int = 0
    sampled: int = 0


@dataclass(slots=True, eq=False)
class _Row:
    """A row on its way. prompt: its prompt's length. ids: the prompt and what was sampled so far. known: how many of
    them have states, and these."""

    key: int
    prompt: int
    ids: list[int]
    known: tuple[int, list[Tensor]] = (0, [])
    finished: bool = False


class Generator:
    """Generates with a policy's current weights, and reads with its base.

    max_batch_tokens: rows times their full length that a batch may hold; halved when memory does not suffice, of which
    `notify` is told once. max_cache_bytes: room for keys and values that may be of use again; 0 computes everything
    anew. The cache only changes what a result costs.
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
        self.max_batch_tokens = max_batch_tokens
        self.counts = Counts()
        self.meter = Meter()
        self._notify, self._notified = notify, False
        self._cache = PrefixCache(max_bytes=max_cache_bytes)
        self._losses: dict[tuple[tuple[int, ...], int], float] = {}  # by the ids up to a span's end, and its start
        # A message that holds a special token could not be trained on, or would pretend to be several.
        special = (i for i, token in policy.tokenizer.added_tokens_decoder.items() if token.special)
        self.unsayable = sorted(set(special) - set(policy.end_ids))
        self._fingerprint = self._weights()
        self._like = torch.empty(0, dtype=policy.model.dtype, device=policy.device)
        self._workspace = Workspace(self._like)

    def forget(self) -> None:
        """Empties the cache: what follows is then computed in the same batches as in any other process."""
        self._cache.clear()
        self._losses.clear()
        self._fingerprint = self._weights()

    def release(self) -> None:
        """Empties the cache and gives all memory back, to whoever trains next."""
        self.forget()
        self._workspace.clear()

    def generate(
        self, prompts: Sequence[Sequence[int]], *, sampling: Sampling, keys: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """The sampled continuation of each prompt, turn end included; without one it was cut at max_new_tokens. No
        other special token is ever sampled.

        prompts: ids of each row, of any length. keys: one a row (see `row_key`). Raises ModelError when the memory does
        not even suffice for one row at a time.
        """
        rows = [_Row(key, len(ids), list(ids)) for ids, key in zip(prompts, keys, strict=True)]
        self._forget_old_weights()
        with self.meter("generate"), self.policy.speaking() as model, torch.no_grad():
            self._compute_shared(model.get_base_model(), [row.ids[:-1] for row in rows], adapter=True)
            decoding = _Decoding(self, model, sampling, waiting=rows)
            while decoding.waiting or decoding.running:
                decoding.fill()
                if not self._fits(decoding.advance, rows=len(decoding.running), longest=decoding.longest):
                    decoding.start_over()
        for row in rows:
            self.counts.sampled += len(row.ids) - row.prompt
        return [tuple(row.ids[row.prompt :]) for row in rows]

    def losses(self, rows: Sequence[Rendered]) -> list[tuple[float, ...]]:
        """Mean nats per token of every span of every row, under the base model with the adapter off.

        Each token of a span is predicted from all that precedes it in its row, so spans must not start at position 0.
        Raises ModelError when the memory does not even suffice for one row at a time.
        """
        self._forget_old_weights()
        losses = self._losses if self._cache.max_bytes else {}
        unread = {
            row: spans
            for row in rows
            if (spans := [(start, end) for start, end in row.spans if (row.ids[:end], start) not in losses])
        }
        with self.meter("loss"), self.policy.reading() as base:
            reading = list(unread.items())
            self._compute_shared(base, [row.ids[: spans[0][0] - 1] for row, spans in reading], adapter=False)
            work = partial(self._read, base, reading, losses)
            self._in_batches([len(row.ids) for row, _ in reading], work)
        return [tuple(losses[row.ids[:end], start] for start, end in row.spans) for row in rows]

    def _read(
        self,
        base: Any,
        reading: Sequence[tuple[Rendered, list[tuple[int, int]]]],
        losses: dict[tuple[tuple[int, ...], int], float],
        batch_rows: Sequence[int],
    ) -> None:
        """Enters the losses of the spans that a batch of rows is read for."""
        chosen = [reading[i] for i in batch_rows]
        # The position before a span predicts its first token, so it is computed even if its states are known.
        batch = self._look_up([row.ids for row, _ in chosen], [spans[0][0] - 1 for _, spans in chosen], adapter=False)
        hidden = self._forward(base, batch)
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
        for k, (row, spans) in enumerate(chosen):
            for start, end in spans:
                losses[row.ids[:end], start] = sum(next(nats) for _ in range(start, end)) / (end - start)
            self._keep(row.ids, batch.pieces(k, len(row.ids)), adapter=False)

    def _weights(self) -> tuple[int, ...]:
        """What differs whenever the adapter's weights do: the policy's own count of changes, and torch's count of
        writes to each tensor, which sees changes that bypass the policy."""
        adapter = [weight for name, weight in self.policy.model.named_parameters() if "lora_" in name]
        return (self.policy.version, *(number for w in adapter for number in (w._version, w.data_ptr())))

    def _forget_old_weights(self) -> None:
        if self._fingerprint != self._weights():
            self.forget()

    def _compute_shared(self, base: Any, prompts: Sequence[Sequence[int]], *, adapter: bool) -> None:
        """Computes once what several prompts have in common and the cache does not know yet."""
        room = self._cache.max_bytes // self._bytes_per_token
        for wave in _shared_prefixes(prompts) if room else ():
            unknown = [
                ids
                for ids in wave
                if self._cache.find(ids, limit=len(ids), adapter=adapter)[0] < len(ids) - _WORTH_SHARING
            ]
            if sum(map(len, unknown)) <= room:  # else the first ones would be gone before they are needed
                work = partial(self._compute, base, unknown, adapter)
                self._in_batches([len(ids) for ids in unknown], work)

    def _compute(self, base: Any, rows: Sequence[Sequence[int]], adapter: bool, batch_rows: Sequence[int]) -> None:
        chosen = [rows[i] for i in batch_rows]
        batch = self._look_up(chosen, [len(row) - 1 for row in chosen], adapter=adapter)
        self._forward(base, batch)
        for k, row in enumerate(chosen):
            self._keep(row, batch.pieces(k, len(row)), adapter=adapter)

    @property
    def _bytes_per_token(self) -> int:
        layers, heads, width = self.policy.cache_shape
        return 2 * layers * heads * width * self._like.itemsize

    def _look_up(self, rows: Sequence[Sequence[int]], limits: Sequence[int], *, adapter: bool) -> Batch:
        """A batch with what the cache knows of each row, at most up to its limit."""
        found = [self._find(row, limit, adapter=adapter) for row, limit in zip(rows, limits, strict=True)]
        return self._lay_out(rows, found, take=self._workspace.take)

    def _find(self, row: Sequence[int], limit: int, *, adapter: bool) -> tuple[int, list[Tensor]]:
        with self.meter("arrange"):
            found = self._cache.find(row, limit=limit, adapter=adapter)
        self.counts.reused += found[0]
        self.counts.computed += len(row) - found[0]
        return found

    def _keep(self, ids: Sequence[int], pieces: Sequence[Tensor], *, adapter: bool) -> None:
        with self.meter("arrange"):
            self._cache.add(ids, pieces, adapter=adapter)

    def _lay_out(
        self,
        rows: Sequence[Sequence[int]],
        found: Sequence[tuple[int, list[Tensor]]],
        *,
        room: int = 0,
        take: Callable[[Sequence[int]], Tensor],
    ) -> Batch:
        with self.meter("arrange"):
            return Batch(rows, found, shape=self.policy.cache_shape, room=room, pad=self.policy.pad_id, take=take)

    def _forward(self, base: Any, batch: Batch) -> Tensor:
        """Last hidden states (rows, width of the batch's ids, hidden size); fills the batch's states."""
        positions = (batch.mask.cumsum(-1) - 1).clamp(min=0)[:, -batch.ids.shape[1] :]
        outputs = base.model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
        )
        return outputs.last_hidden_state

    def _in_batches(self, lengths: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """Hands row indices to `work`, by falling length so that equals stand together; rows times the longest stays in
        the token budget."""
        waiting = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        while waiting:
            longest = max(1, lengths[waiting[0]])
            rows = waiting[: max(1, self.max_batch_tokens // longest)]
            if self._fits(partial(work, rows), rows=len(rows), longest=longest):
                waiting = waiting[len(rows) :]

    def _fits(self, work: Callable[[], None], *, rows: int, longest: int) -> bool:
        """Does the work on so many rows. False when memory did not suffice; batches are half as large from then on.

        Raises ModelError when it did not suffice for a single row.
        """
        try:
            work()
            return True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1 and not self._cache.bytes:
                raise ModelError(
                    f"not enough memory for one sequence of {longest} tokens",
                    hint="shorter prompts and turns (sampling.max_turn_tokens), or a smaller model",
                ) from error
        if rows == 1:
            self._cache.clear()  # the last thing that can give way
        self._workspace.clear()
        self.max_batch_tokens = rows * longest // 2
        if not self._notified:
            self._notified = True
            self._notify(
                f"memory did not suffice for a batch of {rows * longest:,} tokens; going on with half as many at a time"
            )
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        return False


class _Decoding:
    """The rows of one call of `generate`, of which as many run side by side as the token budget allows."""

    def __init__(self, generator: Generator, model: Any, sampling: Sampling, *, waiting: Sequence[_Row]) -> None:
        self.generator = generator
        self.model = model
        self.sampling = sampling
        self.waiting = sorted(waiting, key=lambda row: row.prompt)  # the longest, which enter first, stand last
        self.running: list[_Row] = []
        self._batch: Batch | None = None  # of the running rows, in their order
        self._ends = frozenset(generator.policy.end_ids)

    @property
    def longest(self) -> int:
        """Tokens that the longest running row may come to have."""
        return max(row.prompt for row in self.running) + self.sampling.max_new_tokens

    def fill(self) -> None:
        """Lets waiting rows enter while they fit; one always does."""
        first = (self.running or self.waiting[-1:])[0]  # the longest, because rows enter by falling length
        room = self.generator.max_batch_tokens // (first.prompt + self.sampling.max_new_tokens) - len(self.running)
        entering = min(len(self.waiting), max(room, 0 if self.running else 1))
        if entering > 0:
            self._dissolve()
        for _ in range(entering):
            row = self.waiting.pop()
            row.known = self.generator._find(row.ids, len(row.ids) - 1, adapter=True)
            self.running.append(row)

    def advance(self) -> None:
        """Samples a slice for every running row; those that end in it leave, and their states are kept."""
        batch = self._batch = self._batch or self._lay_out()
        done = [len(row.ids) - row.prompt for row in self.running]
        steps = min(_SLICE, self.sampling.max_new_tokens - min(done))
        width = batch.ids.shape[1]
        sampler = KeyedSampler(
            [row.key for row in self.running], done, sampling=self.sampling, start=width, steps=steps
        )
        output = self.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            generation_config=self._greedy(steps),
            logits_processor=LogitsProcessorList([sampler] if self.sampling.temperature > 0 else []),
        )[:, width:]
        batch.go_on(output[:, -1:])
        for row, tokens in zip(self.running, output.tolist(), strict=True):
            self._take(row, tokens)
        self._leave(batch)

    def start_over(self) -> None:
        """Everything that has not finished waits again, with the tokens it has."""
        for row in self.running:
            row.known = (0, [])
        unfinished = [row for row in self.running if not row.finished]
        self.waiting = sorted([*self.waiting, *unfinished], key=lambda row: row.prompt)
        self.running, self._batch = [], None

    def _lay_out(self) -> Batch:
        rest = [len(row.ids) - row.known[0] for row in self.running]
        mean = sum(rest) / len(rest)
        if max(rest) > 1.5 * mean:  # padding would add half to the work: the long ones go through the model apart
            long = [row for row, tokens in zip(self.running, rest, strict=True) if tokens > mean]
            self.generator._in_batches([len(row.ids) for row in long], partial(self._prefill, long))
        room = max(row.prompt + self.sampling.max_new_tokens - len(row.ids) for row in self.running)
        batch = self.generator._lay_out(
            [row.ids for row in self.running],
            [row.known for row in self.running],
            room=room,
            take=self.generator._workspace.take,
        )
        for row in self.running:
            row.known = (0, [])  # it is in the batch now
        return batch

    def _prefill(self, rows: Sequence[_Row], batch_rows: Sequence[int]) -> None:
        """Computes all but the last id of some rows."""
        chosen = [rows[i] for i in batch_rows]
        # In memory of its own: what the other rows know still lies in the batch that they have come from.
        fresh = self.generator._like.new_empty
        batch = self.generator._lay_out([row.ids[:-1] for row in chosen], [row.known for row in chosen], take=fresh)
        self.generator._forward(self.model.get_base_model(), batch)
        for k, row in enumerate(chosen):
            length = len(row.ids) - 1
            row.known = (length, batch.pieces(k, length))
            self.generator._keep(row.ids[:length], row.known[1], adapter=True)

    def _take(self, row: _Row, tokens: Sequence[int]) -> None:
        """Adds sampled tokens up to the turn end or the limit."""
        limit = row.prompt + self.sampling.max_new_tokens
        for token in tokens[: limit - len(row.ids)]:
            row.ids.append(token)
            if token in self._ends:
                break
        row.finished = row.ids[-1] in self._ends or len(row.ids) == limit

    def _leave(self, batch: Batch) -> None:
        for k, row in enumerate(self.running):
            if row.finished:
                # A token sampled last has not been through the model, so it has no states.
                length = min(len(row.ids), batch.computed(k))
                self.generator._keep(row.ids[:length], batch.pieces(k, length), adapter=True)
        if any(row.finished for row in self.running):
            self._dissolve()
            self.running = [row for row in self.running if not row.finished]

    def _dissolve(self) -> None:
        """Takes the rows out of their batch."""
        if self._batch is not None:
            for k, row in enumerate(self.running):
                if not row.finished:
                    row.known = (len(row.ids) - 1, self._batch.pieces(k, len(row.ids) - 1))
        self._batch = None

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        """Sampling happens in the logits processor, which leaves one candidate; generate only takes it."""
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(self._ends),
            pad_token_id=self.generator.policy.pad_id,
            suppress_tokens=self.generator.unsayable or None,
            use_cache=True,
        )


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


def _shared_prefixes(prompts: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, ...]]]:
    """What two or more prompts have in common, in waves: no prefix extends another of its own wave.

    In sorted order the longest prefix that a prompt shares with any other is one it shares with a neighbour.
    """
    ordered = sorted(map(tuple, prompts))
    shared = {one[: _common_length(one, two)] for one, two in pairwise(ordered)}
    path: list[tuple[int, ...]] = []
    waves: list[list[tuple[int, ...]]] = []
    for prefix in sorted(shared):
        while path and prefix[: len(path[-1])] != path[-1]:
            path.pop()
        path.append(prefix)
        if len(waves) < len(path):
            waves.append([])
        waves[len(path) - 1].append(prefix)
    yield from waves


def _common_length(one: Sequence[int], two: Sequence[int]) -> int:
    shortest = min(len(one), len(two))
    if one[:shortest] == two[:shortest]:
        return shortest
    return next(k for k in range(shortest) if one[k] != two[k])


def fastest_threads(policy: Policy) -> int:
    """How many threads generate fastest here and now: small models on busy cores lose more by sharing than they gain.

    Measured on a short batch with 1, 2, 4, ... threads up to the cores this process may use; on a GPU all of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if policy.device.type != "cpu":
        return cores
    candidates = [n for n in (1, 2, 4, 8, 16, 32) if n < cores] + [cores]
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
