"""The adapter while the model speaks: in which precision it is computed, with how few kernels, and what stays of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402

IDS = torch.tensor([list(range(20, 40)), list(range(60, 80))])


@pytest.fixture
def half(policy: Policy) -> Policy:
    """The bundled model as on a card: the base in bfloat16, the adapter, which changes it, in float32 and beside it."""
    policy.mergeable = []
    policy.model.to(torch.bfloat16)
    torch.manual_seed(1)
    with policy.changing(), torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.data = torch.randn(weight.shape) * 0.1
    return policy


class Products(TorchDispatchMode):
    """The precision of every matrix product with a small side, as only the adapter has."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: list[Any] = []
        self.operators = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        matrices = [a for a in args if isinstance(a, torch.Tensor) and a.ndim == 2]
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_") and any(16 in m.shape for m in matrices):
            self.precisions.append({m.dtype for m in matrices})
        self.operators += isinstance(out, torch.Tensor) and out._base is None
        return out


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def test_it_is_computed_in_the_models_own_precision(half: Policy) -> None:
    assert {w.dtype for n, w in half.model.named_parameters() if "lora_" in n} == {torch.float32}
    layers = half.model.get_base_model().config.num_hidden_layers
    with half.speaking() as model, Products() as products:
        logits(model)
    assert products.precisions == [{torch.bfloat16}] * (2 * 7 * layers), "two products for each linear map"
    with Products() as plain:
        logits(half.model)
    assert {torch.float32} in plain.precisions, "as PEFT computes it, and as it is trained"
    assert plain.operators - products.operators >= 4 * 7 * layers


def test_it_says_what_the_float32_adapter_says(half: Policy) -> None:
    exact = copy.deepcopy(half.model).float()
    with half.speaking() as model:
        own = logits(model)
    right, plain = logits(exact), logits(half.model)
    with half.reading() as base:
        without = logits(base)
    assert (own - right).abs().mean() < 1.2 * (plain - right).abs().mean(), "no further off than half precision is"
    assert (own - right).abs().mean() < (without - right).abs().mean() / 10


def test_in_double_precision_both_ways_are_the_same(policy: Policy) -> None:
    policy.mergeable = []
    policy.model.double()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1)
    plain = logits(policy.model)
    with policy.speaking() as model:
        assert torch.allclose(logits(model), plain, atol=1e-6)


def test_a_merged_layer_is_its_matrix_product_and_nothing_else(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's own forward would ask at every call what it is to do; afterwards it is back."""
    torch.manual_seed(1)
    with policy.changing(), torch.no_grad():
        for weight in policy.weights(policy.worn):
            weight.normal_(0, 0.1)
    plain, asked = logits(policy.model), []
    layer = type(policy.mergeable[0])
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, x: asked.append(self) or forward(self, x))
    with policy.speaking() as model:
        assert torch.allclose(logits(model), plain, atol=1e-4)
    assert asked == []
    assert torch.equal(logits(policy.model), plain) and len(asked) == len(policy.mergeable)


def held(policy: Policy) -> dict[str, Any]:
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_weights_are_never_touched(half: Policy, error: type[BaseException] | None) -> None:
    before, plain = held(half), logits(half.model)
    generator = Generator(half, max_batch_tokens=4096)
    seen = generator.fingerprint()
    try:
        with half.speaking() as model:
            logits(model)
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    after = held(half)
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    assert torch.equal(logits(half.model), plain), "PEFT's own forward is back"
    assert generator.fingerprint() == seen, "so cached states stay valid"


def test_a_change_of_the_weights_is_heard_the_next_time(half: Policy) -> None:
    generator = Generator(half, max_batch_tokens=4096)
    generator.generate(IDS.tolist(), sampling=Sampling(0.0, 1.0, 4), keys=[0, 1])
    assert generator.states.cache.bytes > 0
    with torch.no_grad():
        for name, weight in half.model.named_parameters():
            if "lora_B" in name:
                weight.neg_()
    with half.speaking() as model:
        flipped = logits(model)
    assert (flipped - logits(half.model)).abs().mean() < 0.1
    generator._forget_old_weights()
    assert generator.states.cache.bytes == 0


def test_training_goes_on_as_if_nobody_had_spoken(half: Policy) -> None:
    def gradients() -> list[Any]:
        half.model.zero_grad()
        half.model(input_ids=IDS, labels=IDS).loss.backward()
        return [w.grad.clone() for w in half.model.parameters() if w.grad is not None]

    before = gradients()
    with half.speaking() as model:
        logits(model)
    after = gradients()
    assert len(before) == len(after) > 0
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
