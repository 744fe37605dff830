"""Llama 3 as it comes from the hub: its chat template, its two ends, its padding, and four-bit weights."""

from __future__ import annotations

import json
import shutil
import sys
from copy import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.model.checkpoint import bundled  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.memory import weight_bytes  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered, Renderer  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.model.selftest import agreement  # noqa: E402
from optima_lite.model.shapes import Shape  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings  # noqa: E402
from optima_lite.team.prompts import Message  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import random_llama  # noqa: E402

# As Meta and Unsloth ship it for Llama 3.
TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# The head of the templates of Llama 3.1 and 3.2, which put a date into the system message; 3.2 asks the clock for it.
DATED = (
    "{%- if not date_string is defined %}CLOCK{%- endif %}{{- bos_token }}"
    "{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' + system_message + '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
CLOCKS = {
    "3.1": "{%- set date_string = '26 Jul 2024' %}",
    "3.2": "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}",
}
ENDS = ["<|eot_id|>", "<|end_of_text|>"]


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, dressed as the hub's copies of Llama 3 are: end_of_text is the tokenizer's eos, the config
    knows one end only, whatever the tokenizer reads gets a beginning-of-text, and nothing is named for padding."""
    folder = tmp_path_factory.mktemp("llama3")
    shutil.copytree(bundled(), folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    change(folder / "tokenizer_config.json", eos_token="<|end_of_text|>", pad_token=None)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    bos = {"id": "<|begin_of_text|>", "ids": [ids["<|begin_of_text|>"]], "tokens": ["<|begin_of_text|>"]}
    start, text = {"SpecialToken": {"id": bos["id"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos["id"]: bos},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(folder / "generation_config.json", eos_token_id=ids["<|end_of_text|>"], pad_token_id=None)
    change(folder / "config.json", eos_token_id=ids["<|end_of_text|>"], pad_token_id=None)
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def policy(llama3: Path) -> Policy:
    return load(ModelSettings(name=str(llama3)), machine=Machine(), seed=0)


def test_the_tokenizer_of_this_test_adds_a_beginning_of_text_as_llama_3_does(policy: Policy) -> None:
    assert policy.tokenizer("hello")["input_ids"][0] == policy.tokenizer.bos_token_id


def test_both_ends_stop_and_padding_ends_nothing(policy: Policy) -> None:
    assert set(policy.end_ids) == set(policy.tokenizer.convert_tokens_to_ids(ENDS))
    assert policy.tokenizer.pad_token == "<|finetune_right_pad_id|>"
    assert policy.pad_id not in policy.end_ids


def test_a_prompt_begins_once(policy: Policy) -> None:
    renderer = Renderer(policy.tokenizer, end_ids=policy.end_ids)
    chat = [("system", "You are Alice."), ("user", "Who wrote Emma?"), ("assistant", "Austen"), ("user", "Sure?")]
    ids = renderer.prompt([Message(role, text) for role, text in chat])
    assert ids.count(policy.tokenizer.bos_token_id) == 1
    assert ids[0] == policy.tokenizer.bos_token_id
    whole = policy.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in chat], add_generation_prompt=True, return_dict=False
    )
    assert list(ids) == list(whole)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_prompt_tells_the_same_date_on_every_day(clock: str, policy: Policy) -> None:
    tokenizer = copy(policy.tokenizer)
    tokenizer.chat_template = DATED.replace("CLOCK", clock)
    chat = [("system", "You are Alice."), ("user", "Who wrote Emma?")]
    prompt = Renderer(tokenizer, end_ids=policy.end_ids).prompt([Message(role, text) for role, text in chat])
    assert tokenizer.decode(prompt) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nYou are Alice.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho wrote Emma?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("end", ENDS)
def test_a_turn_stops_at_either_end(end: str, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    end_id = policy.tokenizer.convert_tokens_to_ids(end)
    head = policy.model.get_base_model().lm_head
    real = head.forward

    def certain(hidden: Any) -> Any:
        logits = real(hidden)
        logits[..., end_id] += 1e4
        return logits

    monkeypatch.setattr(head, "forward", certain)
    prompts = [(policy.tokenizer.bos_token_id, *range(20, 30))]
    found = Generator(policy, max_batch_tokens=1024).generate(prompts, sampling=Sampling(1.0, 1.0, 8), keys=[0])
    assert found == [(end_id,)]


# --- Four bits ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that was quantised before it was saved, for bfloat16, as those of the hub are."""
    folder = tmp_path_factory.mktemp("nf4")
    random_llama.write("tiny", folder, nf4=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["bnb_4bit_compute_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_prequantised_model_computes_in_this_device_s_precision(four_bits: Path) -> None:
    policy = load(ModelSettings(name=str(four_bits)), machine=Machine(), seed=0)
    layers = [m for m in policy.model.modules() if type(m).__name__ == "Linear4bit" and hasattr(m, "compute_dtype")]
    assert len(layers) == 4 * 7
    assert {layer.compute_dtype for layer in layers} == {policy.model.dtype}
    assert policy.setup.quantised
    assert agreement(policy).batches


def test_quantised_on_loading_and_before_saving_are_the_same(four_bits: Path, tmp_path: Path) -> None:
    random_llama.write("tiny", tmp_path)
    rows = [Rendered(tuple(range(20, 60)), ((30, 40),))]
    losses = [
        Generator(
            load(ModelSettings(name=str(folder), quantization="nf4"), machine=Machine(), seed=0), max_batch_tokens=512
        ).losses(rows)
        for folder in (four_bits, tmp_path)
    ]
    assert losses[0] == losses[1]


def test_the_forecast_of_the_weights_is_what_lies_in_memory(four_bits: Path) -> None:
    policy = load(ModelSettings(name=str(four_bits)), machine=Machine(), seed=0)
    held = 0
    for name, weight in policy.model.named_parameters():
        if "lora_" not in name:
            held += weight.nbytes
            if state := getattr(weight, "quant_state", None):
                held += state.absmax.nbytes + state.state2.absmax.nbytes
    expected = weight_bytes(Shape.from_config(policy.model.get_base_model().config.to_dict()), policy.setup)
    assert held == pytest.approx(expected, rel=0.01)
