"""A Llama folder, or a LoRA adapter for one, as a GGUF file: what llama.cpp, Ollama and their like read.

Layout of the file and quantisation come from the `gguf` package; here is what differs between the two worlds: the order
of rows in the maps that are rotated, the names, the tokenizer, and how long contexts stretch the rotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ..errors import ConfigError, ModelError
from ..model.checkpoint import weight_files
from .merging import deltas

KINDS = ("f32", "f16", "bf16", "q8_0")
# Text falls apart as Llama 3's does; another tokenizer needs another reader, and a wrong one would go unnoticed.
_LLAMA_BPE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def require(folder: Path) -> None:
    """Raises ConfigError without the extra, ModelError for a model that cannot be written as GGUF here."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError("GGUF files need the package gguf", hint="in the clone: pip install '.[export]'") from error
    config, tokenizer = _json(folder / "config.json"), _json(folder / "tokenizer.json")
    elsewhere = "--as merged, and llama.cpp's convert_hf_to_gguf.py on that folder"
    if config.get("model_type") != "llama":
        raise ModelError(f"only Llama is written as GGUF here, not {config.get('model_type')}", hint=elsewhere)
    cuts = (tokenizer.get("pre_tokenizer") or {}).get("pretokenizers", [])
    if [cut["pattern"].get("Regex") for cut in cuts if cut["type"] == "Split"] != [_LLAMA_BPE]:
        raise ModelError("its tokenizer is not Llama 3's, so GGUF's readers would split text otherwise", hint=elsewhere)


def write_model(folder: Path, target: Path, *, kind: str, name: str) -> None:
    """A Llama in a folder of transformers' as one file. kind: of the matrices' numbers; vectors stay float32.

    No more than one tensor is in memory at a time. Raises as `require`.
    """
    require(folder)
    import gguf

    config = _json(folder / "config.json")
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    out = gguf.GGUFWriter(str(target), "llama", use_temp_file=True)
    out.add_type("model")
    out.add_name(name)
    out.add_file_type(_file_type(kind))
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(out, config)
    _add_vocabulary(out, folder, config)
    if (slower := _stretched(config)) is not None:
        out.add_tensor("rope_freqs.weight", slower, raw_dtype=gguf.GGMLQuantizationType.F32)
    for here, weight in _tensors(folder):
        if here == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        turned = _rotated(here, weight.float(), heads, config.get("num_key_value_heads") or heads)
        _add(out, _there(names, here), turned, kind if weight.dim() > 1 else "f32")
    _finish(out)


