"""A start: what it finds out about the model decides how the model is used."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import optima_lite.stage.cast  # noqa: E402
from optima_lite.model.selftest import Agreement  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.stage.cast import Cast, assemble  # noqa: E402


@pytest.mark.parametrize(
    ("batches", "cache", "limits"),
    [(False, True, {"batches_fail": 1}), (True, False, {"cache_fails": 0}), (True, True, {})],
    ids=["batches", "cache", "sound"],
)
def test_a_start_does_without_what_failed_the_self_test(
    assembled: Cast, batches: bool, cache: bool, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optima_lite.stage.cast, "agreement", lambda policy: Agreement(batches, cache, 0.5))
    settled: dict[str, int] = {}
    told: list[str] = []
    cast = assemble(
        assembled.recipe,
        machine=Machine(threads=1, max_batch_tokens=8192),
        settle=lambda key, choose: settled.setdefault(key, choose()),
        notify=told.append,
    )
    states = cast.team.generator.states
    assert states.max_batch_tokens == (8192 if batches else 1)
    assert (states.cache.max_bytes > 0) == cache
    assert {key: value for key, value in settled.items() if key.endswith(("fail", "fails"))} == limits
    assert len(told) == len(limits) and all("0.500 nats" in note for note in told)
