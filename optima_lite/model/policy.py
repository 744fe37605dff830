"""The one quantised base model and its LoRA adapters: load, wear, switch off and on, save, start afresh.

The same weights serve as policy (adapter on), reader for the readability loss (adapter off) and, for preference
training, reference. Several adapters take turns in one place: the model wears one, the others' weights lie beside it
untouched, so that whatever trains or speaks meets a model with a single adapter. `Policy.version` advances whenever a
function of this file changes what an adapter computes, so that nothing computed with older weights can be taken for
current; to wear another one changes none.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from torch.nn import Parameter
from transformers import BitsAndBytesConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from ..errors import ModelError
from ..settings.machine import Machine
from ..settings.recipe import ModelSettings
from ..settings.workflow import SHARED
from .adapter import beside, merged
from .checkpoint import Checkpoint, bundled, check_config, explained, first_line, read, whole
from .families import longest_row
from .memory import GIB, Setup
from .render import Renderer
from .resources import free_memory, let_segments_grow
from .sampling import seed_of
from .shapes import Shape

let_segments_grow(os.environ)  # here, because whatever asks for a GPU has imported this file

ADAPTER = "default"  # PEFT's name of the adapter worn; TRL copies the one of this name as its DPO reference
UNGATED = "unsloth/llama-3-8b-Instruct-bnb-4bit"  # Llama 3 8B Instruct, quantised already
_WEIGHTS = "adapter_model.safetensors"
_NO_WINDOW = 1 << 30  # tokens; more than any row has
_NEEDED_FILES = ("*.json", "*.safetensors", "*.jinja")


@dataclass(eq=False)
class Policy:
    """A base model with its LoRA adapters, its tokenizer, and what the rest needs to know of them.

    max_length: tokens a sequence may have. end_ids: ids that end a turn. base: what a saved adapter calls the base, a
    name that means something on other machines too. version: see the module's docstring. notes: what the user should
    know of how it was loaded, a line each. names: of the adapters. worn: the one that speaks and is trained.
    """

    model: PeftModel
    tokenizer: Any
    max_length: int
    end_ids: tuple[int, ...]
    base: str
    version: int = 0
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = (SHARED,)
    worn: str = SHARED
    _mergeable: list[Any] = field(default_factory=list)
    _resting: dict[str, list[Parameter]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def pad_id(self) -> int:
        """The id that fills up batches; never one that ends a turn."""
        return int(self.tokenizer.pad_token_id)

    @property
    def shape(self) -> Shape:
        """The sizes that a forecast of memory needs."""
        return Shape.from_config(self.model.get_base_model().config.to_dict())

    @property
    def setup(self) -> Setup:
        """How the weights are held, for a forecast of memory."""
        quantised = bool(getattr(self.model.get_base_model(), "is_loaded_in_4bit", False))
        rank = int(self.model.peft_config[ADAPTER].r)
        return Setup(quantised, self.device.type == "cuda", rank, len(self.names))

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Layers, heads and head width of the attention states that a token leaves behind."""
        config = self.model.get_base_model().config
        heads = config.num_key_value_heads or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(config.num_hidden_layers), int(heads), int(width)

    def hold(self, names: Sequence[str]) -> None:
        """From here on there is an adapter for each name, each with the weights of the one that is worn; the first is
        worn."""
        self.names, self.worn = tuple(names), names[0]
        self._resting = {
            name: [Parameter(weight.detach().clone()) for weight in self.weights(self.worn)] for name in names[1:]
        }

    def weights(self, name: str) -> list[Parameter]:
        """The weights of an adapter, layer by layer. Raises KeyError for a name that there is not."""
        return [place.weight for place in self._places()] if name == self.worn else self._resting[name]

    def wear(self, name: str) -> None:
        """The model speaks with, and trains, the adapter of this name; no weight is copied or changed. Raises KeyError
        for a name that there is not."""
        if name != self.worn:
            own, self._resting[self.worn] = self._resting.pop(name), self.weights(self.worn)
            for place, weight in zip(self._places(), own, strict=True):
                place.weight = weight
            self.worn = name

    def _places(self) -> list[Any]:
        """The linear maps that hold the weights worn."""
        layers = self._mergeable or _lora_layers(self.model)
        return [side[ADAPTER] for layer in layers for side in (layer.lora_A, layer.lora_B)]

    @contextmanager
    def speaking(self) -> Iterator[PeftModel]:
        """The model ready to generate: evaluation mode, and the adapter where it costs least.

        On the CPU it is merged into the weights of an unquantised model, which nearly doubles the speed of decoding
        there; else it is computed beside them, in the model's own precision. Afterwards all weights are what they were,
        bit for bit.
        """
        self.model.eval()
        layers = self._mergeable or _lora_layers(self.model)
        with merged(layers) if self._mergeable else beside(layers, ADAPTER, self.model.dtype):
            yield self.model

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The base model as a reader: evaluation mode, adapter off."""
        self.model.eval()
        with self.model.disable_adapter(), torch.no_grad():
            yield self.model.get_base_model()

    @contextmanager
    def changing(self) -> Iterator[PeftModel]:
        """The model while its adapter is being trained or replaced; makes everything cached from it stale."""
        self.version += 1
        try:
            yield self.model
        finally:
            self.version += 1
            self.model.eval()

    def restart(self, *, seed: int, names: Sequence[str] = ()) -> None:
        """The adapters of these names, else all, as new: random A, zero B, decided by seed and name alone. The first of
        the policy's adapters takes the seed as it is, so that it begins as the only one of another policy does."""
        for name in names or self.names:
            self.wear(name)
            with self.changing(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed if name == self.names[0] else seed_of(seed, name))
                for layer in _lora_layers(self.model):
                    layer.reset_lora_parameters(ADAPTER, True)

    def load_adapter(self, folder: Path) -> None:
        """Replaces weights by those in a folder: the first adapter's where they lie in the folder itself, as those of
        an agent alone do, else each one's by those in the folder of its name in there. Raises ModelError when they are
        missing or do not fit."""
        alone = (folder / _WEIGHTS).is_file() or len(self.names) == 1
        for name, place in places(folder, self.names[:1] if alone else self.names).items():
            self.wear(name)
            self._load(place)

    def _load(self, folder: Path) -> None:
        path = folder / _WEIGHTS
        if not path.is_file():
            raise ModelError(f"no {_WEIGHTS} in this folder", where=folder)
        whole(path, hint="delete this folder, and the run's own command trains it again")
        foreign = ModelError("this adapter belongs to another model or rank", where=folder)
        with self.changing():
            weights = load_peft_weights(str(folder), device=str(self.device))
            try:
                outcome = set_peft_model_state_dict(self.model, weights, adapter_name=ADAPTER)
            except RuntimeError as error:  # shapes differ
                raise foreign from error
        missing = [name for name in outcome.missing_keys if "lora_" in name]
        if missing or outcome.unexpected_keys:
            raise foreign

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter worn as safetensors, with the configuration that PEFT loads it by."""
        config = self.model.peft_config[ADAPTER]
        config.target_modules = sorted(config.target_modules)  # a set would be written in another order each time
        config.base_model_name_or_path = self.base  # else the path on this machine
        self.model.save_pretrained(
            str(folder),
            selected_adapters=[ADAPTER],
            safe_serialization=True,
            save_embedding_layers=False,  # none is trained; else PEFT asks the hub for the base's vocabulary
        )
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form, with the path on this machine


def places(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Where the adapters of these names lie in a folder that holds them all: a single one in the folder itself."""
    return {name: folder / name for name in names} if len(names) > 1 else {names[0]: folder}


