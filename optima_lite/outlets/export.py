"""A run's team as a folder that other programs read: adapter, merged model, GGUF, or what Ollama needs.

A folder is made beside its place and put there whole. Every folder holds a card for people (README.md) and one for
programs (role_card.json).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ModelError, RunError
from ..model.checkpoint import Checkpoint, read
from ..model.loading import end_ids, found
from ..model.policy import places
from ..model.render import Renderer
from ..runs.disk import place_beside
from ..runs.folder import RunFolder
from ..runs.opened import require_iteration
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..stage.cast import workflows
from . import gguf_file
from .card import write_card
from .merging import merged, write_shards
from .role_card import modelfiles, role_card

Kind = Literal["adapter", "merged", "gguf", "lora-gguf", "ollama"]
Base = Literal["trained", "original"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


@dataclass(frozen=True)
class Order:
    """What is to be exported. iteration: whose adapter is taken. base: the one that the adapter was trained on, or the
    original weights where those were in four bits. numbers: of a GGUF file's matrices, one of `gguf_file.KINDS`."""

    kind: Kind
    iteration: int
    base: Base = "trained"
    numbers: str = "q8_0"


def write(run: RunFolder, folder: Path, order: Order, *, machine: Machine) -> None:
    """Writes the folder, which must be new or empty; a team with several adapters gets a folder in it for each.

    Raises RunError for a folder that holds something and an iteration that there is not, ModelError for a model that
    cannot be taken along this way, ConfigError where an extra is missing.
    """
    require_iteration(run, order.iteration)
    adapter = run.adapter(order.iteration)
    if adapter is None:
        raise RunError("every step of this run was undone, so there is nothing to export", where=run.folder)
    if os.path.exists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError("holds something already", where=folder, hint="another folder")
    recipe = Recipe.from_dict(run.manifest["recipe"], where=run.folder / "manifest.json")
    checkpoint = read(found(recipe.model.name, machine=machine))
    if order.kind in ("gguf", "lora-gguf", "ollama"):
        gguf_file.require(checkpoint.folder)
    beside = place_beside(folder)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for name, place in places(adapter, workflows(recipe)[0].adapters).items():
            inside = beside if place == adapter else beside / name
            inside.mkdir(exist_ok=True)
            _fill(inside, run, recipe, checkpoint, place, order)
            _write_json(inside / "role_card.json", role_card(recipe))
            write_card(inside, run, order.iteration, kind=order.kind)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if folder.is_dir():
        folder.rmdir()
    os.replace(beside, folder)


def in_four_bits(run: RunFolder, recipe: Recipe) -> bool:
    """Whether the run held a base in four bits that is stored in more. Where the recipe leaves it to the machine, only
    a run on the CPU has settled on a number of threads, and only one on a card was in four bits."""
    wanted = recipe.model.quantization
    return wanted == "nf4" or (wanted == "auto" and "threads" not in run.manifest)


def _fill(place: Path, run: RunFolder, recipe: Recipe, checkpoint: Checkpoint, adapter: Path, order: Order) -> None:
    four_bits = in_four_bits(run, recipe) and order.base == "trained"
    match order.kind:
        case "adapter":
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(adapter / file, place / file)
        case "merged":
            write_merged(place, checkpoint, adapter, recipe, four_bits=four_bits)
        case "lora-gguf":
            target = place / f"adapter-{order.numbers}.gguf"
            gguf_file.write_adapter(adapter, checkpoint.folder, target, kind=order.numbers, name=run.folder.name)
        case "gguf" | "ollama":
            file = _write_gguf(place, run, recipe, checkpoint, adapter, order, four_bits=four_bits)
            if order.kind == "ollama":
                _write_modelfiles(place, recipe, checkpoint, file)


def write_merged(place: Path, checkpoint: Checkpoint, adapter: Path, recipe: Recipe, *, four_bits: bool) -> None:
    """A folder of transformers' with the adapter in the weights, in the precision of the base: bfloat16 unless it says
    another one."""
    stated = str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype") or "bfloat16")
    dtype = getattr(torch, stated.removeprefix("torch."))
    write_model(place, checkpoint, recipe, merged(checkpoint, adapter, four_bits=four_bits, dtype=dtype), dtype=dtype)


def write_model(
    place: Path, checkpoint: Checkpoint, recipe: Recipe, weights: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype
) -> None:
    """A folder of transformers' with these weights, and all else as the base has it. dtype: what its config names."""
    write_shards(weights, place)
    config = {name: value for name, value in checkpoint.config.items() if name not in _ABOUT_WEIGHTS}
    named = {"model_type": checkpoint.configuration().model_type, "dtype": str(dtype).removeprefix("torch.")}
    _write_json(place / "config.json", config | named)
    for name in _TOKENIZER:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, place / name)
    _write_json(place / "generation_config.json", _generation(checkpoint, recipe))


_ABOUT_WEIGHTS = ("quantization_config", "dtype", "torch_dtype")


def _generation(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Any]:
    """How the team was sampled, and nothing that cuts off unlikely tokens besides."""
    tokenizer = checkpoint.tokenizer()
    ends = end_ids(checkpoint, tokenizer, Renderer(tokenizer, end_ids=()))
    sampling = recipe.sampling
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "bos_token_id": checkpoint.config.get("bos_token_id"),
        "eos_token_id": [*ends],
        "pad_token_id": checkpoint.config.get("pad_token_id"),
    }


def _write_gguf(
    place: Path, run: RunFolder, recipe: Recipe, checkpoint: Checkpoint, adapter: Path, order: Order, *, four_bits: bool
) -> str:
    """The merged model as one file, by way of a folder that is deleted again; returns the file's name."""
    between, name = place / "merged", f"model-{order.numbers}.gguf"
    between.mkdir()
    write_merged(between, checkpoint, adapter, recipe, four_bits=four_bits)
    gguf_file.write_model(between, place / name, kind=order.numbers, name=run.folder.name)
    shutil.rmtree(between)
    return name


def _write_modelfiles(place: Path, recipe: Recipe, checkpoint: Checkpoint, file: str) -> None:
    if not _speaks_llama3(checkpoint):
        what = "its chat template is not Llama 3's, so no Modelfile can be written for it"
        raise ModelError(what, where=checkpoint.folder, hint="--as gguf, and a Modelfile of your own")
    context = recipe.model.max_length or checkpoint.config["max_position_embeddings"]
    for name, text in modelfiles(recipe, file, context=context).items():
        (place / f"Modelfile.{name}").write_text(text, encoding="utf-8")


def _speaks_llama3(checkpoint: Checkpoint) -> bool:
    """Whether the chat template puts around messages what Llama 3's does, and nothing else."""
    said = [{"role": role, "content": f"{role} text"} for role in ("system", "user", "assistant", "user")]
    turns = "".join(f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>" for m in said)
    wanted = f"<|begin_of_text|>{turns}<|start_header_id|>assistant<|end_header_id|>\n\n"
    text = checkpoint.tokenizer().apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    return bool(text == wanted)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
