"""From a recipe's model to a policy that is ready to speak: precision, quantisation, LoRA, padding, ends of a turn.

The folder is checked before any library reads it (see `checkpoint`). What a model leaves open, or says otherwise than
this device can do it, is settled here once, so that nothing later asks what kind of model it has.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from ..errors import ModelError
from ..settings.machine import Machine
from ..settings.sections import ModelSettings
from ..settings.workflow import SHARED
from .checkpoint import Checkpoint, explained, read
from .families import longest_row
from .hub import download, locate
from .libraries import LoraConfig, PeftModel, get_peft_model
from .memory import GIB
from .policy import ADAPTER, Policy, lora_layers
from .render import Renderer
from .shapes import Shape

_NO_WINDOW = 1 << 30  # tokens; more than any row has


def load(
    settings: ModelSettings, *, machine: Machine, seed: int, adapters: Sequence[str] = (SHARED,), weights: bool = True
) -> Policy:
    """The recipe's model with fresh adapters of these names, ready to speak. Without its weights it takes no memory and
    can say nothing, but it knows its words, its shape and its limits.

    fp32 on the CPU, otherwise bf16 where the card can and fp16 where not; NF4 with double quantisation where asked.
    Raises ModelError with what is wrong and what to try.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if machine.max_vram_gib != "auto" and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, machine.max_vram_gib * GIB / total))
    folder = found(settings.name, machine=machine, weights=weights)
    checkpoint = read(folder, weights=weights)
    with explained(folder):
        tokenizer, model = checkpoint.tokenizer(), _adapted(checkpoint, settings, weights=weights)
    model.eval()
    base = model.get_base_model()
    _compute_exactly(base)
    # For a batch's last positions, which are a view, torch's CPU code copies the output layer once for every row: 1 GiB
    # each with the vocabulary of Llama 3.
    base.lm_head.register_forward_pre_hook(lambda head, given: (given[0].contiguous(), *given[1:]))
    longest, shortened = longest_row(base.config.to_dict())
    if getattr(base.config, "sliding_window", None):
        # Rows are no longer than the window, so it hides nothing; but masks count columns, of which padding takes some.
        base.config.sliding_window = _NO_WINDOW
    renderer = Renderer(tokenizer, end_ids=())
    ends = end_ids(checkpoint, tokenizer, renderer)
    if weights:
        with explained(folder):
            _require_numbers(base, ends, folder)
    policy = Policy(
        model=model,
        tokenizer=tokenizer,
        max_length=min(settings.max_length or longest, longest),
        end_ids=ends,
        base=_shareable(settings.name),
        notes=(shortened,) if shortened and (settings.max_length or longest + 1) > longest else (),
    )
    if policy.device.type == "cpu" and not getattr(base, "is_loaded_in_4bit", False):
        policy.mergeable = lora_layers(model)
    taken = {*policy.end_ids, *renderer.written}
    if tokenizer.pad_token_id in {None, *taken}:
        tokenizer.pad_token = _padding(tokenizer, taken=taken, vocabulary=base.config.vocab_size)
    policy.hold(adapters)
    if weights:
        policy.restart(seed=seed)
    policy.wear(adapters[0])
    return policy


def found(name: str, *, machine: Machine, weights: bool = True) -> Path:
    """The folder of a recipe's model, fetched from the hub first if need be, with its weights or without. Raises
    ModelError as `locate` and `download` do."""
    source = locate(name, machine=machine)
    return Path(source) if Path(source).is_dir() else download(source, offline=machine.offline, weights=weights)


def _adapted(checkpoint: Checkpoint, settings: ModelSettings, *, weights: bool) -> PeftModel:
    base = _base(checkpoint, settings) if weights else checkpoint.outline()
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 under an old name; 2026-11
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(base, _lora(settings, Shape.from_config(base.config.to_dict())), ADAPTER)


def _base(checkpoint: Checkpoint, settings: ModelSettings) -> Any:
    dtype = computing_dtype()
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "attn_implementation": "sdpa"}
    if quantised(settings) and "quantization_config" not in checkpoint.config:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if torch.cuda.is_available():
        options["device_map"] = {"": 0}
    return checkpoint.architecture.from_pretrained(
        checkpoint.folder,
        config=checkpoint.configuration(),
        generation_config=GenerationConfig(eos_token_id=list(checkpoint.end_ids) or None),
        local_files_only=True,
        **options,
    )


