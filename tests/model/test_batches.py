"""Batches stay in their token budget, pad little, and are not laid out anew for every row that leaves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import BYTES_PER_TOKEN, CACHES, SAMPLED, VOCABULARY, losses_one, make_policy, say_one, spoken, texts

from optima_lite.model.generate import Generator
from optima_lite.model.packing import Pack, packs
from optima_lite.model.policy import Policy
from optima_lite.model.prefix_cache import Batch
from optima_lite.model.render import Rendered
from optima_lite.model.sampling import Sampling
from optima_lite.model.sharing import shared_prefixes, windows
from optima_lite.model.states import States


@dataclass
class Watched:
    """Every batch that was laid out: rows, and bytes of its states. copied: bytes of states moved into batches or
    within them. passed, padding: tokens that went through the model, and how many of these were padding."""

    batches: list[tuple[int, int]] = field(default_factory=list)
    copied: int = 0
    passed: int = 0
    padding: int = 0

    @property
    def largest(self) -> int:
        """Bytes of the largest batch of several rows."""
        return max((size for rows, size in self.batches if rows > 1), default=0)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    seen, make, leave, forward = Watched(), Batch.__init__, Batch.leave, States.forward

    def making(batch: Batch, rows: Any, found: Any, **how: Any) -> None:
        make(batch, rows, found, **how)
        seen.batches.append((len(rows), batch.states.nbytes))
        seen.copied += sum(known for known, _ in found) * BYTES_PER_TOKEN

    def leaving(batch: Batch, staying: Any) -> list[int]:
        seen.copied += sum(batch.computed(row) for row in staying if row >= len(staying)) * BYTES_PER_TOKEN
        return leave(batch, staying)

    def passing(states: States, base: Any, batch: Batch) -> Any:
        seen.passed += batch.ids.numel()
        seen.padding += int((batch.mask[:, -batch.ids.shape[1] :] == 0).sum())
        return forward(states, base, batch)

    monkeypatch.setattr(Batch, "__init__", making)
    monkeypatch.setattr(Batch, "leave", leaving)
    monkeypatch.setattr(States, "forward", passing)
    yield seen


@pytest.fixture(scope="module")
def exact() -> Policy:
    return make_policy(torch.float64)


@pytest.fixture(scope="module")
def endless(exact: Policy) -> Policy:
    """The same, and no token ends a turn."""
    return replace(exact, end_ids=(VOCABULARY,))


def plain(seed: int, count: int, length: int) -> list[tuple[int, ...]]:
    """Rows that have nothing in common."""
    chance = random.Random(seed)
    return [tuple(chance.randrange(9, VOCABULARY) for _ in range(length)) for _ in range(count)]


# --- The token budget -----------------------------------------------------------------------------


def test_known_rows_beside_new_ones_stay_in_the_budget(endless: Policy, watched: Watched) -> None:
    """Padded apart, what is known and what is not would make every row twice as long as the longest."""
    budget, prompts = 12 * 116, plain(2, 12, 100)
    generator = Generator(endless, max_batch_tokens=budget)
    generator.generate(prompts[:4], sampling=Sampling(1.0, 1.0, 4), keys=range(4))
    watched.batches.clear()
    said = generator.generate(prompts, sampling=Sampling(1.0, 1.0, 16), keys=range(12))
    assert watched.largest == budget * BYTES_PER_TOKEN, "all twelve rows at once, and not a position more"
    assert generator.counts.computed <= 4 * 100 + 4 * 1 + 8 * 100
    assert said[3] == say_one(endless, prompts[3], Sampling(1.0, 1.0, 16), 3)
    assert said[7] == say_one(endless, prompts[7], Sampling(1.0, 1.0, 16), 7)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("budget", [150, 400, 1500])
def test_no_batch_exceeds_its_budget(exact: Policy, watched: Watched, budget: int, cache: int) -> None:
    """Of shared prefixes, prompts, running rows and rows that are read, in traffic with forks and forks of forks."""
    generator, known = Generator(exact, max_batch_tokens=budget, max_cache_bytes=cache), texts(3, 30)
    for turn in range(3):
        said = generator.generate(known, sampling=SAMPLED, keys=range(30))
        rows = [spoken(prompt, ids) for prompt, ids in zip(known, said, strict=True)]
        losses = generator.losses(rows)
        assert losses[5] == pytest.approx(losses_one(exact, rows[5]), abs=1e-9)
        known = [row.ids for row in rows[:20]] + [(*rows[0].ids, k + 9) for k in range(5)] + plain(turn, 5, 60)
    assert 0 < watched.largest <= budget * BYTES_PER_TOKEN


# --- Padding --------------------------------------------------------------------------------------


def test_reading_pads_little(exact: Policy, watched: Watched) -> None:
    """Rows of 20 to 420 tokens after what they share: in one batch nearly half would be padding."""
    rows = [Rendered(ids[: 20 + 4 * k], ((10, 15), (18, 20 + 4 * k))) for k, ids in enumerate(plain(4, 100, 420))]
    generator = Generator(exact, max_batch_tokens=1 << 20)
    losses = generator.losses(rows)
    assert watched.passed - watched.padding == generator.counts.computed
    assert watched.padding < 0.15 * watched.passed
    assert len(watched.batches) < 40, "and yet not every row by itself"
    for k in (0, 50, 99):
        assert losses[k] == pytest.approx(losses_one(exact, rows[k]), abs=1e-9)


shapes = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), min_size=1, max_size=40)


@given(shapes=shapes, most=st.integers(1, 5000))
def test_a_pack_takes_what_belongs_together(shapes: list[tuple[int, int]], most: int) -> None:
    shapes.sort(key=lambda shape: -shape[1])
    pack = Pack(most=most)
    taken = 0
    while taken < len(shapes) and pack.take(*shapes[taken]):
        taken += 1
    chosen = shapes[:taken]
    assert pack.rows == taken >= 1
    assert pack.width == max(known for known, _ in chosen) + max(rest for _, rest in chosen)
    assert taken == 1 or taken * pack.width <= most
    parts = packs(shapes, widest=max(map(sum, shapes)))
    assert [i for part in parts for i in range(part.start, part.stop)] == [*range(len(shapes))]
    for part in parts:
        rests = [rest for _, rest in shapes[part]]
        assert len(rests) * max(rests) - sum(rests) <= 256
        assert max(known for known, _ in shapes[part]) + max(rests) <= max(map(sum, shapes))


# --- Rows that come and go ------------------------------------------------------------------------


def test_rows_that_leave_cost_no_new_layout_of_those_that_stay(exact: Policy, watched: Watched) -> None:
    """Sixteen rows end raggedly: only the rows that fill the gaps are moved."""
    prompts, sampling = plain(5, 16, 200), Sampling(1.0, 1.0, 60)
    generator = Generator(exact, max_batch_tokens=1 << 20, max_cache_bytes=0)
    said = generator.generate(prompts, sampling=sampling, keys=range(16))
    assert len({len(ids) for ids in said}) > 5, "they end raggedly"
    assert len(watched.batches) == 1
    assert watched.copied < 8 * 260 * BYTES_PER_TOKEN, "each place is filled once at most"
    assert said == [say_one(exact, prompt, sampling, key) for key, prompt in enumerate(prompts)]


def test_waiting_rows_do_not_enter_one_by_one(exact: Policy, watched: Watched) -> None:
    prompts, sampling = plain(6, 40, 60), Sampling(1.0, 1.0, 40)
    generator = Generator(exact, max_batch_tokens=8 * 100, max_cache_bytes=0)
    said = generator.generate(prompts, sampling=sampling, keys=range(40))
    assert watched.copied < 3 * sum(map(len, said + prompts)) * BYTES_PER_TOKEN
    assert [said[k] for k in (0, 39)] == [say_one(exact, prompts[k], sampling, k) for k in (0, 39)]


# --- Windows --------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=st.integers(0, 99), room=st.integers(1, 2000), batch=st.integers(1, 2000))
def test_windows_hold_every_row_once_and_what_fits(seed: int, room: int, batch: int) -> None:
    rows = 2 * texts(seed, 30)
    found = [*windows(rows, room=room, batch=batch)]
    assert sorted(i for window in found for i in window) == [*range(60)]
    for window in found:
        chosen = [rows[i] for i in window]
        tokens = len({ids[:k] for ids in chosen for k in range(1, len(ids) + 1)})  # of their prefix tree
        assert len(window) == 1 or tokens <= room or len(window) * max(map(len, chosen)) <= batch


def test_rows_that_share_little_are_not_kept_apart() -> None:
    rows = [(9, 10, *row) for row in plain(7, 50, 40)]
    assert [len(window) for window in windows(rows, room=100, batch=100)] == [50]
    twice = [*rows, *rows]
    assert all(len(window) <= 4 for window in windows(twice, room=100, batch=100))


def test_waves_of_prefixes_come_from_the_shortest_on() -> None:
    rows = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6), (7, 8), (7, 9)]
    assert shared_prefixes(rows) == [[()], [(1, 2), (7,)], [(1, 2, 3)]]
