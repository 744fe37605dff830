"""Training goes on when memory runs out, and learns the same."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from optima_lite.errors import OptimaError
from optima_lite.learn.sft import TrainingFacts
from optima_lite.model.loading import load
from optima_lite.model.memory import Limits
from optima_lite.model.policy import Policy
from optima_lite.model.render import Rendered
from optima_lite.model.sampling import Sampling
from optima_lite.runs.progress import silent
from optima_lite.runs.store import Run
from optima_lite.settings.machine import Machine
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings
from optima_lite.stage.cast import Cast
from optima_lite.stage.crew import Alone
from optima_lite.stage.lesson import Lesson
from optima_lite.stage.probe import measure
from optima_lite.stage.stage import Stage

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:115] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
Train = Callable[[Policy, list[str]], None]


@pytest.fixture
def policy() -> Policy:
    return load(ModelSettings(name="tiny", lora_rank=4), machine=Machine(), seed=0)


@pytest.fixture
def quantised() -> Policy:
    """Four bits, as on the card."""
    return load(ModelSettings(name="tiny", quantization="nf4", lora_rank=4), machine=Machine(), seed=0)


def row(policy: Policy, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A prompt and a turn, of lengths that differ from row to row."""
    bos, end = policy.tokenizer.bos_token_id, policy.end_ids[0]
    ids = torch.randint(20, 200, (30,), generator=torch.Generator().manual_seed(number)).tolist()
    return (bos, *ids[: 10 + number]), (*ids[20 : 23 + number % 3], end)


def sft(policy: Policy, told: list[str], *, micro_batch: int = 4) -> None:
    from optima_lite.learn.sft import fine_tune

    rows = []
    for number in range(7):  # the last step has three rows
        prompt, turn = row(policy, number)
        rows.append(Rendered(prompt + turn, ((len(prompt), len(prompt) + len(turn)),)))
    settings = TrainingSettings(batch_size=4, epochs=1, learning_rate=1e-4)
    fine_tune(
        policy, rows, settings=settings, micro_batch=micro_batch, seed=0, on_step=lambda n: None, notify=told.append
    )


def dpo(policy: Policy, told: list[str], *, micro_batch: int = 4) -> None:
    from optima_lite.learn.dpo import PairIds, optimise

    pairs = []
    for number in range(7):
        prompt, chosen = row(policy, number)
        pairs.append(PairIds(prompt, chosen, row(policy, number + 10)[1]))
    settings = DpoSettings(batch_size=4, epochs=1, learning_rate=1e-4, sft_weight=0.5)
    optimise(
        policy, pairs, settings=settings, micro_batch=micro_batch, seed=0, on_step=lambda n: None, notify=told.append
    )


def adapter(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.model.named_parameters() if "lora_" in name}


def trained(policy: Policy, train: Train, **how: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    policy.restart(seed=1)
    told: list[str] = []
    train(policy, told, **how)
    return adapter(policy), told


def furthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - two[name]).abs().max()) for name in one)


