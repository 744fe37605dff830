"""The forecast of memory: known models, what it grows with, and what is given up when room is short."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.model.memory import (
    FEWEST_TOKENS,
    GIB,
    MOST_TOKENS,
    OVERHEAD,
    Limits,
    Setup,
    adapter_bytes,
    fit,
    forecast,
    is_out_of_memory,
    planned,
    weight_bytes,
)
from optima_lite.model.shapes import LLAMA3
from optima_lite.settings.machine import Machine
from optima_lite.settings.recipe import Recipe

GPU, CPU = Setup(quantised=True, gpu=True, lora_rank=16), Setup(quantised=False, gpu=False, lora_rank=16)
WANTED = Limits(batch_tokens=MOST_TOKENS, turn_tokens=256, row_tokens=2048, micro_batch=16, cache_bytes=2 * GIB)
EIGHT = LLAMA3["8b"]


def recipe(**sections: Any) -> Recipe:
    return Recipe.from_dict({"model": {"name": "tiny"}, "task": {"name": "world"}, **sections}, where="test")


def test_the_8b_in_four_bits_weighs_what_its_file_on_the_hub_does() -> None:
    assert weight_bytes(EIGHT, GPU) / 1e9 == pytest.approx(5.70, abs=0.01)
    assert adapter_bytes(EIGHT, GPU) == 41_943_040 * 4, "the published size of a rank-16 adapter on all linear maps"


@pytest.mark.parametrize(("card", "rows", "phases"), [(24, 4096, 5), (16, 4096, 5), (12, 2048, 5), (12, 4096, 4)])
def test_what_fits_a_consumer_card(card: int, rows: int, phases: int) -> None:
    """The 8B on 24 and 16 GiB with rows of 4,096 tokens, on 12 GiB with rows of 2,048; DPO needs the most."""
    room = card * GIB - OVERHEAD
    limits = fit(EIGHT, GPU, replace(WANTED, row_tokens=rows), batch_size=16, room=room)
    fitting = [phase.name for phase in forecast(EIGHT, GPU, limits) if phase.total <= room]
    assert sorted(fitting, key="dpo".__eq__) == ["sample", "read", "sft", "rl", "dpo"][:phases]


sizes = st.builds(
    Limits,
    batch_tokens=st.integers(1, 1 << 16),
    turn_tokens=st.integers(1, 512),
    row_tokens=st.integers(16, 8192),
    micro_batch=st.integers(1, 32),
    cache_bytes=st.integers(0, 8 * GIB),
)


@given(limits=sizes, setup=st.sampled_from([GPU, CPU, Setup(True, False, 8)]), name=st.sampled_from([*LLAMA3]))
def test_more_of_anything_never_takes_less(limits: Limits, setup: Setup, name: str) -> None:
    before = forecast(LLAMA3[name], setup, limits)
    assert all(size >= 0 for phase in before for size in phase.parts.values())
    for field in ("batch_tokens", "row_tokens", "micro_batch", "cache_bytes"):
        larger = replace(limits, **{field: 2 * getattr(limits, field)})
        if field == "row_tokens":  # a batch holds fewer of the longer rows, and so fewer rows of logits
            larger = replace(larger, batch_tokens=2 * limits.batch_tokens)
        after = forecast(LLAMA3[name], setup, larger)
        assert all(a.total >= b.total for a, b in zip(after, before, strict=True)), field


@given(limits=sizes, batch_size=st.integers(1, 64), gib=st.floats(0, 40))
def test_fitting_only_gives_up_what_it_must(limits: Limits, batch_size: int, gib: float) -> None:
    room = int(gib * GIB)
    fitted = fit(EIGHT, GPU, limits, batch_size=batch_size, room=room)
    assert batch_size % fitted.micro_batch == 0, "the effective batch stays"
    assert fitted.micro_batch <= limits.micro_batch
    assert min(FEWEST_TOKENS, limits.batch_tokens) <= fitted.batch_tokens <= limits.batch_tokens
    assert fitted.cache_bytes <= limits.cache_bytes
    assert (fitted.row_tokens, fitted.turn_tokens) == (limits.row_tokens, limits.turn_tokens)
    before = {phase.name: phase.total for phase in forecast(EIGHT, GPU, limits)}
    after = {phase.name: phase.total for phase in forecast(EIGHT, GPU, fitted)}
    if max(before["sample"], before["read"]) <= room:
        assert (fitted.batch_tokens, fitted.cache_bytes) == (limits.batch_tokens, limits.cache_bytes)
    if max(after["sample"], after["read"]) > room:
        assert fitted.batch_tokens <= max(FEWEST_TOKENS, 1) and fitted.cache_bytes == 0, "nothing left to give up"
    if max(after["sft"], after["dpo"], after["rl"]) > room:
        assert fitted.micro_batch == 1


def test_a_plan_follows_the_schedule_and_keeps_the_batch_that_the_machine_sets() -> None:
    room = 24 * GIB
    for schedule, names in {
        "isft": ["sample", "read", "sft"],
        "idpo": ["sample", "read", "dpo"],
        "isft-dpo": ["sample", "read", "sft", "dpo"],
    }.items():
        _, phases = planned(recipe(schedule=schedule), Machine(), EIGHT, GPU, row_tokens=4096, room=room)
        assert [phase.name for phase in phases] == names
    for imitations, names in ((0, ["rl"]), (2, ["sft", "rl"])):
        reinforcing = recipe(method="reinforce", reinforce={"imitations": imitations})
        _, phases = planned(reinforcing, Machine(), EIGHT, GPU, row_tokens=4096, room=room)
        assert [phase.name for phase in phases] == ["sample", "read", *names]
    imitating, _ = planned(recipe(schedule="isft"), Machine(), EIGHT, GPU, row_tokens=4096, room=room)
    preferring, _ = planned(recipe(schedule="idpo"), Machine(), EIGHT, GPU, row_tokens=4096, room=room)
    assert imitating.micro_batch == 2 * preferring.micro_batch, "a pair is two rows"
    limits, _ = planned(recipe(), Machine(max_batch_tokens=65_536), EIGHT, GPU, row_tokens=4096, room=8 * GIB)
    assert limits.batch_tokens == 65_536


def test_the_cache_takes_what_sampling_leaves() -> None:
    """Of a card more than 2 GiB where there is more, and never so much that sampling or reading would not fit."""
    sizes = {}
    for card in (12, 16, 24, 80):
        room = card * GIB - OVERHEAD
        limits, phases = planned(recipe(), Machine(), EIGHT, GPU, row_tokens=4096, room=room)
        fixed, _ = planned(recipe(), Machine(max_cache_gib=2), EIGHT, GPU, row_tokens=4096, room=room)
        peaks = {phase.name: phase.total for phase in phases}
        assert max(peaks["sample"], peaks["read"]) <= room
        assert limits.batch_tokens == fixed.batch_tokens and fixed.cache_bytes <= limits.cache_bytes
        sizes[card] = limits.cache_bytes
    assert sizes[12] < sizes[16] <= sizes[24] < sizes[80]
    assert sizes[24] > 4 * GIB


def test_the_cache_is_no_larger_than_of_use_and_on_a_cpu_the_same_at_every_start() -> None:
    small = replace(EIGHT, layers=2, hidden=64, intermediate=128, heads=2, kv_heads=2, head_width=32, vocabulary=512)
    every_row = 800 * 1024 * small.cached_values * 4
    limits, _ = planned(recipe(), Machine(), small, CPU, row_tokens=1024, room=64 * GIB)
    assert limits.cache_bytes == every_row
    rooms = [int(gib * GIB) for gib in (20, 23.7, 64)]  # what is free differs from start to start
    found = [planned(recipe(), Machine(), EIGHT, CPU, row_tokens=1024, room=64 * GIB + room)[0] for room in rooms]
    assert [limits.cache_bytes for limits in found] == [2 * GIB] * 3
    limits, _ = planned(recipe(), Machine(), small, CPU, row_tokens=1024, room=every_row)
    assert limits.cache_bytes < every_row, "where memory is short it gives way"
    limits, _ = planned(recipe(), Machine(max_cache_gib=0), small, CPU, row_tokens=1024, room=64 * GIB)
    assert limits.cache_bytes == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:115] . DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:115] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_the_forecast_is_within_a_seventh_of_resident_memory() -> None:
    """On the CPU, where a GPU's tenth would be luck: allocators and libraries take what no formula knows."""
    script = Path(__file__).parents[2] / "scripts" / "measure_memory.py"
    done = subprocess.run([sys.executable, script, "30m"], check=True, capture_output=True, text=True)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows] == ["sample", "read", "sft", "dpo", "rl"]
    assert all(0.86 < float(row[4]) < 1.16 for row in rows), done.stdout
