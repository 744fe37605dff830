"""What leaves the house: merged weights, GGUF, cards, Modelfiles; and that an export says what the run says."""

from __future__ import annotations

import importlib.util
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_runs
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from optima_lite.errors import ConfigError, ModelError, RunError
from optima_lite.model.checkpoint import bundled, read
from optima_lite.model.loading import load
from optima_lite.outlets import gguf_file
from optima_lite.outlets.checking import check
from optima_lite.outlets.export import Order, in_four_bits, write
from optima_lite.outlets.merging import deltas, merged, through_four_bits, write_shards
from optima_lite.outlets.role_card import modelfiles, role_card
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.runs.store import Run
from optima_lite.settings.machine import Machine
from optima_lite.settings.recipe import Recipe
from optima_lite.settings.sections import ModelSettings

MACHINE = Machine(threads=1, max_batch_tokens=8192)
RECIPE: dict[str, Any] = {
    "model": {"name": "tiny", "lora_rank": 4},
    "task": {"name": "world"},
    "protocol": {"max_turns": 4},
    "prompts": {"system": "You are {name}, working with {partner}.", "solo_system": "You work alone."},
    "sampling": {"rollouts": 2, "max_turn_tokens": 24},
    "reward": {"readability": "capped"},
    "training": {"iterations": 1, "questions": 4, "epochs": 1, "batch_size": 4, "learning_rate": 2e-3},
    "evaluation": {"questions": 4, "validation_questions": 2},
}