def available(policy: Policy, *, machine: Machine) -> int:
    """Bytes that a run may take in all, those of the weights included: what is free now besides them.

    On a GPU, what other programs hold of the card is left to them, and machine.max_vram_gib is kept.
    """
    if policy.device.type != "cuda":
        resting = (weight for name in policy.names if name != policy.worn for weight in policy.weights(name))
        return free_memory() + sum(weight.nbytes for weight in (*policy.model.parameters(), *resting))
    return card_room(machine)


def card_room(machine: Machine) -> int:
    """Bytes of the GPU that a run may take in all; see `available`."""
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return min(free, free if machine.max_vram_gib == "auto" else int(machine.max_vram_gib * GIB)) - GIB // 4


def locate(name: str, *, machine: Machine) -> str:
    """Where a recipe's model is: an existing folder, else an alias of the machine file, else `tiny`, else a hub id."""
    if os.path.isdir(path := os.path.expanduser(name)):  # unlike Path's methods, no error for any name
        return path
    if name in machine.models:
        folder = os.path.expanduser(machine.models[name])
        if not os.path.isdir(folder):
            raise ModelError(
                f"the alias '{name}' points to a folder that does not exist: {folder}",
                where="optima_lite.toml [models]",
                hint="correct the path, or remove the alias",
            )
        return folder
    if name == "tiny":
        return str(bundled())
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        known = ", ".join(["tiny", *machine.models])
        raise ModelError(
            f"no such model folder: {name[:200]}",
            where="model.name",
            hint=f"a folder, one of {known}, or a hub id such as {UNGATED}",
        )
    return name


