"""The self-test: silent on a sound model in any precision, not on one whose padding, positions or cache are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.model import prefix_cache  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.prefix_cache import Batch, PrefixCache  # noqa: E402
from optima_lite.model.sampling import KeyedSampler  # noqa: E402
from optima_lite.model.selftest import Agreement, agreement  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings  # noqa: E402


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def sound(request: pytest.FixtureRequest) -> Policy:
    """The bundled model; in bfloat16 as on a card, the adapter beside it in float32."""
    policy = load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
    if request.param == torch.bfloat16:
        policy.mergeable = []
        policy.model.to(request.param)
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.data = weight.data.float()
    return policy


def test_a_sound_model_agrees_with_itself(sound: Policy) -> None:
    before = {name: weight.clone() for name, weight in sound.model.named_parameters()}
    found = [agreement(sound, seed=seed) for seed in range(3 if sound.model.dtype == torch.bfloat16 else 2)]
    assert all(one.batches and one.cache for one in found), found
    assert all(torch.equal(before[name], weight) for name, weight in sound.model.named_parameters())


def test_near_ties_are_no_disagreement(sound: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice between equals that falls another way each time sends greedy messages apart, and is nobody's fault."""
    head = sound.model.get_base_model().lm_head
    real, calls = head.forward, 0

    def rounded(hidden: Any) -> Any:
        nonlocal calls
        calls += 1
        logits = real(hidden)
        likeliest = logits.topk(2, dim=-1)
        hair = torch.tensor([1e-4, -1e-4]).roll(calls).to(logits.dtype)  # now the one is ahead, now the other
        return logits.scatter(-1, likeliest.indices, likeliest.values.mean(-1, keepdim=True) + hair)

    monkeypatch.setattr(head, "forward", rounded)
    found = agreement(sound)
    assert found == Agreement(True, True, found.furthest)


def no_mask(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy.model.get_base_model().model
    real = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: real(**{**given, "attention_mask": None}))


def no_mask_while_decoding(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = prefix_cache._additive
    monkeypatch.setattr(prefix_cache, "_additive", lambda mask, dtype: torch.zeros_like(real(mask, dtype)))


def the_mask_of_another_row(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = prefix_cache._additive
    monkeypatch.setattr(prefix_cache, "_additive", lambda mask, dtype: real(mask, dtype).roll(1, 0))


def positions_that_stand_still(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Batch.go_on

    def stuck(batch: Batch, ids: Any) -> None:
        before = batch.positions[:, -1:]
        real(batch, ids)
        batch.positions = before

    monkeypatch.setattr(Batch, "go_on", stuck)


def positions_that_count_padding(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harmless at the beginning of a row, because all of it moves; not between what is known and what is new."""
    model = policy.model.get_base_model().model
    real = model.forward

    def counted(**given: Any) -> Any:
        rows, width = given["input_ids"].shape
        positions = torch.arange(width) + given["past_key_values"].get_seq_length()
        return real(**{**given, "position_ids": positions.expand(rows, -1)})

    monkeypatch.setattr(model, "forward", counted)


def wrong_states(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PrefixCache.find

    def wrong(self: Any, ids: Any, **how: Any) -> Any:
        length, pieces = real(self, ids, **how)
        return length, [piece * 1.5 for piece in pieces]

    monkeypatch.setattr(PrefixCache, "find", wrong)


def tokens_that_nobody_chose(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyedSampler, "__call__", lambda self, logits, step: logits.argmin(-1))


FAULTS = {  # and whether batches and the cache are blamed
    no_mask: (False, False),
    no_mask_while_decoding: (False, False),
    the_mask_of_another_row: (False, False),
    positions_that_stand_still: (False, False),
    positions_that_count_padding: (True, False),
    wrong_states: (True, False),
    tokens_that_nobody_chose: (False, False),
}


@pytest.mark.parametrize(("fault", "blamed"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_is_found_out(
    fault: Callable[..., None], blamed: tuple[bool, bool], sound: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(sound, monkeypatch)
    found = agreement(sound)
    assert (found.batches, found.cache) == blamed, found.furthest
