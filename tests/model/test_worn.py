"""Several adapters on one base: each keeps its weights and its states, whichever the model wears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import ModelError  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.memory import Limits, Setup, adapter_bytes, forecast  # noqa: E402
from optima_lite.model.policy import Policy, places  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.model.shapes import LLAMA3  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings, TrainingSettings  # noqa: E402

NAMES = ("one", "two", "three")
GREEDY = Sampling(0.0, 1.0, 6)
PROMPT = list(range(20, 60))


@pytest.fixture
def several(policy: Policy) -> Policy:
    """The bundled model with three adapters that say different things."""
    policy.hold(NAMES)
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in policy.weights(name):
                weight.normal_(0, 0.2)
    return policy


def copied(policy: Policy, name: str) -> list[Any]:
    return [weight.detach().clone() for weight in policy.weights(name)]


def equal(one: list[Any], two: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def said(policy: Policy, name: str, generator: Generator | None = None) -> list[tuple[int, ...]]:
    policy.wear(name)
    return (generator or Generator(policy, max_batch_tokens=4096)).generate([PROMPT], sampling=GREEDY, keys=[0])


def test_wearing_copies_and_changes_nothing(several: Policy) -> None:
    before = {name: copied(several, name) for name in NAMES}
    at = {name: [weight.data_ptr() for weight in several.weights(name)] for name in NAMES}
    heard = {name: said(several, name) for name in NAMES}
    assert len({*map(str, heard.values())}) == 3, "each says something else"
    for name in ("three", "one", "two", "one"):
        assert said(several, name) == heard[name]
    assert all(equal(copied(several, name), before[name]) for name in NAMES)
    assert at == {name: [weight.data_ptr() for weight in several.weights(name)] for name in NAMES}
    with pytest.raises(KeyError):
        several.wear("four")
    assert several.worn == "one" and equal(copied(several, "one"), before["one"])


def test_states_of_one_adapter_are_never_found_for_another(several: Policy) -> None:
    right = {name: said(several, name) for name in NAMES}
    generator = Generator(several, max_batch_tokens=4096)
    for name in NAMES:
        assert said(several, name, generator) == right[name]
        assert generator.counts.reused == 0, f"{name} must compute its own states"
    assert said(several, "one", generator) == right["one"]
    assert generator.counts.reused >= len(PROMPT) - 1, "to wear another adapter for a while forgets nothing"


def test_a_change_of_any_adapter_is_heard(several: Policy) -> None:
    generator = Generator(several, max_batch_tokens=4096)
    for change in ("one", "two"):
        said(several, "one", generator)
        assert generator.states.cache.bytes > 0
        with torch.no_grad():
            several.weights(change)[0].neg_()  # past the policy
        generator._forget_old_weights()
        assert generator.states.cache.bytes == 0
    said(several, "one", generator)
    several.restart(seed=1, names=("two",))
    generator._forget_old_weights()
    assert generator.states.cache.bytes == 0


def test_adapters_come_back_by_name(several: Policy, tmp_path: Path) -> None:
    before = {name: copied(several, name) for name in NAMES}
    for name, place in places(tmp_path, NAMES).items():
        several.wear(name)
        several.save_adapter(place)
    several.restart(seed=0)
    assert not any(equal(copied(several, name), before[name]) for name in NAMES)
    several.load_adapter(tmp_path)
    assert all(equal(copied(several, name), before[name]) for name in NAMES)
    several.load_adapter(tmp_path / "two")
    assert equal(copied(several, "one"), before["two"]), "a folder with one adapter is the first's"
    assert equal(copied(several, "three"), before["three"])
    (tmp_path / "two" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"two: no adapter_model\.safetensors"):
        several.load_adapter(tmp_path)


def test_a_restart_differs_by_name_and_the_first_is_as_an_only_one(policy: Policy) -> None:
    policy.restart(seed=3)
    only = copied(policy, policy.worn)
    policy.hold(NAMES)
    policy.restart(seed=3)
    first, second, third = (copied(policy, name) for name in NAMES)
    assert equal(first, only)
    assert not equal(first, second) and not equal(second, third) and not equal(first, third)
    policy.restart(seed=4, names=("two",))
    assert equal(copied(policy, "one"), first) and equal(copied(policy, "three"), third)
    assert not equal(copied(policy, "two"), second)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:bitsandbytes")
def test_three_adapters_on_a_four_bit_base_speak_and_learn_apart() -> None:
    pytest.importorskip("bitsandbytes")
    from optima_lite.learn.dpo import optimise
    from optima_lite.learn.sft import fine_tune
    from optima_lite.settings.sections import DpoSettings
    from optima_lite.stage.probe import MadeUp

    policy = load(ModelSettings(name="tiny", quantization="nf4"), machine=Machine(), seed=0, adapters=NAMES)
    made, limits = MadeUp(policy, 0), Limits(256, 8, 32, 2, 0)
    before = {name: copied(policy, name) for name in NAMES}
    how: dict[str, Any] = {"micro_batch": 2, "seed": 0, "on_step": lambda done: None}
    generator = Generator(policy, max_batch_tokens=4096)
    same = {name: said(policy, name, generator) for name in NAMES}
    assert len({*map(str, same.values())}) == 1, "untrained all say what the base says"
    policy.wear("two")
    fine_tune(policy, [made.row(limits) for _ in range(2)], settings=TrainingSettings(epochs=1, batch_size=2), **how)
    trained = copied(policy, "two")
    policy.wear("three")
    optimise(policy, [made.pair(limits) for _ in range(2)], settings=DpoSettings(batch_size=2), **how)
    assert equal(copied(policy, "one"), before["one"])
    assert equal(copied(policy, "two"), trained) and not equal(trained, before["two"])
    assert not equal(copied(policy, "three"), before["three"])
    assert said(policy, "one", generator) == same["one"]
    assert {weight.dtype for name in NAMES for weight in policy.weights(name)} == {torch.float32}


@pytest.mark.parametrize("gpu", [True, False])
def test_the_forecast_holds_every_adapter_and_works_with_one(gpu: bool) -> None:
    shape, limits = LLAMA3["8b"], Limits(4096, 256, 1024, 1, 0)
    one, three = Setup(gpu, gpu, 16), Setup(gpu, gpu, 16, adapters=3)
    for single, several in zip(forecast(shape, one, limits), forecast(shape, three, limits), strict=True):
        assert several.total - single.total == 2 * adapter_bytes(shape, one)
