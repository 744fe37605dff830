"""A model's sizes: read from its config, or known by its name on the hub."""

from __future__ import annotations

import pytest

from optima_lite.model.shapes import LLAMA3, Shape, known

PARAMETERS = {  # as published
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "unsloth/Llama-3.2-3B-Instruct": 3_212_749_824,
    "unsloth/llama-3-8b-Instruct-bnb-4bit": 8_030_261_248,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-Coder-3B-Instruct": 3_085_938_688,
    "unsloth/Qwen2.5-7B-Instruct-bnb-4bit": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "google/gemma-3-1b-it": 999_885_952,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
}
UNKNOWN = ["meta-llama/Meta-Llama-3-70B-Instruct", "tiny", "Qwen/Qwen2.5-VL-7B-Instruct", "google/gemma-3-4b-it"]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_a_model_known_by_its_name_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    shape = known(name)
    assert shape is not None
    assert shape.linear_parameters + shape.other_parameters == parameters


@pytest.mark.parametrize("name", [*UNKNOWN, "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-VL-4B-Instruct", "microsoft/phi-4"])
def test_other_names_are_not_guessed_at(name: str) -> None:
    assert known(name) is None


def test_a_shape_is_read_from_a_config() -> None:
    config = {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "head_dim": None,
    }
    assert Shape.from_config(config) == LLAMA3["8b"]
    old = {key: value for key, value in config.items() if key not in {"num_key_value_heads", "head_dim"}}
    assert Shape.from_config(old).kv_heads == 32, "models before grouped queries"