class Allocator:
    """Gives up on chosen calls of the output layer's backward or of a layer's forward, as torch's allocators do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
        self.calls = 0
        self.fails_at: set[int] = set()
        self.most_rows = 10**9
        self.error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        layer = policy.model.get_base_model().model.layers[-1]
        forward = layer.forward

        def guarded(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls in self.fails_at or len(hidden) > self.most_rows:
                raise self.error
            return forward(hidden, *args, **kwargs)

        monkeypatch.setattr(layer, "forward", guarded)

    def fail_backward(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second backward pass ends half way: some gradients have been added, others not."""
        real, calls = torch.Tensor.backward, iter(range(100))

        def backward(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            real(tensor, *args, **kwargs)
            if next(calls) == 1:
                raise self.error

        monkeypatch.setattr(torch.Tensor, "backward", backward)


@pytest.mark.parametrize("train", [sft, dpo])
def test_a_smaller_micro_batch_learns_the_same(
    train: Train, quantised: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, told = trained(quantised, train)
    assert told == []
    halved, told = trained(quantised, train, micro_batch=2)
    assert furthest(whole, halved) < 1e-5
    assert told == []
    Allocator(monkeypatch, quantised).most_rows = 2 if train is dpo else 1
    squeezed, told = trained(quantised, train)
    assert furthest(whole, squeezed) < 1e-5
    assert told == [
        "out of memory: training goes on with 2 examples at a time",
        "out of memory: training goes on with 1 examples at a time",
    ]


def test_a_quantised_adapter_is_trained_in_full_precision(quantised: Policy) -> None:
    """TRL rounds it to bf16, which would undo the small steps of earlier iterations and split it from its reference."""
    from optima_lite.learn.sft import adapter_weights

    with torch.no_grad():
        for name, weight in quantised.model.named_parameters():
            if "lora_" in name:
                weight += 1e-6
    exact = adapter_weights(quantised.model)
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in exact.values())
    from optima_lite.learn.dpo import PairIds, optimise

    (prompt, chosen), (_, rejected) = row(quantised, 0), row(quantised, 1)
    settings = DpoSettings(batch_size=1, epochs=1, learning_rate=1e-12, warmup_ratio=0)
    facts = optimise(
        quantised, [PairIds(prompt, chosen, rejected)], settings=settings, micro_batch=1, seed=0, on_step=lambda n: None
    )
    assert facts.chosen_shift == 0, "adapter and reference are the same at the start"
    assert furthest(exact, adapter_weights(quantised.model)) < 1e-9


@pytest.mark.parametrize("train", [sft, dpo])
@pytest.mark.parametrize("failing", [2, 3])
def test_running_out_in_the_middle_of_a_step_counts_nothing_twice(
    train: Train, failing: int, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = trained(policy, train, micro_batch=2)
    allocator = Allocator(monkeypatch, policy)
    allocator.fails_at = {failing}  # for dpo the second call is the reference's
    found, told = trained(policy, train, micro_batch=2)
    assert told == ["out of memory: training goes on with 1 examples at a time"]
    assert furthest(expected, found) < 1e-5
    assert policy.model.active_adapter == "default"


@pytest.mark.parametrize("train", [sft, dpo])
def test_half_a_backward_pass_is_taken_back(train: Train, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = trained(policy, train, micro_batch=2)
    allocator = Allocator(monkeypatch, policy)
    allocator.error = RuntimeError(CPU_MESSAGE)
    allocator.fail_backward(monkeypatch)
    found, told = trained(policy, train, micro_batch=2)
    assert len(told) == 1
    assert furthest(expected, found) < 1e-5


def test_a_single_example_that_does_not_fit_is_an_error_with_a_hint(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    Allocator(monkeypatch, policy).most_rows = 0
    with pytest.raises(OptimaError) as raised:
        trained(policy, sft)
    assert raised.value.what == (
        "out of memory with a single training example at a time: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert raised.value.hint == "a smaller model.max_length; `optima-lite check` shows what fits"


def test_other_errors_are_not_taken_for_a_lack_of_memory(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch, policy)
    allocator.error, allocator.most_rows = RuntimeError("shapes do not match"), 0
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(policy, sft)


def live_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors()}
    return sum(storages.values())


def _tensors() -> Iterator[torch.Tensor]:
    for thing in gc.get_objects():
        if type(thing) in {torch.Tensor, torch.nn.Parameter}:
            yield thing


@pytest.mark.slow
def test_every_phase_gives_back_what_it_took(quantised: Policy) -> None:
    limits = Limits(batch_tokens=256, turn_tokens=4, row_tokens=64, micro_batch=2, cache_bytes=1 << 24)
    held = []
    for _ in range(3):
        assert [name for name, _ in measure(quantised, limits)] == ["sample", "read", "sft", "dpo", "rl"]
        held.append(live_bytes())
    assert held[1] == held[2] <= held[0]


@pytest.mark.parametrize("train", [sft, dpo])
def test_training_gives_back_what_it_took(train: Train, policy: Policy) -> None:
    trained(policy, train)
    before = live_bytes()
    for _ in range(2):
        train(policy, [])
    assert live_bytes() == before


def test_training_begins_with_an_empty_prefix_cache(cast: Cast, tmp_path: Path) -> None:
    generator, held = cast.team.generator, []
    generator.generate([tuple(range(20, 40))], sampling=Sampling(0.0, 1.0, 4), keys=[0])
    assert generator.states.cache.bytes > 0

    def optimise(*args: Any, **how: Any) -> TrainingFacts:
        held.append(generator.states.cache.bytes)
        return TrainingFacts(rows=0, trainer_tokens=0, epochs=0, steps=0, loss=None)

    with Run.open(tmp_path / "run", {"recipe": cast.recipe.to_dict(), "versions": {}}) as run:
        stage = Stage(cast, run, silent, Alone(cast))
        stage.adapt(Lesson(optimise, {"shared": []}, cast.recipe.training, 0, "4_adapter"), label="train")
    assert held == [0]