def load(settings: ModelSettings, *, machine: Machine, seed: int, adapters: Sequence[str] = (SHARED,)) -> Policy:
    """The recipe's model with fresh adapters of these names, ready to speak.

    fp32 on the CPU, otherwise bf16 where the card can and fp16 where not; NF4 with double quantisation where asked.
    Raises ModelError with what is wrong and what to try.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if machine.max_vram_gib != "auto" and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, machine.max_vram_gib * GIB / total))
    source = locate(settings.name, machine=machine)
    folder = Path(source) if Path(source).is_dir() else download(source, offline=machine.offline)
    checkpoint = read(folder)
    with explained(folder):
        tokenizer, model = checkpoint.tokenizer(), _adapted(checkpoint, settings)
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
    ends = _end_ids(checkpoint, tokenizer, renderer)
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
        policy._mergeable = _lora_layers(model)
    taken = {*policy.end_ids, *renderer.written}
    if tokenizer.pad_token_id in {None, *taken}:
        tokenizer.pad_token = _padding(tokenizer, taken=taken, vocabulary=base.config.vocab_size)
    policy.hold(adapters)
    policy.restart(seed=seed)
    policy.wear(adapters[0])
    return policy


def _adapted(checkpoint: Checkpoint, settings: ModelSettings) -> PeftModel:
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
    base = checkpoint.architecture.from_pretrained(
        checkpoint.folder,
        config=checkpoint.configuration(),
        generation_config=GenerationConfig(eos_token_id=list(checkpoint.end_ids) or None),
        local_files_only=True,
        **options,
    )
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 under an old name; 2026-11
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(base, _lora(settings, Shape.from_config(base.config.to_dict())), ADAPTER)


def _require_numbers(base: Any, ids: tuple[int, ...], folder: Path) -> None:
    """ModelError unless the model makes numbers of a few tokens: one that is not, in any layer, spreads to the end."""
    with torch.no_grad():
        logits = base(input_ids=torch.tensor([ids], device=base.device)).logits
    if not torch.isfinite(logits).all():
        what = "its weights hold values that are no finite numbers, or too large for this precision"
        raise ModelError(what, where=folder, hint="download the model again")


def _shareable(name: str) -> str:
    """A hub id, an alias or `tiny` as the recipe has it; of a path the last folder, which names no machine's places."""
    return (
        os.path.basename(os.path.abspath(os.path.expanduser(name))) if os.path.isdir(os.path.expanduser(name)) else name
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


class NotHere(ModelError):
    """A model that is not in the local cache and cannot be fetched now."""


def download(name: str, *, offline: bool) -> Path:
    """The folder of a model of the Hugging Face hub in the local cache, fetched there first if need be.

    Its config is fetched and checked before the gigabytes. Raises ModelError: gated, no such model, a file missing, a
    model that cannot be trained here; NotHere: not cached and no network.
    """
    from huggingface_hub import snapshot_download

    fetch_config(name, offline=offline)
    with _reached(name, offline=offline):
        return Path(snapshot_download(name, allow_patterns=list(_NEEDED_FILES), local_files_only=offline))


def fetch_config(name: str, *, offline: bool) -> Path:
    """The config.json of a model of the hub, in the local cache, fetched there first if need be, and checked. Raises as
    `download` does."""
    from huggingface_hub import hf_hub_download

    with _reached(name, offline=offline):
        path = Path(hf_hub_download(name, "config.json", local_files_only=offline))
    check_config(path)
    return path


@contextmanager
def _reached(name: str, *, offline: bool) -> Iterator[None]:
    """What goes wrong with the hub, as one sentence."""
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    hub_logging.set_verbosity_error()
    page = f"https://huggingface.co/{name}"
    try:
        yield
    except GatedRepoError as error:
        what = "this model is gated, and your account has no access to it"
        hint = f"ask for access at {page}, then `hf auth login`; or an ungated model, such as {UNGATED}"
        raise ModelError(what, where=name, hint=hint) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        what = "there is no such model on the Hugging Face hub, or it is private"
        raise ModelError(what, where=name, hint=f"check the name at {page}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        silent = "`offline` is set, and this model is not in the local cache"
        unreachable = "the Hugging Face hub cannot be reached, and this model is not in the local cache"
        hint = "name a folder with the model in it, or an alias of one in optima_lite.toml; or go online once"
        raise NotHere(silent if offline else unreachable, where=name, hint=hint) from error
    except EntryNotFoundError as error:
        what = "this model has no config.json, so it is not one for transformers"
        raise ModelError(what, where=name, hint="a version saved as *.safetensors") from error
    except (HTTPError, OSError) as error:
        what = f"the download broke off: {first_line(error)}"
        raise ModelError(what, where=name, hint="try again; the files that are complete are kept") from error


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


def _lora_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _end_ids(checkpoint: Checkpoint, tokenizer: Any, renderer: Renderer) -> tuple[int, ...]:
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
