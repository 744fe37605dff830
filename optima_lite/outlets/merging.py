"""A base model with an adapter inside its weights, made a matrix at a time and stored a shard at a time.

An adapter that was trained on a base in four bits has learnt to speak through what those bits make of the weights. So
the base is put into four bits and out of them again before the adapter is added, in float32, and the sum is rounded
once. To add it to the four-bit weights themselves, which then are rounded to four bits again, loses much of what was
learnt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import ModelError
from ..model.checkpoint import Checkpoint, weight_files

SHARD = 1 << 30  # bytes after which a file of weights is closed
INDEX = "model.safetensors.index.json"
_PREFIX, _SUFFIXES = "base_model.model.", (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to a matrix: up (outputs, rank) times down (rank, inputs), times scale."""

    down: Tensor
    up: Tensor
    scale: float

    def __call__(self) -> Tensor:
        """The sum to be added, in float32."""
        return (self.up.float() @ self.down.float()) * self.scale


def deltas(adapter: Path) -> dict[str, Delta]:
    """What the adapter in a folder of PEFT's adds, by the name of the module. Raises ModelError for one that does more
    than to add a product of two matrices."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    odd = [name for name in ("use_dora", "use_rslora", "modules_to_save", "lora_bias") if config.get(name)]
    if odd:
        raise ModelError(f"this adapter uses {', '.join(odd)}, which cannot be merged here", where=adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    down, up = _SUFFIXES
    names = [name.removesuffix(down) for name in weights if name.endswith(down)]
    scale = config["lora_alpha"] / config["r"]
    return {name.removeprefix(_PREFIX): Delta(weights[name + down], weights[name + up], scale) for name in names}


def merged(
    checkpoint: Checkpoint, adapter: Path, *, four_bits: bool, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The name and the weights of each tensor of the model, one at a time, in `dtype`.

    four_bits: whether the base was put into four bits when it was loaded, so that this is done here, too; a base that
    is stored so is taken as it is. Raises ModelError when the adapter belongs to another model.
    """
    added = deltas(adapter)
    for name, weight in _dequantised(checkpoint):
        delta = added.pop(name.removesuffix(".weight"), None) or added.pop(
            f"model.{name.removesuffix('.weight')}", None
        )
        if delta is None:
            yield name, weight.to(dtype)
            continue
        if four_bits and "quantization_config" not in checkpoint.config:
            weight = through_four_bits(weight)
        if weight.shape != (len(delta.up), delta.down.shape[1]):
            raise ModelError("this adapter belongs to another model", where=adapter)
        yield name, (weight.float() + delta()).to(dtype)
    if added:
        raise ModelError(f"this adapter belongs to another model: the base has no {next(iter(added))}", where=adapter)


def through_four_bits(weight: Tensor) -> Tensor:
    """What is left of a matrix in NF4 with double quantisation, in float32."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.float().contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state)


def _dequantised(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model's files, those in four bits in float32."""
    places: dict[str, Path] = {}
    for file in weight_files(checkpoint.folder):
        with safe_open(file, framework="pt") as stream:
            places |= dict.fromkeys(stream.keys(), file)
    packed = {name.partition(".quant_state.")[0] for name in places if ".quant_state." in name}
    for name, file in places.items():
        if name in packed:
            parts = {part: _tensor(where, part) for part, where in places.items() if part.startswith(f"{name}.")}
            yield name, _unpacked(_tensor(file, name), parts)
        elif name.rpartition(".")[0] not in packed and ".quant_state." not in name:
            yield name, _tensor(file, name)


def _unpacked(weight: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState.from_dict(dict(parts), device=torch.device("cpu"))
    state.dtype = torch.float32  # instead of the precision that it was stored from
    return dequantize_4bit(weight, state)


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as stream:
        tensor: Tensor = stream.get_tensor(name)
        return tensor


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, *, limit: int = SHARD) -> None:
    """Store tensors as transformers reads them, one file or several with an index, holding no more than `limit` bytes
    and one tensor at a time."""
    parts: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = size = 0

    def close() -> None:
        nonlocal held, size
        save_file(held, folder / f"part-{len(parts)}", metadata={"format": "pt"})
        parts.append([*held])
        held, size = {}, 0

    for name, tensor in tensors:
        held[name] = tensor.contiguous()
        size, total = size + tensor.nbytes, total + tensor.nbytes
        if size >= limit:
            close()
    if held:
        close()
    _name(folder, parts, total)


def _name(folder: Path, parts: list[list[str]], total: int) -> None:
    """The files under the names that transformers looks for."""
    many = len(parts)
    files = [f"model-{k + 1:05d}-of-{many:05d}.safetensors" if many > 1 else "model.safetensors" for k in range(many)]
    for k, file in enumerate(files):
        (folder / f"part-{k}").rename(folder / file)
        (folder / file).chmod(0o644)
    if many > 1:
        places = {name: file for names, file in zip(parts, files, strict=True) for name in names}
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