def put_adapter(folder: Path, *, size: float = 0.05) -> None:
    """An adapter for the bundled model that changes what it says."""
    policy = load(ModelSettings(name="tiny", lora_rank=4), machine=MACHINE, seed=0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in policy.weights(policy.worn)[1::2]:
            weight.normal_(0, size)
    policy.save_adapter(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with one trained step, on the CPU."""
    folder = tmp_path_factory.mktemp("runs") / "made"
    recipe = Recipe.from_dict(RECIPE, where="here").to_dict()
    with Run.open(folder, {"recipe": recipe, "recipe_name": "made", "threads": 1}) as writing:
        writing.folder_stage("iteration_00/4_adapter", put_adapter)
        verdict = {"step": "imitate", "before": 0.5, "after": 0.6, "verdict": "keep"}
        writing.write_json("iteration_00/5_verdict.json", verdict | {"adapter": "iteration_00/4_adapter"})
        for name, score in (("untrained", 0.4), ("iteration_00", 0.8)):
            made_runs.evaluate(writing, name, [], score=score, tokens=20.0)
    return read_run(folder)


def adapter_of(run: RunFolder) -> Path:
    place = run.adapter(0)
    assert place is not None
    return place


# --- Merging --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 and transformers 5.23
def test_merging_is_what_peft_does_on_whole_weights(run: RunFolder) -> None:
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(bundled(), dtype=torch.float32)
    wanted = PeftModel.from_pretrained(base, adapter_of(run)).merge_and_unload().state_dict()
    found = dict(merged(read(bundled()), adapter_of(run), four_bits=False, dtype=torch.float32))
    assert found.keys() == wanted.keys() - {"lm_head.weight"}
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.items())


def test_what_four_bits_leave_is_what_the_loaded_model_computes_with(run: RunFolder) -> None:
    from bitsandbytes.functional import dequantize_4bit

    policy = load(ModelSettings(name="tiny", lora_rank=4, quantization="nf4"), machine=MACHINE, seed=0)
    held = {
        name.removesuffix(".base_layer"): dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in policy.model.get_base_model().named_modules()
        if name.endswith("base_layer")
    }
    base, adapter = read(bundled()), adapter_of(run)
    plain = dict(merged(base, adapter, four_bits=False, dtype=torch.float32))
    found = dict(merged(base, adapter, four_bits=True, dtype=torch.float32))
    added = deltas(adapter)
    assert held.keys() == added.keys()
    for module, weight in held.items():
        assert torch.equal(found[f"{module}.weight"], weight + added[module]())
        assert not torch.equal(found[f"{module}.weight"], plain[f"{module}.weight"])
    assert all(torch.equal(plain[name], found[name]) for name in plain.keys() - {f"{module}.weight" for module in held})


def test_a_base_stored_in_four_bits_is_merged_as_it_is(run: RunFolder, tmp_path: Path) -> None:
    from bitsandbytes.functional import quantize_4bit
    from safetensors.torch import save_file

    base, packed = read(bundled()), {}
    for name, weight in load_file(bundled() / "model.safetensors").items():
        packed[name] = weight
        if name.removesuffix(".weight") in deltas(adapter_of(run)):
            packed[name], state = quantize_4bit(weight.float(), quant_type="nf4", compress_statistics=True)
            packed |= {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (tmp_path / file).write_bytes((bundled() / file).read_bytes())
    save_file(packed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    bits = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    config = json.loads((bundled() / "config.json").read_text()) | {
        "quantization_config": bits | {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32"}
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = dict(merged(read(tmp_path), adapter_of(run), four_bits=True, dtype=torch.float32))
    wanted = dict(merged(base, adapter_of(run), four_bits=True, dtype=torch.float32))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_four_bits_cost_something_and_keep_the_most() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    left = (through_four_bits(weight) - weight).pow(2).mean().sqrt() / weight.std()
    assert 0.02 < left < 0.2


def test_no_more_than_a_shard_and_a_tensor_is_held(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def tensors() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for k in range(40):
            tensor = torch.full((1000,), float(k))  # 4,000 bytes
            alive.add(tensor)
            most = max(most, sum(one.nbytes for one in alive))
            yield f"t{k}", tensor
            del tensor

    write_shards(tensors(), tmp_path, limit=20_000)
    assert most <= 20_000 + 2 * 4_000
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"model-0000{k}-of-00008.safetensors" for k in range(1, 9)] + ["model.safetensors.index.json"]
    places = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    for k in range(40):
        assert torch.equal(load_file(tmp_path / places[f"t{k}"])[f"t{k}"], torch.full((1000,), float(k)))


def test_an_adapter_of_another_model_is_refused(run: RunFolder, tmp_path: Path) -> None:
    for file in adapter_of(run).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    from safetensors.torch import save_file

    moved = {name.replace("layers.3.", "layers.9."): weight for name, weight in weights.items()}
    save_file(moved, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="another model"):
        list(merged(read(bundled()), tmp_path, four_bits=False, dtype=torch.float32))


@pytest.mark.parametrize(
    ("quantization", "manifest", "expected"),
    [("nf4", {"threads": 1}, True), ("none", {}, False), ("auto", {"threads": 1}, False), ("auto", {}, True)],
)
def test_how_the_base_was_held_is_known_afterwards(quantization: str, manifest: Any, expected: bool) -> None:
    recipe = Recipe.from_dict(RECIPE | {"model": {"name": "tiny", "quantization": quantization}}, where="here")
    assert in_four_bits(RunFolder(Path("nowhere"), manifest), recipe) is expected


# --- Folders --------------------------------------------------------------------------------------


def test_a_merged_folder_is_a_model_of_transformers_and_says_how_to_sample(run: RunFolder, tmp_path: Path) -> None:
    write(run, tmp_path / "out", Order("merged", 0), machine=MACHINE)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    wanted = dict(merged(read(bundled()), adapter_of(run), four_bits=False, dtype=torch.bfloat16))
    assert all(torch.equal(weight, wanted[name]) for name, weight in model.state_dict().items() if name in wanted)
    kept = model.generation_config
    assert (kept.do_sample, kept.temperature, kept.top_p, kept.top_k, kept.eos_token_id) == (
        True,
        0.7,
        1.0,
        0,
        [651, 648],
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(bundled()).chat_template
    card = json.loads((tmp_path / "out" / "role_card.json").read_text())
    assert [role["system"] for role in card["roles"]] == [
        "You are Alice, working with Bob.",
        "You are Bob, working with Alice.",
    ]
    assert not [path for path in (tmp_path / "out").iterdir() if path.stat().st_mode & 0o444 != 0o444]


def test_the_card_tells_the_results_to_the_hub(run: RunFolder, tmp_path: Path) -> None:
    write(run, tmp_path / "out", Order("adapter", 0), machine=MACHINE)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    results = {one.metric_name: one.metric_value for one in card.data.eval_results or []}
    assert results["score, sampled"] == 0.8
    assert "| untrained, sampled | 0.400" in card.text
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"


def test_nothing_is_written_over_and_nothing_half_is_left(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(RunError, match="holds something"):
        write(run, tmp_path / "full", Order("adapter", 0), machine=MACHINE)
    with pytest.raises(RunError, match="no iteration 7"):
        write(run, tmp_path / "out", Order("adapter", 7), machine=MACHINE)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("optima_lite.outlets.export.write_card", full)
    with pytest.raises(OSError, match="no space"):
        write(run, tmp_path / "out", Order("adapter", 0), machine=MACHINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_a_modelfile_puts_around_messages_what_the_chat_template_puts(run: RunFolder) -> None:
    recipe = Recipe.from_dict(RECIPE, where="here")
    text = modelfiles(recipe, "model.gguf", context=1024)["bob"]
    before, rest = text.split('TEMPLATE """')[1].split("{{- range .Messages }}")
    each, after = rest.split('"""')[0].split("{{- end }}")
    said = [{"role": role, "content": f"{role} {k}"} for k, role in enumerate(("system", "user", "assistant", "user"))]
    shown = "".join(each.replace("{{ .Role }}", m["role"]).replace("{{ .Content }}", m["content"]) for m in said)
    tokenizer = AutoTokenizer.from_pretrained(bundled())
    wanted = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert "<|begin_of_text|>" + before + shown + after == wanted
    assert 'SYSTEM """You are Bob, working with Alice."""' in text
    assert "PARAMETER top_k 0\nPARAMETER min_p 0\nPARAMETER repeat_penalty 1\n" in text


def test_a_role_card_holds_a_team_of_any_steps() -> None:
    card = role_card(Recipe.from_dict(RECIPE | {"protocol": {}, "team": made_runs.FOUR["team"]}, where="here"))
    assert [role["name"] for role in card["roles"]] == ["First", "Second", "Third", "Fourth"]
    assert [step["speaker"] for step in card["steps"]] == ["First", "Second", "Third", "Fourth"]
    assert json.loads(json.dumps(card))["layout"] is None


# --- GGUF -----------------------------------------------------------------------------------------

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the extra `export`")


@needs_gguf
def test_a_gguf_file_holds_the_merged_weights(run: RunFolder, tmp_path: Path) -> None:
    from gguf import GGUFReader

    write(run, tmp_path / "out", Order("gguf", 0, numbers="f32"), machine=MACHINE)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "model-f32.gguf", "role_card.json"]
    found = {one.name: torch.tensor(one.data) for one in GGUFReader(tmp_path / "out" / "model-f32.gguf").tensors}
    wanted = dict(merged(read(bundled()), adapter_of(run), four_bits=False, dtype=torch.bfloat16))
    assert len(found) == len(wanted)
    assert torch.equal(found["blk.2.ffn_down.weight"], wanted["model.layers.2.mlp.down_proj.weight"].float())
    halves = wanted["model.layers.1.self_attn.q_proj.weight"].float()  # 4 heads of 48 rows
    neighbours = found["blk.1.attn_q.weight"]
    for head in range(4):
        rows, turned = halves[48 * head : 48 * head + 48], neighbours[48 * head : 48 * head + 48]
        assert torch.equal(turned[0::2], rows[:24])
        assert torch.equal(turned[1::2], rows[24:])


@needs_gguf
def test_transformers_reads_the_same_parameters_back(run: RunFolder, tmp_path: Path) -> None:
    write(run, tmp_path / "out", Order("gguf", 0, numbers="f32"), machine=MACHINE)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model-f32.gguf", dtype=torch.float32)
    wanted = dict(merged(read(bundled()), adapter_of(run), four_bits=False, dtype=torch.bfloat16))
    weights = model.state_dict()
    assert all(torch.equal(weights[name], weight.float()) for name, weight in wanted.items())


@needs_gguf
def test_a_lora_file_turns_the_rows_that_the_base_turns(run: RunFolder, tmp_path: Path) -> None:
    from gguf import GGUFReader

    write(run, tmp_path / "out", Order("lora-gguf", 0, numbers="f32"), machine=MACHINE)
    reader = GGUFReader(tmp_path / "out" / "adapter-f32.gguf")
    found = {one.name: torch.tensor(one.data) for one in reader.tensors}
    own = deltas(adapter_of(run))
    assert len(found) == 2 * len(own)
    assert float(reader.fields["adapter.lora.alpha"].contents()) == 32
    key = own["model.layers.0.self_attn.k_proj"]
    assert torch.equal(found["blk.0.attn_k.weight.lora_a"], key.down)
    assert torch.equal(found["blk.0.attn_k.weight.lora_b"][0:48:2], key.up[:24])
    assert torch.equal(found["blk.0.attn_v.weight.lora_b"], own["model.layers.0.self_attn.v_proj"].up)


@needs_gguf
def test_long_contexts_slow_each_frequency_as_transformers_does() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=131072, rope_parameters=rope)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128)
    found = gguf_file._stretched(config.to_dict())
    assert found is not None
    assert found.max() == 8
    torch.testing.assert_close(torch.tensor(found), plain / slowed)
    assert gguf_file._stretched({"rope_theta": 1e4}) is None