def write_adapter(adapter: Path, base: Path, target: Path, *, kind: str, name: str) -> None:
    """The LoRA adapter in a folder of PEFT's as one file, for the base in a folder of transformers'. Raises as
    `require`."""
    require(base)
    import gguf

    config, own = _json(base / "config.json"), _json(adapter / "adapter_config.json")
    heads = config["num_attention_heads"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    out = gguf.GGUFWriter(str(target), "llama")
    out.add_type("adapter")
    out.add_name(name)
    out.add_string("adapter.type", "lora")
    out.add_float32("adapter.lora.alpha", float(own["lora_alpha"]))
    out.add_file_type(_file_type(kind))
    for module, delta in deltas(adapter).items():
        there = _there(names, f"{module}.weight")
        up = _rotated(module, delta.up.float(), heads, config.get("num_key_value_heads") or heads)
        _add(out, there, delta.down.float(), kind, suffix=".weight.lora_a")
        _add(out, there, up, kind, suffix=".weight.lora_b")
    _finish(out)


def _there(names: Any, here: str) -> str:
    """What a tensor of transformers' is called in GGUF, without its last part."""
    name: str | None = names.get_name(here, (".weight",))
    if name is None:
        raise ModelError(f"{here} has no name in GGUF", hint="--as merged")
    return name.removesuffix(".weight")


def _add(out: Any, name: str, tensor: Tensor, kind: str, *, suffix: str = ".weight") -> None:
    """In the kind that was asked for, or float16 where the rows cannot be cut into its blocks."""
    import gguf

    as_type = gguf.GGMLQuantizationType[kind.upper()]
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[as_type][0]:
        as_type = gguf.GGMLQuantizationType.F16
    out.add_tensor(name + suffix, gguf.quants.quantize(tensor.contiguous().numpy(), as_type), raw_dtype=as_type)


def _finish(out: Any) -> None:
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _file_type(kind: str) -> Any:
    from gguf import LlamaFileType

    return LlamaFileType.ALL_F32 if kind == "f32" else LlamaFileType[f"MOSTLY_{kind.upper()}"]


def _rotated(name: str, weight: Tensor, heads: int, pairs: int) -> Tensor:
    """transformers turns the first half of a head's rows against the second, ggml neighbours: rows in ggml's order."""
    count = heads if "q_proj" in name else pairs if "k_proj" in name else None
    if count is None:
        return weight
    return weight.reshape(count, 2, len(weight) // count // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118  (it is no dict)
                yield name, stream.get_tensor(name)


def _add_sizes(out: Any, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    out.add_block_count(config["num_hidden_layers"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(config.get("num_key_value_heads") or heads)
    out.add_key_length(width)
    out.add_value_length(width)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_rope_dimension_count(width)
    out.add_rope_freq_base(_rope(config)["rope_theta"])


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    stated = config.get("rope_parameters")
    older = {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}
    rope: Mapping[str, Any] = stated or older
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        raise ModelError(f"its rotation ({rope['rope_type']}) cannot be written as GGUF here", hint="--as merged")
    return rope


def _stretched(config: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """By how much each frequency is slowed down for long contexts, as Llama 3.1 and 3.2 do it; None for the others."""
    rope = _rope(config)
    if rope.get("rope_type", "default") == "default":
        return None
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    waves = 2 * np.pi * rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    before, most = rope["original_max_position_embeddings"], torch.full_like(waves, rope["factor"])
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = (before / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / most + smooth)
    slowed = torch.where(waves < before / high, 1.0, torch.where(waves > before / low, most, between))
    return np.asarray(slowed.numpy(), dtype=np.float32)


def _add_vocabulary(out: Any, folder: Path, config: Mapping[str, Any]) -> None:
    from gguf import TokenType

    tokenizer = _json(folder / "tokenizer.json")
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    pieces = tokenizer["model"]["vocab"]
    texts = {number: text for text, number in pieces.items()} | {i: token["content"] for i, token in added.items()}

    def kind(number: int) -> Any:
        if number not in texts:
            return TokenType.UNUSED
        if number not in added:
            return TokenType.NORMAL
        return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED

    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("llama-bpe")
    out.add_token_list([texts.get(i, f"[PAD{i}]") for i in range(config["vocab_size"])])
    out.add_token_types([kind(i) for i in range(config["vocab_size"])])
    merges = [one if isinstance(one, str) else " ".join(one) for one in tokenizer["model"]["merges"]]
    out.add_token_merges(merges or [_harmless(pieces)])
    ids = {token["content"]: i for i, token in added.items()}
    ends = config["eos_token_id"]
    out.add_bos_token_id(config["bos_token_id"])
    out.add_eos_token_id(ids.get("<|eot_id|>", ends[0] if isinstance(ends, list) else ends))
    if "<|eot_id|>" in ids:
        out.add_eot_token_id(ids["<|eot_id|>"])
    if "<|finetune_right_pad_id|>" in ids:
        out.add_pad_token_id(ids["<|finetune_right_pad_id|>"])
    out.add_add_bos_token(True)
    template = folder / "chat_template.jinja"
    text = (
        template.read_text("utf-8")
        if template.is_file()
        else _json(folder / "tokenizer_config.json").get("chat_template")
    )
    if isinstance(text, str):
        out.add_chat_template(text)


def _harmless(pieces: Mapping[str, int]) -> str:
    """A merge for a tokenizer that has none, since llama.cpp reads no file without: of a piece that is cut out of any
    text as a whole anyway."""
    for piece in ("'s", "'t", "'m", "'d"):
        if piece in pieces and all(letter in pieces for letter in piece):
            return " ".join(piece)
    raise ModelError("its tokenizer has no merges, so it cannot be written as GGUF here", hint="--as merged")


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return value
