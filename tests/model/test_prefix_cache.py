"""The prefix cache: what it finds is right and as long as can be, and it never holds more than it may."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optima_lite.model.prefix_cache import Batch, PrefixCache, Workspace

SHAPE = (2, 1, 3)  # layers, heads, head width
BYTES_PER_TOKEN = 2 * 2 * 1 * 3 * 8
ROOMY = 1 << 30

Call = tuple[list[int], str | None, int]
"""Ids, whose states they are, and where these are cut."""

sequences = st.lists(st.integers(0, 2), min_size=1, max_size=12)  # three ids: much is shared
traffic = st.lists(
    st.tuples(sequences, st.sampled_from(["one", "two", None]), st.integers(0, 12)), min_size=1, max_size=40
)


def states_of(ids: Sequence[int], *, adapter: str | None) -> Tensor:
    """Made-up states that, like real ones, depend at each position on everything up to it and on the adapter."""
    at = [float(hash((adapter, tuple(ids[: k + 1]))) % 9973) for k in range(len(ids))]
    layers, heads, width = SHAPE
    base = torch.tensor(at, dtype=torch.float64)[None, None, None, :, None]
    return base + torch.arange(layers * 2 * heads * width).reshape(layers, 2, heads, 1, width)


def held(cache: PrefixCache) -> int:
    """Bytes of memory that the cache keeps from being freed, views or not."""
    return sum({n.states.data_ptr(): n.states.untyped_storage().nbytes() for n in cache._nodes()}.values())


def in_pieces(states: Tensor, cut: int) -> list[Tensor]:
    return [states[..., :cut, :], states[..., cut:, :]]


@settings(max_examples=60)
@given(traffic, st.integers(0, 40))
def test_what_is_found_is_right_whatever_was_thrown_out(calls: list[Call], tokens: int) -> None:
    cache = PrefixCache(max_bytes=tokens * BYTES_PER_TOKEN)
    for ids, adapter, cut in calls:
        limit = max(0, len(ids) - cut)
        length, pieces = cache.find(ids, limit=limit, adapter=adapter)
        assert length <= limit
        assert sum(piece.shape[-2] for piece in pieces) == length
        if length:
            assert torch.equal(torch.cat(pieces, dim=-2), states_of(ids, adapter=adapter)[..., :length, :])
        cache.add(ids, in_pieces(states_of(ids, adapter=adapter), min(cut, len(ids))), adapter=adapter)
        assert cache.bytes == held(cache) <= cache.max_bytes


@settings(max_examples=60)
@given(traffic)
def test_with_room_the_longest_common_prefix_is_found(calls: list[Call]) -> None:
    cache = PrefixCache(max_bytes=ROOMY)
    known: set[tuple[str | None, tuple[int, ...]]] = set()
    for ids, adapter, _ in calls:
        prefixes = {(adapter, tuple(ids[: k + 1])) for k in range(len(ids))}
        assert cache.find(ids, limit=len(ids), adapter=adapter)[0] == len(prefixes & known)
        cache.add(ids, [states_of(ids, adapter=adapter)], adapter=adapter)
        known |= prefixes
    assert cache.bytes == len(known) * BYTES_PER_TOKEN, "what sequences share is held once"


def test_the_least_recently_used_leave_first() -> None:
    cache = PrefixCache(max_bytes=10 * BYTES_PER_TOKEN)
    for first in (1, 2, 3):
        cache.add([first] * 3, [states_of([first] * 3, adapter="one")], adapter="one")
    assert cache.find([1] * 3, limit=3, adapter="one")[0] == 3
    cache.add([4] * 3, [states_of([4] * 3, adapter="one")], adapter="one")
    kept = {first: cache.find([first] * 3, limit=3, adapter="one")[0] for first in (1, 2, 3, 4)}
    assert kept == {1: 3, 2: 0, 3: 3, 4: 3}


def test_what_never_fits_leaves_the_rest_alone() -> None:
    cache = PrefixCache(max_bytes=4 * BYTES_PER_TOKEN)
    cache.add([1, 2], [states_of([1, 2], adapter="one")], adapter="one")
    cache.add([3] * 5, [states_of([3] * 5, adapter="one")], adapter="one")
    assert cache.find([1, 2], limit=2, adapter="one")[0] == 2
    assert cache.find([3] * 5, limit=5, adapter="one")[0] == 0


def test_nothing_goes_on_from_what_had_to_leave_for_it() -> None:
    cache = PrefixCache(max_bytes=4 * BYTES_PER_TOKEN)
    cache.add([1, 2, 3], [states_of([1, 2, 3], adapter="one")], adapter="one")
    ids = [1, 2, 3, 4, 5, 6]
    cache.add(ids, [states_of(ids, adapter="one")], adapter="one")
    assert cache.find(ids, limit=6, adapter="one")[0] == 0
    assert cache.bytes == held(cache)


def test_clearing_forgets_everything() -> None:
    cache = PrefixCache(max_bytes=ROOMY)
    for adapter in ("one", "two", None):
        cache.add([1, 2], [states_of([1, 2], adapter=adapter)], adapter=adapter)
    cache.clear()
    assert cache.bytes == held(cache) == 0
    assert [cache.find([1, 2], limit=2, adapter=adapter)[0] for adapter in (True, False)] == [0, 0]


def test_a_workspace_keeps_the_last_batch_while_the_next_is_laid_out() -> None:
    workspace = Workspace(torch.empty(0))
    first = workspace.take((2, 3)).fill_(1.0)
    second = workspace.take((4, 5)).fill_(2.0)
    assert first.sum() == 6 and second.sum() == 40
    third = workspace.take((5,)).fill_(3.0)
    assert third.data_ptr() == first.data_ptr() and second.sum() == 40, "memory is used again, but not the last one"
    assert workspace.take((100,)).shape == (100,)
    workspace.clear()
    assert workspace.take((5,)).data_ptr() not in (first.data_ptr(), second.data_ptr())


@settings(max_examples=30)
@given(st.lists(st.tuples(sequences, st.integers(0, 11)), min_size=1, max_size=5))
def test_a_batch_gives_back_what_was_laid_into_it(rows: list[tuple[list[int], int]]) -> None:
    all_ids = [ids for ids, _ in rows]
    known = [min(known, len(ids) - 1) for ids, known in rows]
    states = [states_of(ids, adapter="one") for ids in all_ids]
    found = [(n, in_pieces(own[..., :n, :], n // 2)) for own, n in zip(states, known, strict=True)]
    batch = Batch(all_ids, found, shape=SHAPE, room=2, pad=9, take=partial(torch.empty, dtype=torch.float64))

    assert batch.mask.sum(dim=1).tolist() == [len(ids) for ids in all_ids]
    assert [[i for i in line if i != 9] for line in batch.ids.tolist()] == [
        ids[n:] for ids, n in zip(all_ids, known, strict=True)
    ]
    width = batch.ids.shape[1]
    for layer, cached in enumerate(batch.cache.layers):  # what the model would hand over for the rest
        new = torch.zeros(2, len(rows), SHAPE[1], width, SHAPE[2], dtype=torch.float64)
        for row, n in enumerate(known):
            new[:, row, :, width - (len(all_ids[row]) - n) :] = states[row][layer, :, :, n:]
        keys, values = cached.update(new[0], new[1])
        assert keys.shape == values.shape == (len(rows), SHAPE[1], max(known) + width, SHAPE[2])
    for row, ids in enumerate(all_ids):
        assert batch.computed(row) == len(ids)
        for length in range(known[row], len(ids) + 1):
            pieces = torch.cat(batch.pieces(row, length), dim=-2)
            assert torch.equal(pieces, states[row][..., :length, :])
    filled = batch.mask.shape[1]
    batch.go_on(torch.zeros(len(rows), 1, dtype=torch.long))
    assert batch.mask.shape == (len(rows), filled + 1)
    assert batch.mask[:, -1].tolist() == [1] * len(rows)
