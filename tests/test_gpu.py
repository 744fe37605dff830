"""On a real card: four bits, half precision, memory against the forecast, and the whole loop under a ceiling.

Skipped without an NVIDIA GPU. Random weights of known shapes, so nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from families import MODELS, write_model  # noqa: E402
from optima_lite.model.decoding import Decoding  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import computing_dtype, load  # noqa: E402
from optima_lite.model.memory import GIB, OVERHEAD, Limits, fit, forecast, is_out_of_memory, of_one_batch  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.model.selftest import agreement  # noqa: E402
from optima_lite.settings.config import load_machine, load_recipe  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings  # noqa: E402
from optima_lite.stage.probe import measure  # noqa: E402

pytestmark = pytest.mark.gpu
SCRIPT = Path(__file__).parents[1] / "scripts" / "random_llama.py"
RECIPE = """\
model: {{name: {folder}, max_length: 2048}}
task: {{name: world}}
schedule: isft-dpo
sampling: {{rollouts: 4, max_turn_tokens: 64}}
selection: {{min_reward: -9, pair_min_reward: -9, min_gap: 0}}
training: {{iterations: 1, questions: 8, epochs: 1, batch_size: 8}}
dpo: {{questions: 2, batch_size: 4}}
evaluation: {{questions: 8}}
"""


def written(folder: Path, shape: str) -> Path:
    subprocess.run([sys.executable, SCRIPT, shape, folder, "--nf4"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("1b"), "1b")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("8b"), "8b")


def loaded(folder: Path, **machine: object) -> Policy:
    return load(ModelSettings(name=str(folder), max_length=2048), machine=Machine.model_validate(machine), seed=0)


def ending_messages(*args: object, **kwargs: object) -> Policy:
    """`load`, and a model that ends a message after some twenty tokens."""
    policy = load(*args, **kwargs)

    def end_now_and_then(head: object, given: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., policy.end_ids[0]] = logits.logsumexp(-1) - 3
        return logits

    policy.model.get_base_model().lm_head.register_forward_hook(end_now_and_then)
    return policy


def test_a_prompt_alone_in_a_batch_and_from_the_cache_agree(small: Path) -> None:
    policy = loaded(small)
    assert policy.model.dtype == computing_dtype()
    found = agreement(policy)
    assert found.batches and found.cache, found


def test_the_adapter_beside_its_base_says_what_the_float32_adapter_says(small: Path) -> None:
    policy = loaded(small)
    with policy.changing(), torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.02)
    before = {name: weight.clone() for name, weight in policy.model.named_parameters() if "lora_" in name}
    ids = torch.arange(20, 60, device="cuda")[None]
    with torch.no_grad():
        exact = policy.model(input_ids=ids).logits.float()
        with policy.speaking() as model:
            own = model(input_ids=ids).logits.float()
        with policy.reading() as base:
            without = base(input_ids=ids).logits.float()
    assert (own - exact).abs().mean() < (without - exact).abs().mean() / 10
    after = dict(policy.model.named_parameters())
    assert all(weight.dtype == torch.float32 and torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("sampling", [Sampling(1.0, 1.0, 32), Sampling(1.0, 0.9, 32), Sampling(0.0, 1.0, 32)])
def test_a_slice_asks_the_card_once(sampling: Sampling, small: Path) -> None:
    """A look at every token would make the card wait for Python."""
    policy = loaded(small)
    policy.end_ids = (10**6,)
    generator = Generator(policy, max_batch_tokens=1 << 16, max_cache_bytes=0)
    prompts = [[20 + k] * (60 + k) for k in range(8)]
    generator.generate(prompts, sampling=sampling, keys=range(8))
    asked = 0
    real = Decoding._sample

    def watched(self: Decoding, *given: object) -> list[list[int]]:
        nonlocal asked
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = real(self, *given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        asked = max(asked, sum("synchroniz" in str(one.message) for one in said))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoding, "_sample", watched)
        generator.generate(prompts, sampling=sampling, keys=range(8))
    # Numbers that go to the card (random ones, a first batch's mask) may count, too: a few a slice, none a token.
    assert asked <= 4


def test_a_gpu_s_blocks_grow_in_place() -> None:
    if sys.platform == "linux" and os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == "expandable_segments:True":
        torch.empty(1 << 20, device="cuda")
        assert torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_every_family_agrees_with_itself(name: str, quantization: str, tmp_path: Path) -> None:
    settings = ModelSettings(name=str(write_model(tmp_path, name)), quantization=quantization)
    found = agreement(load(settings, machine=Machine(), seed=0))
    assert found.batches and found.cache, found


@pytest.mark.slow
@pytest.mark.parametrize("ceiling", [24, 16, 12])
def test_the_forecast_is_within_a_tenth_of_what_is_measured(ceiling: int, large: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    if total < ceiling:
        pytest.skip(f"the card has {total:.0f} GiB")
    policy = loaded(large, max_vram_gib=float(ceiling))
    wanted = Limits(32_768, 128, 2048, 8, 2 * GIB)
    limits = fit(policy.shape, policy.setup, wanted, batch_size=8, room=ceiling * GIB - OVERHEAD)
    limits = of_one_batch(policy.shape, policy.setup, limits)
    expected = {phase.name: phase.total for phase in forecast(policy.shape, policy.setup, limits)}
    for name, peak in measure(policy, limits):
        assert peak == pytest.approx(expected[name], rel=0.1), (name, peak / GIB, expected[name] / GIB)


def test_every_phase_gives_back_what_it_took(small: Path) -> None:
    policy = loaded(small)
    limits = Limits(batch_tokens=2048, turn_tokens=32, row_tokens=512, micro_batch=2, cache_bytes=0)
    held = []
    for _ in range(3):
        for _ in measure(policy, limits):
            pass
        held.append(torch.cuda.memory_allocated())
    assert held[2] <= held[1] + 2**20


def test_the_ceiling_of_the_machine_file_holds(small: Path) -> None:
    loaded(small, max_vram_gib=4.0)
    try:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            torch.empty(5 * GIB, dtype=torch.uint8, device="cuda")
        assert is_out_of_memory(raised.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("ceiling", [24, 16])
def test_an_iteration_of_imitation_and_preference_under_a_ceiling(
    ceiling: int, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optima_lite.methods.train import train
    from optima_lite.runs.progress import silent

    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=large))
    (tmp_path / "machine.toml").write_text(f"max_vram_gib = {ceiling}.0\n")
    machine = load_machine(tmp_path / "machine.toml")
    monkeypatch.setattr("optima_lite.stage.cast.load", ending_messages)
    torch.cuda.reset_peak_memory_stats()
    train(load_recipe(tmp_path / "recipe.yaml"), machine=machine, folder=tmp_path / "run", observe=silent)
    assert torch.cuda.max_memory_allocated() <= ceiling * GIB
    steps = [json.loads((tmp_path / f"run/iteration_00/{step}_adapter/training.json").read_text()) for step in (4, 8)]
    assert all(facts["steps"] for facts in steps), "random weights never end a message, and what is cut is not learnt"