def _lora(settings: ModelSettings, shape: Shape) -> LoraConfig:
    """LoRA on every linear map of the layers; the output layer is none of them."""
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=[*shape.linears],
        bias="none",
        task_type="CAUSAL_LM",
    )


def computing_dtype() -> torch.dtype:
    """float32 on the CPU; on a GPU bfloat16, or float16 where the card is too old for it."""
    if not torch.cuda.is_available():
        return torch.float32
    # Emulated, bfloat16 runs on any card, slowly; the tensor cores have it from compute capability 8.0 on.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def quantised(settings: ModelSettings) -> bool:
    """Whether the base is to be held in four bits."""
    return settings.quantization == "nf4" or (settings.quantization == "auto" and torch.cuda.is_available())


def _compute_exactly(base: Any) -> None:
    """Makes 4-bit layers compute in the model's own precision, and pass gradients on.

    A pre-quantised model names a precision of its own, bfloat16 as a rule, that this device may not have. And on CPUs
    with AVX512-BF16, bitsandbytes repacks 4-bit layers at their first evaluation and then passes no gradient through
    them (seen in 0.50.2: relative error .87 with a loss that looks right); this keeps the plain layout.
    """
    for module in base.modules():
        if hasattr(module, "compute_type_is_set"):
            module.compute_dtype, module.compute_type_is_set = base.dtype, True
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _require_numbers(base: Any, ids: tuple[int, ...], folder: Path) -> None:
    """ModelError unless the model makes numbers of a few tokens: one that is not, in any layer, spreads to the end."""
    with torch.no_grad():
        logits = base(input_ids=torch.tensor([ids], device=base.device)).logits
    if not torch.isfinite(logits).all():
        what = "its weights hold values that are no finite numbers, or too large for this precision"
        raise ModelError(what, where=folder, hint="download the model again")


def end_ids(checkpoint: Checkpoint, tokenizer: Any, renderer: Renderer) -> tuple[int, ...]:
    """All ids that end a turn. Not every copy of a model names them all: Llama 3 has two, <|eot_id|> and
    <|end_of_text|>, and what the chat template closes a turn with may be another than the tokenizer's own."""
    stated = checkpoint.end_ids or checkpoint.config["eos_token_id"]
    ids = [*(stated if isinstance(stated, list | tuple) else [stated]), tokenizer.eos_token_id, renderer.closing]
    known = tokenizer.get_vocab()
    ids += [known.get(token) for token in ("<|eot_id|>", "<|end_of_text|>")]
    ends = tuple(dict.fromkeys(int(i) for i in ids if i is not None and i < checkpoint.config["vocab_size"]))
    if not ends:
        raise ModelError("does not say which token ends a turn", where=checkpoint.folder, hint="a chat model")
    return ends


def _padding(tokenizer: Any, *, taken: Set[int], vocabulary: int) -> str:
    """A special token to fill up batches with that nothing else uses: padding with an end token would leave turn ends
    untrained. vocabulary: how many ids the model knows."""

    def rank(i: int) -> tuple[bool, bool, int]:
        named = re.search("pad", free[i].lower()), re.search("reserved|unused|placeholder|control", free[i].lower())
        return named[0] is None, named[1] is None, i

    tokens = tokenizer.added_tokens_decoder.items()
    free = {i: token.content for i, token in tokens if token.special and i < vocabulary and i not in taken}
    if tokenizer.unk_token_id in free and len(free) > 1:
        del free[tokenizer.unk_token_id]  # it may stand for a part of a text
    if not free:
        raise ModelError("its tokenizer has no token to pad with", hint="set pad_token in its tokenizer_config.json")
    return free[min(free, key=rank)]


def _shareable(name: str) -> str:
    """A hub id, an alias or `tiny` as the recipe has it; of a path the last folder, which names no machine's places."""
    return (
        os.path.basename(os.path.abspath(os.path.expanduser(name))) if os.path.isdir(os.path.expanduser(name)) else name
    )
