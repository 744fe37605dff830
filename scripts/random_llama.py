"""Write a Llama with random weights, so that memory and speed can be measured where no model can be downloaded.

    python scripts/random_llama.py 8b OUT [--nf4] [--seed 0] [--tokenizer FOLDER]

In: a shape's name. Out: a folder that loads like any other model: config, safetensors, the bundled model's tokenizer
(or that of --tokenizer; ids beyond it never occur in text). One shard a layer is made and written at a time, so the 8B
shape needs 3 GiB of memory, not 32. --nf4 writes the layers quantised, as pre-quantised models on the hub are.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig

from optima_lite.model.checkpoint import bundled
from optima_lite.model.shapes import LLAMA3, Shape

SHAPES = {
    "tiny": Shape(layers=4, hidden=192, intermediate=512, heads=4, kv_heads=2, head_width=48, vocabulary=0),
    "30m": Shape(layers=8, hidden=512, intermediate=1536, heads=8, kv_heads=4, head_width=64, vocabulary=4096),
    **LLAMA3,
}
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LINEARS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def write(name: str, out: Path, *, nf4: bool = False, seed: int = 0, tokenizer: Path | None = None) -> None:
    """Writes the named shape into the folder `out`, which is made if need be; float32 below 1b, else bfloat16."""
    source = tokenizer or bundled()
    out.mkdir(parents=True, exist_ok=True)
    for file in TOKENIZER_FILES:
        if (source / file).is_file():
            shutil.copyfile(source / file, out / file)
    known = AutoTokenizer.from_pretrained(source, local_files_only=True)
    shape, dtype = SHAPES[name], torch.bfloat16 if name.endswith("b") else torch.float32
    vocabulary = max(shape.vocabulary, math.ceil(len(known) / 64) * 64)
    _write_config(out, shape, vocabulary=vocabulary, tokenizer=known, dtype=dtype, nf4=nf4)
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.empty(size, dtype=dtype).normal_(0, 0.02, generator=generator)

    places: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(_shards(shape, vocabulary, random=random, nf4=nf4)):
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, out / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(shape: Shape, vocabulary: int, *, random: Any, nf4: bool) -> Iterator[dict[str, Tensor]]:
    dtype = random(1).dtype
    outer = {
        "model.embed_tokens.weight": random(vocabulary, shape.hidden),
        "model.norm.weight": torch.ones(shape.hidden, dtype=dtype),
    }
    yield outer if shape.tied else outer | {"lm_head.weight": random(vocabulary, shape.hidden)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        norms = ("input_layernorm", "post_attention_layernorm")
        tensors = {f"{prefix}.{norm}.weight": torch.ones(shape.hidden, dtype=dtype) for norm in norms}
        for linear in LINEARS:
            into, out = shape.linears[linear.rpartition(".")[2]]
            weight, name = random(out, into), f"{prefix}.{linear}.weight"
            tensors |= _quantised(name, weight) if nf4 else {name: weight}
        yield tensors


def _quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The tensors that bitsandbytes keeps for a 4-bit weight, under the names it reads them by."""
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    rest = {f"{name}.{key}": tensor.clone() for key, tensor in state.as_dict(packed=True).items()}
    return {name: packed, **rest}


def _write_config(out: Path, shape: Shape, *, vocabulary: int, tokenizer: Any, dtype: torch.dtype, nf4: bool) -> None:
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|eot_id|>", "<|end_of_text|>")]
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        dtype=dtype,
    ).to_dict()
    if nf4:
        compute = str(dtype).removeprefix("torch.")
        config["quantization_config"] = {"quant_method": "bitsandbytes", "bnb_4bit_compute_dtype": compute, **NF4}
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    (out / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    write(given.shape, given.out, nf4=given.nf4, seed=given.seed, tokenizer=given.tokenizer)
    print(f"wrote {given.out}")
