"""Attention states of many rows: found in the prefix cache, laid side by side, computed, kept.

Whatever goes through the model goes through here, in batches that stay in the token budget and are halved when memory
does not suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .memory import is_out_of_memory
from .meter import Meter
from .packing import Pack, packs
from .policy import Policy
from .prefix_cache import Batch, PrefixCache, Workspace
from .sharing import Ids, shared_prefixes, windows

_WORTH_SHARING = 8  # unknown tokens below which computing a common prefix apart costs more than it saves

Found = tuple[int, list[Tensor]]
"""How many ids of a row have states, and these in pieces; see `PrefixCache.find`."""

Use = Callable[[Sequence[int], Batch, Tensor], None]
"""Takes what it wants from the numbers of some rows, their batch, and the last hidden states that were computed."""


class States:
    """What a policy's model has computed and may need again.

    max_batch_tokens: positions that a batch may hold, rows times their padded length; halved when memory does not
    suffice, of which `notify` is told once. max_cache_bytes: room for keys and values that may be of use again; 0
    keeps none.
    """

    def __init__(
        self, policy: Policy, *, max_batch_tokens: int, max_cache_bytes: int, notify: Callable[[str], None]
    ) -> None:
        self.policy = policy
        self.max_batch_tokens = max_batch_tokens
        self.meter = Meter()
        self._notify, self._notified = notify, False
        self.cache = PrefixCache(max_bytes=max_cache_bytes)
        self.like = torch.empty(0, dtype=policy.model.dtype, device=policy.device)
        self.workspace = Workspace(self.like)

    @property
    def room(self) -> int:
        """Tokens that the cache can be relied on to hold: when it is full, it drops a tenth more than it needs."""
        return int(0.9 * self.cache.max_bytes) // self._bytes_per_token

    @property
    def _bytes_per_token(self) -> int:
        layers, heads, width = self.policy.cache_shape
        return 2 * layers * heads * width * self.like.itemsize

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is computed in the `with` block leaves the memory of the batch that is running alone."""
        running, self.workspace = self.workspace, Workspace(self.like)
        try:
            yield
        finally:
            self.workspace = running

    def worth_sharing(self, rows: Sequence[Ids], *, adapter: str | None) -> bool:
        """Whether rows have so much in common that the cache does not know that it pays to compute it once."""
        shared = (ids for wave in shared_prefixes(rows) for ids in wave) if self.room else ()
        return any(
            len(ids) - self.cache.find(ids, limit=len(ids), adapter=adapter)[0] > _WORTH_SHARING for ids in shared
        )

    def windows(self, rows: Sequence[Ids]) -> list[list[int]]:
        """The numbers of all rows, in windows that are best done one after another; see `sharing.windows`."""
        if not self.room:
            return [[*range(len(rows))]]
        return [*windows(rows, room=self.room, batch=self.max_batch_tokens)]

    def compute_shared(self, base: Any, rows: Sequence[Ids], *, adapter: str | None) -> None:
        """Computes once what several rows have in common and the cache does not know yet, as much as it can hold."""
        room = self.room
        for wave in shared_prefixes(rows) if room else ():
            chosen = []
            for ids in wave:
                unknown = len(ids) - self.cache.find(ids, limit=len(ids), adapter=adapter)[0]
                if _WORTH_SHARING < unknown <= room:  # with more the first would be gone before they are needed
                    chosen.append(ids)
                    room -= unknown
            self.compute(base, chosen, [len(ids) - 1 for ids in chosen], adapter=adapter)

    def compute(
        self,
        base: Any,
        rows: Sequence[Sequence[int]],
        limits: Sequence[int],
        *,
        adapter: str | None,
        use: Use = lambda numbers, batch, hidden: None,
    ) -> None:
        """Sends rows through the model in batches and keeps their states.

        limits: how many ids of each row may come from the cache; all others are computed, so at least one must be.
        """
        known = [self.cache.find(row, limit=limit, adapter=adapter)[0] for row, limit in zip(rows, limits, strict=True)]
        waiting = sorted(range(len(rows)), key=lambda i: (known[i] - len(rows[i]), -known[i]))
        while waiting:
            found, width = self._next_pack([(rows[i], limits[i]) for i in waiting], adapter)
            numbers = waiting[: len(found)]
            work = partial(self._compute, base, [rows[i] for i in numbers], found, adapter, partial(use, numbers))
            if self.fits(work, rows=len(numbers), longest=width):
                waiting = waiting[len(numbers) :]

    def _next_pack(self, waiting: Sequence[tuple[Sequence[int], int]], adapter: str | None) -> tuple[list[Found], int]:
        """What the cache knows by now of the first rows that wait, as many as make a batch; and the batch's width."""
        pack, found = Pack(most=self.max_batch_tokens), list[Found]()
        with self.meter("arrange"):
            for row, limit in waiting:
                one = self.cache.find(row, limit=limit, adapter=adapter)
                if not pack.take(one[0], len(row) - one[0]):
                    break
                found.append(one)
        return found, pack.width

    def _compute(
        self,
        base: Any,
        rows: Sequence[Sequence[int]],
        found: Sequence[Found],
        adapter: str | None,
        use: Callable[[Batch, Tensor], None],
    ) -> None:
        batch = self.lay_out(rows, found)
        hidden = self.forward(base, batch)
        use(batch, hidden)
        for k, (row, (known, _)) in enumerate(zip(rows, found, strict=True)):
            self.keep(row, batch.pieces(k, len(row)), adapter=adapter)
            self.count(row, known)

    def find(self, row: Sequence[int], limit: int, *, adapter: str | None, ahead: int = 0) -> Found:
        """What the cache knows of row[:limit], counted; see `PrefixCache.find`. ahead: how many ids `compute_ahead` has
        computed for this row, and counted."""
        with self.meter("arrange"):
            found = self.cache.find(row, limit=limit, adapter=adapter)
        self.meter.count(computed=len(row) - found[0], reused=max(0, found[0] - ahead))
        return found

    def unknown(self, row: Sequence[int], *, adapter: str | None) -> int:
        """How many ids of a row are to be computed before it can go on: its last one always."""
        return len(row) - self.cache.find(row, limit=len(row) - 1, adapter=adapter)[0]

    def compute_ahead(self, base: Any, row: Sequence[int], most: int) -> None:
        """Computes the next `most` ids of a row, adapter on, but never its last; the cache keeps their states if it has
        room."""
        found = self.cache.find(row, limit=len(row) - 1, adapter=self.policy.worn)
        part = row[: min(found[0] + most, len(row) - 1)]
        batch = self.lay_out([part], [found])
        self.forward(base, batch)
        self.keep(part, batch.pieces(0, len(part)), adapter=self.policy.worn)
        self.meter.count(computed=len(part) - found[0])

    def count(self, row: Sequence[int], known: int) -> None:
        """Counts a row that is computed but for its first `known` ids."""
        self.meter.count(computed=len(row) - known, reused=known)

    def keep(self, ids: Sequence[int], pieces: Sequence[Tensor], *, adapter: str | None) -> None:
        """Puts computed states into the cache; see `PrefixCache.add`."""
        with self.meter("arrange"):
            self.cache.add(ids, pieces, adapter=adapter)

    def lay_out(
        self,
        rows: Sequence[Sequence[int]],
        found: Sequence[Found],
        *,
        room: int = 0,
        take: Callable[[Sequence[int]], Tensor] | None = None,
    ) -> Batch:
        """Rows side by side with what is known of each; see `Batch`. take: gives memory other than the workspace's."""
        shape, take = self.policy.cache_shape, take or self.workspace.take
        with self.meter("arrange"):
            return Batch(rows, found, shape=shape, room=room, pad=self.policy.pad_id, take=take)

    def prefill(self, base: Any, rows: Sequence[Sequence[int]], found: list[Found], *, room: int) -> Batch:
        """The rows, by falling rest, in one batch that is no wider than the longest of them and `room`.

        Rests of unlike lengths would be padded to the longest. They are computed apart, and in their place: each run of
        like rows is a batch of its own at the right edge of the memory that is to hold them all. Only the last id of
        each row is then left to be computed. States of what was computed are kept.

        found: is used up. Rows that come from another batch are moved first, so that no memory but the new batch's is
        in use when ids pass the model.
        """
        shapes = [(known, len(row) - known) for row, (known, _) in zip(rows, found, strict=True)]
        width = max(map(len, rows))
        if len(packs(shapes, widest=width)) == 1:
            return self.lay_out(rows, found, room=room)
        layers, heads, head_width = self.policy.cache_shape
        states = self.workspace.take((layers, 2, len(rows), heads, width + room, head_width))
        heads_only = states[..., : width - 1, :]
        new = sum(rest > 1 for _, rest in shapes)
        with self.meter("arrange"):
            for k in range(new, len(rows)):
                known, pieces = found[k]
                place = heads_only[:, :, k, :, width - 1 - known :]
                if pieces:
                    place.copy_(torch.cat(pieces, dim=-2))
                found[k] = (known, [place])
        for part in packs(shapes[:new], widest=width):
            found[part] = self._compute_in_place(base, rows[part], found[part], heads_only[:, :, part])
        return self.lay_out(rows, found, room=room, take=lambda shape: states)

    def _compute_in_place(
        self, base: Any, rows: Sequence[Sequence[int]], found: Sequence[Found], states: Tensor
    ) -> list[Found]:
        """Computes all but the last id of each row; their states, adapter on, lie at the right edge of `states`."""
        heads = [row[:-1] for row in rows]
        batch = self.lay_out(heads, found, take=lambda shape: states[..., -shape[-2] :, :])
        self.forward(base, batch)
        placed: list[Found] = []
        for k, (head, (known, _)) in enumerate(zip(heads, found, strict=True)):
            place = states[:, :, k, :, states.shape[-2] - len(head) :]
            left, _ = batch.pieces(k, len(head))
            if left.data_ptr() != place.data_ptr():  # its rest is shorter than others: close the gap before it
                place[..., :known, :] = left.clone()
            self.keep(head, [place], adapter=self.policy.worn)
            placed.append((len(head), [place]))
        return placed

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

    def fits(self, work: Callable[[], None], *, rows: int, longest: int) -> bool:
        """Does the work on so many rows of so many positions. False when memory did not suffice; batches are half as
        large from then on.

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