@needs_gguf
def test_another_tokenizer_or_family_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((bundled() / name).read_bytes())
    gguf_file.require(tmp_path)
    tokenizer = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer.replace("{1,3}", "{1,2}"))
    with pytest.raises(ModelError, match="not Llama 3's"):
        gguf_file.require(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(ModelError, match="not qwen3"):
        gguf_file.require(tmp_path)


def test_without_the_extra_it_is_named(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"gguf(.|\n)*\[export\]"):
        write(run, tmp_path / "out", Order("gguf", 0), machine=MACHINE)
    assert not (tmp_path / "out").exists()


# --- Whether it says the same ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_check_sees_what_the_export_says(run: RunFolder, tmp_path: Path) -> None:
    kinds = ["adapter", "merged"] + (["gguf"] if importlib.util.find_spec("gguf") else [])
    for kind in kinds:
        write(run, tmp_path / kind, Order(kind, 0, numbers="f32"), machine=MACHINE)
        found = check(run, tmp_path / kind, kind, machine=MACHINE, iteration=0, count=6)  # type: ignore[arg-type]
        assert found.same >= 5, kind  # of six; bfloat16 may part ways once
        assert found.questions == 6
    put_adapter(tmp_path / "adapter", size=0.0)
    found = check(run, tmp_path / "adapter", "adapter", machine=MACHINE, iteration=0, count=6)
    assert found.same < 6
