"""Every family of models: loaded, sampled, read and trained, or refused with the reason before it is loaded."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from families import MODELS, SIZES, write_model  # noqa: E402
from optima_lite.errors import ModelError  # noqa: E402
from optima_lite.learn.dpo import PairIds, optimise  # noqa: E402
from optima_lite.learn.sft import fine_tune  # noqa: E402
from optima_lite.model.checkpoint import read  # noqa: E402
from optima_lite.model.config_file import FIELDS, stated  # noqa: E402
from optima_lite.model.families import SUPPORTED, longest_row, refusal  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.memory import adapter_bytes, weight_bytes  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered, Renderer  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.model.selftest import agreement  # noqa: E402
from optima_lite.model.shapes import Shape  # noqa: E402
from optima_lite.records import Turn  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings  # noqa: E402
from optima_lite.team.prompts import Message  # noqa: E402

TEXT = "Who wrote  Emma? <|im_end|> </s>\n [INST] Jane Austen, in 1815. <bos>"
CHAT = [Message("system", "You are Alice."), Message("user", "Who wrote Emma?")]


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), request.param)


def loaded(folder: Path, **settings: Any) -> Policy:
    return load(ModelSettings(name=str(folder), **settings), machine=Machine(), seed=0)


def renderer_of(policy: Policy) -> Renderer:
    return Renderer(policy.tokenizer, end_ids=policy.end_ids)


def adapter(policy: Policy) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" in n}


def test_the_forecast_counts_the_weights_that_there_are(folder: Path) -> None:
    policy = loaded(folder)
    weights = dict(policy.model.named_parameters())
    base = [weight for name, weight in weights.items() if "lora_" not in name]
    assert weight_bytes(policy.shape, policy.setup) == sum(weight.nbytes for weight in base)
    lora = {name: weight for name, weight in weights.items() if "lora_" in name}
    assert adapter_bytes(policy.shape, policy.setup) == sum(weight.nbytes for weight in lora.values())
    linear = {name for name, module in policy.model.named_modules() if type(module) is torch.nn.Linear}
    left = {name.rpartition(".")[2] for name in linear if "lora_" not in name and not name.endswith("base_layer")}
    assert left == {"lm_head"}, "every linear map of the layers has an adapter"
    assert policy.cache_shape == (policy.shape.layers, policy.shape.kv_heads, policy.shape.head_width)
    assert policy.shape == Shape.from_config(json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize("name", ["qwen 2.5", "gemma 3", "phi 3"])
def test_in_four_bits_it_is_forecast_and_agrees_as_well(name: str, tmp_path: Path) -> None:
    policy = loaded(write_model(tmp_path, name), quantization="nf4")
    held = 0
    for weight in (weight for name, weight in policy.model.named_parameters() if "lora_" not in name):
        held += weight.nbytes
        if state := getattr(weight, "quant_state", None):
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    assert held == pytest.approx(weight_bytes(policy.shape, policy.setup), rel=1e-3)
    found = agreement(policy)
    assert found.batches and found.cache, found


def test_batch_and_cache_say_what_a_prompt_alone_does(folder: Path) -> None:
    found = agreement(loaded(folder))
    assert found.batches and found.cache and found.furthest < 1e-5, found


def test_rows_as_long_as_the_model_takes_are_read_as_transformers_reads_them(folder: Path) -> None:
    """Alone, without our cache, by a model whose windows are in force; and here, in a batch with gaps, wider than any
    window."""
    from transformers import AutoModelForCausalLM

    policy = loaded(folder)
    length = min(policy.max_length, 200)
    draw = torch.Generator().manual_seed(0)
    common = torch.randint(300, (length - 40,), generator=draw).tolist()
    rests = [torch.randint(300, (n,), generator=draw).tolist() for n in (40, 40, 3)]
    rows = [Rendered((*common, *rest), ((len(common) + 1, len(common) + len(rest)),)) for rest in rests]
    rows.append(Rendered(tuple(torch.randint(300, (length,), generator=draw).tolist()), ((length - 9, length),)))
    plain = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    expected = []
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            nats = torch.nn.functional.cross_entropy(plain(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        ((start, end),) = row.spans
        expected.append(float(nats[start - 1 : end - 1].mean()))
    found = Generator(policy, max_batch_tokens=1 << 14).losses(rows)
    assert [loss for (loss,) in found] == pytest.approx(expected, abs=1e-4)


def test_it_is_sampled_trained_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    policy = loaded(folder)
    renderer = renderer_of(policy)
    prompt = renderer.prompt(CHAT)
    end = renderer.closing
    assert end in policy.end_ids and policy.pad_id not in {*policy.end_ids, *prompt}
    said = Generator(policy, max_batch_tokens=4096).generate(
        [prompt] * 4, sampling=Sampling(1.0, 1.0, 6), keys=range(4)
    )
    assert len(set(said)) == 4
    messages = [(*(i for i in ids if i not in policy.end_ids), end) for ids in said]
    rows = [renderer.conversation([*CHAT, Message("assistant", turns=(Turn(0, ids, ""),))]) for ids in messages]
    assert [row.ids[start:stop] for row in rows for start, stop in row.spans] == messages
    before = adapter(policy)
    settings = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-2, warmup_ratio=0)
    facts = fine_tune(policy, rows, settings=settings, micro_batch=2, seed=0, on_step=lambda steps: None)
    assert facts.steps == 1 and facts.loss is not None and facts.loss > 0
    imitated = adapter(policy)
    moved = {name for name in before if not torch.equal(before[name], imitated[name])}
    assert moved == {name for name in before if "lora_B" in name}, "on its first step"
    pairs = [PairIds(prompt, one, two) for one, two in pairwise(messages)]
    preference = DpoSettings(epochs=1, batch_size=4, learning_rate=1e-3, warmup_ratio=0)
    preferred = optimise(policy, pairs, settings=preference, micro_batch=2, seed=0, on_step=lambda steps: None)
    assert preferred.steps == 1
    assert [name for name, weight in adapter(policy).items() if torch.equal(imitated[name], weight)] == []
    policy.save_adapter(tmp_path)
    other = load(ModelSettings(name=str(folder)), machine=Machine(), seed=1)
    other.load_adapter(tmp_path)
    assert all(torch.equal(adapter(policy)[name], weight) for name, weight in adapter(other).items())
    greedy = Sampling(0.0, 1.0, 6)
    spoken = [
        Generator(p, max_batch_tokens=4096).generate([prompt], sampling=greedy, keys=[0]) for p in (policy, other)
    ]
    assert spoken[0] == spoken[1]


def test_nothing_that_was_left_out_of_its_files_makes_another_model_of_it(folder: Path) -> None:
    """Our config holds only fields that are known, and our tokenizer only tokenizer.json; transformers reads all."""
    from transformers import AutoConfig, PreTrainedTokenizerFast  # AutoTokenizer has a split of its own for Qwen 2

    found = read(folder)
    ours, theirs = found.configuration().to_dict(), AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    assert {name for name in FIELDS if ours.get(name) != theirs.get(name)} == set()
    tokenizer, reference = found.tokenizer(), PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    for options in ({}, {"add_special_tokens": False, "split_special_tokens": True}):
        ids = tokenizer(TEXT, **options)["input_ids"]
        assert ids == reference(TEXT, **options)["input_ids"]
        assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.special_tokens_map == reference.special_tokens_map


def test_a_thought_is_never_sampled(tmp_path: Path) -> None:
    policy = loaded(write_model(tmp_path, "qwen 3"))
    thought = policy.tokenizer.convert_tokens_to_ids("<think>")
    head = policy.model.get_base_model().lm_head
    head.register_forward_hook(lambda module, given, logits: logits.index_fill(-1, torch.tensor([thought]), 1e4))
    prompt = renderer_of(policy).prompt(CHAT)
    (ids,) = Generator(policy, max_batch_tokens=4096).generate([prompt], sampling=Sampling(1.0, 1.0, 5), keys=[0])
    assert ids and thought not in ids


# --- How long a row may be ------------------------------------------------------------------------

OWN = {"max_position_embeddings": 8192}
LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("kind", "fields", "tokens"),
    [
        ("Llama", {}, 8192),
        ("Mistral", {"sliding_window": None}, 8192),
        ("Mistral", {"sliding_window": 4096}, 4096),
        ("Mistral", {}, 4096),  # what transformers takes then
        ("Mistral", {"sliding_window": 10_000}, 8192),
        ("Qwen2", {"use_sliding_window": False, "sliding_window": 512}, 8192),
        ("Qwen2", {"use_sliding_window": True}, 4096),  # what transformers takes then
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 512}, 512),
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 512, "layer_types": ["full_attention"] * 2}, 8192),
        ("Gemma3", {"sliding_window": 512}, 512),
        ("Phi3", {"sliding_window": 2047}, 2047),
        ("Phi3", {"rope_scaling": None, "original_max_position_embeddings": 4096}, 8192),
        ("Phi3", {"rope_scaling": LONG, "original_max_position_embeddings": 4096}, 4096),
        ("Phi3", {"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 4096}, 4096),
        ("Llama", {"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 4096}}, 8192),
    ],
)
def test_rows_stay_where_states_can_be_reused(kind: str, fields: dict[str, Any], tokens: int) -> None:
    longest, why = longest_row({"architectures": [f"{kind}ForCausalLM"], **OWN, **fields})
    assert longest == tokens
    assert (why is None) == (tokens == 8192) and (why is None or f"{tokens:,} tokens" in why)


def test_shorter_rows_than_asked_for_are_told(tmp_path: Path) -> None:
    write_model(tmp_path, "mistral with a window")
    said = ("rows are kept to 160 tokens, which its sliding attention windows hold",)
    for wanted, length, notes in ((None, 160, said), (400, 160, said), (160, 160, ()), (100, 100, ())):
        policy = loaded(tmp_path, max_length=wanted)
        assert (policy.max_length, policy.notes) == (length, notes)


def test_longrope_states_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8, "rope_theta": 1e4}
    write_model(tmp_path, "phi 3", rope_parameters=scaling, original_max_position_embeddings=96)
    policy = loaded(tmp_path)
    assert policy.max_length == 96 and policy.notes[0].startswith("rows are kept to 96 tokens")
    assert agreement(policy).batches


# --- What is refused ------------------------------------------------------------------------------

LLAMA = {"architectures": ["LlamaForCausalLM"], "vocab_size": 10, **SIZES}
PHI = {"architectures": ["Phi3ForCausalLM"], "vocab_size": 10, **SIZES}
GEMMA3 = {"architectures": ["Gemma3ForCausalLM"], "vocab_size": 10, **SIZES}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            {"architectures": ["Gemma2ForCausalLM"]},
            "cannot train Gemma2ForCausalLM: it caps its attention scores, which PyTorch's attention (SDPA) cannot do",
        ),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"]},
            "cannot train Gemma3ForConditionalGeneration: it reads pictures, too: that part would be loaded, and get "
            "an adapter of its own",
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"]},
            "cannot train Qwen3MoeForCausalLM: it mixes experts, which an adapter on linear maps does not reach",
        ),
        ({"architectures": ["GPT2LMHeadModel"]}, "cannot train GPT2LMHeadModel"),
        (LLAMA | {"auto_map": {}}, "this model asks to run code of its own, which is refused"),
        (GEMMA3 | {"final_logit_softcapping": 30.0}, "cannot train a model that caps its logits"),
        (
            GEMMA3 | {"use_bidirectional_attention": True},
            "cannot train a model that reads in both directions, and so writes nothing",
        ),
        (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, "its weights are quantised by gptq"),
    ],
)
def test_what_cannot_work_is_refused_by_its_config_alone(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as raised:
        loaded(tmp_path)
    assert raised.value.what == why and raised.value.hint


MISTRAL = {"architectures": ["MistralForCausalLM"], "vocab_size": 10, **SIZES}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
BY_TYPE = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}


def test_no_window_is_not_the_same_as_nothing_said_of_one() -> None:
    said = stated(MISTRAL | {"sliding_window": None}, where="")
    assert said["sliding_window"] is None and "sliding_window" not in stated(MISTRAL, where="")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (LLAMA | SLIDING, "layer_types"),
        (GEMMA3 | SLIDING | {"sliding_window": None}, "layer_types"),
        (GEMMA3 | {"sliding_window": None}, "sliding_window"),
        (LLAMA | {"rope_parameters": BY_TYPE}, "rope_parameters"),
    ],
)
def test_layers_of_a_kind_that_the_family_has_not_are_refused(config: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelError, match=f"its {field} does not fit its other sizes"):
        stated(config, where="")
    stated(GEMMA3 | SLIDING | {"rope_parameters": BY_TYPE}, where="")


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        PHI | {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}},  # as its copies on the hub have it
        LLAMA | {"quantization_config": {"quant_method": "bitsandbytes"}},
        GEMMA3 | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ],
)
def test_what_works_is_not_refused(config: dict[str, Any]) -> None:
    assert refusal(config) is None


def test_code_that_a_folder_brings_is_never_run(tmp_path: Path) -> None:
    write_model(tmp_path, "phi 3")
    for name, kind in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        values = json.loads((tmp_path / name).read_text()) | {"auto_map": {kind: "evil.Thing"}}
        (tmp_path / name).write_text(json.dumps(values))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    loaded(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_hint_names_the_families() -> None:
    reason = refusal({"architectures": []})
    assert reason == (
        "cannot train a model of unknown architecture",
        f"a chat model of one of these families: {SUPPORTED}",
    )
