"""Attention states of many rows: found in the prefix cache, laid side by side, computed, kept.

Whatever goes through the model goes through here, in batches that stay in the token budget and are halved when memory
does not suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .memory import is_out_of_memory
from .meter import Meter
from .policy import Policy
from .prefix_cache import Batch, PrefixCache, Workspace

_WORTH_SHARING = 8  # unknown tokens below which computing a common prefix apart costs more than it saves


@dataclass(slots=True)
class Counts:
    """Tokens of prompts and texts that went through the model or were found in the cache, and tokens sampled."""

    computed: int = 0
    reused: int = 0
    sampled: int = 0


class States:
    """What a policy's model has computed and may need again.

    max_batch_tokens: rows times their full length that a batch may hold; halved when memory does not suffice, of which
    `notify` is told once. max_cache_bytes: room for keys and values that may be of use again; 0 keeps none.
    """

    def __init__(
        self, policy: Policy, *, max_batch_tokens: int, max_cache_bytes: int, notify: Callable[[str], None]
    ) -> None:
        self.policy = policy
        self.max_batch_tokens = max_batch_tokens
        self.counts = Counts()
        self.meter = Meter()
        self._notify, self._notified = notify, False
        self.cache = PrefixCache(max_bytes=max_cache_bytes)
        self.like = torch.empty(0, dtype=policy.model.dtype, device=policy.device)
        self.workspace = Workspace(self.like)

    def compute_shared(self, base: Any, prompts: Sequence[Sequence[int]], *, adapter: bool) -> None:
        """Computes once what several prompts have in common and the cache does not know yet."""
        room = self.cache.max_bytes // self._bytes_per_token
        for wave in _shared_prefixes(prompts) if room else ():
            unknown = [
                ids
                for ids in wave
                if self.cache.find(ids, limit=len(ids), adapter=adapter)[0] < len(ids) - _WORTH_SHARING
            ]
            if sum(map(len, unknown)) <= room:  # else the first ones would be gone before they are needed
                work = partial(self._compute, base, unknown, adapter)
                self.in_batches([len(ids) for ids in unknown], work)

    def _compute(self, base: Any, rows: Sequence[Sequence[int]], adapter: bool, batch_rows: Sequence[int]) -> None:
        chosen = [rows[i] for i in batch_rows]
        batch = self.look_up(chosen, [len(row) - 1 for row in chosen], adapter=adapter)
        self.forward(base, batch)
        for k, row in enumerate(chosen):
            self.keep(row, batch.pieces(k, len(row)), adapter=adapter)

    @property
    def _bytes_per_token(self) -> int:
        layers, heads, width = self.policy.cache_shape
        return 2 * layers * heads * width * self.like.itemsize

    def look_up(self, rows: Sequence[Sequence[int]], limits: Sequence[int], *, adapter: bool) -> Batch:
        """A batch with what the cache knows of each row, at most up to its limit."""
        found = [self.find(row, limit, adapter=adapter) for row, limit in zip(rows, limits, strict=True)]
        return self.lay_out(rows, found, take=self.workspace.take)

    def find(self, row: Sequence[int], limit: int, *, adapter: bool) -> tuple[int, list[Tensor]]:
        """What the cache knows of row[:limit], counted; see `PrefixCache.find`."""
        with self.meter("arrange"):
            found = self.cache.find(row, limit=limit, adapter=adapter)
        self.counts.reused += found[0]
        self.counts.computed += len(row) - found[0]
        return found

    def keep(self, ids: Sequence[int], pieces: Sequence[Tensor], *, adapter: bool) -> None:
        """Puts computed states into the cache; see `PrefixCache.add`."""
        with self.meter("arrange"):
            self.cache.add(ids, pieces, adapter=adapter)

    def lay_out(
        self,
        rows: Sequence[Sequence[int]],
        found: Sequence[tuple[int, list[Tensor]]],
        *,
        room: int = 0,
        take: Callable[[Sequence[int]], Tensor],
    ) -> Batch:
        """Rows side by side with what is known of each; see `Batch`."""
        with self.meter("arrange"):
            return Batch(rows, found, shape=self.policy.cache_shape, room=room, pad=self.policy.pad_id, take=take)

    def forward(self, base: Any, batch: Batch) -> Tensor:
        """Last hidden states (rows, width of the batch's ids, hidden size); fills the batch's states."""
        windowed = getattr(base.config, "sliding_window", None) is not None  # then every layer needs a mask of its own
        outputs = base.model(
            input_ids=batch.ids,
            attention_mask=batch.attention_mask(additive=not windowed),
            position_ids=batch.positions,
            past_key_values=batch.cache,
            use_cache=True,
        )
        return outputs.last_hidden_state

    def in_batches(self, lengths: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """Hands row indices to `work`, by falling length so that equals stand together; rows times the longest stays in
        the token budget."""
        waiting = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        while waiting:
            longest = max(1, lengths[waiting[0]])
            rows = waiting[: max(1, self.max_batch_tokens // longest)]
            if self.fits(partial(work, rows), rows=len(rows), longest=longest):
                waiting = waiting[len(rows) :]

    def fits(self, work: Callable[[], None], *, rows: int, longest: int) -> bool:
        """Does the work on so many rows. False when memory did not suffice; batches are half as large from then on.

        Raises ModelError when it did not suffice for a single row.
        """
        try:
            work()
            return True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1 and not self.cache.bytes:
                raise ModelError(
                    f"not enough memory for one sequence of {longest} tokens",
                    hint="shorter prompts and turns (sampling.max_turn_tokens), or a smaller model",
                ) from error
        if rows == 1:
            self.cache.clear()  # the last thing that can give way
        self.workspace.clear()
        self.max_batch_tokens = rows * longest // 2
        if not self._notified:
            self._notified = True
            self._notify(
                f"memory did not suffice for a batch of {rows * longest:,} tokens; going on with half as many at a time"
            )
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        return False


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
