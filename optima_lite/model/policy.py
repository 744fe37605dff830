"""The one quantised base model and its LoRA adapters: wear, switch off and on, save and load, start afresh.

The same weights serve as policy (adapter on), reader for the readability loss (adapter off) and, for preference
training, reference. Several adapters take turns in one place: the model wears one, the others' weights lie beside it
untouched, so that whatever trains or speaks meets a model with a single adapter. `Policy.version` advances whenever a
function of this file changes what an adapter computes, so that nothing computed with older weights can be taken for
current; to wear another one changes none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from ..errors import ModelError
from ..settings.workflow import SHARED
from .adapter import beside, merged
from .checkpoint import whole
from .libraries import LoraLayer, PeftModel, load_peft_weights, set_peft_model_state_dict
from .memory import Setup
from .resources import let_segments_grow
from .sampling import seed_of
from .shapes import Shape

let_segments_grow(os.environ)  # here, because whatever computes on a GPU has imported this file

ADAPTER = "default"  # PEFT's name of the adapter worn; TRL copies the one of this name as its DPO reference
_WEIGHTS = "adapter_model.safetensors"


@dataclass(eq=False)
class Policy:
    """A base model with its LoRA adapters, its tokenizer, and what the rest needs to know of them.

    max_length: tokens a sequence may have. end_ids: ids that end a turn. base: what a saved adapter calls the base, a
    name that means something on other machines too. version: see the module's docstring. notes: what the user should
    know of how it was loaded, a line each. names: of the adapters. worn: the one that speaks and is trained. mergeable:
    the layers that take the adapter into their weights while the model speaks; without any it is computed beside them.
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
    mergeable: Sequence[Any] = ()
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

    def take(self, weights: Sequence[torch.Tensor]) -> None:
        """All adapters get these weights, in the order of `names` and, of each, of `weights`."""
        own = (weight for name in self.names for weight in self.weights(name))
        with self.changing(), torch.no_grad():
            for mine, given in zip(own, weights, strict=True):
                mine.copy_(given)

    def _places(self) -> list[Any]:
        """The linear maps that hold the weights worn."""
        layers = self.mergeable or lora_layers(self.model)
        return [side[ADAPTER] for layer in layers for side in (layer.lora_A, layer.lora_B)]

    @contextmanager
    def speaking(self) -> Iterator[PeftModel]:
        """The model ready to generate: evaluation mode, and the adapter where it costs least.

        On the CPU it is merged into the weights of an unquantised model, which nearly doubles the speed of decoding
        there; else it is computed beside them, in the model's own precision. Afterwards all weights are what they were,
        bit for bit.
        """
        self.model.eval()
        layers = self.mergeable or lora_layers(self.model)
        with merged(layers) if self.mergeable else beside(layers, ADAPTER, self.model.dtype):
            yield self.model

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The base model as a reader: evaluation mode, adapter off."""
        self.model.eval()
        layers = self.mergeable or lora_layers(self.model)
        try:
            for layer in layers:  # PEFT's own switch examines the whole model first
                layer.enable_adapters(False)
            with torch.no_grad():
                yield self.model.get_base_model()
        finally:
            for layer in layers:
                layer.enable_adapters(True)

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
                for layer in lora_layers(self.model):
                    layer.reset_lora_parameters(ADAPTER, True)

    def load_adapter(self, folder: Path) -> None:
        """Replaces weights by those in a folder: the first adapter's where they lie in the folder itself, as those of
        an agent alone do, else each one's by those in the folder of its name in there. Raises ModelError when they are
        missing or do not fit."""
        for name, place in self.places(folder).items():
            self.load_one(name, place)

    def places(self, folder: Path) -> dict[str, Path]:
        """Where in a folder the weights of which adapters lie; see `load_adapter`."""
        alone = (folder / _WEIGHTS).is_file()
        return places(folder, self.names[:1] if alone else self.names)

    def load_one(self, name: str, folder: Path) -> None:
        """Replaces the weights of one adapter by those in a folder, and wears it. Raises as `load_adapter`."""
        self.wear(name)
        self._load(folder)

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


def lora_layers(model: Any) -> list[Any]:
    """The layers of a model that hold an adapter, from the first to the last."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
