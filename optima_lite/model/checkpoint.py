"""What a model folder says, read with care before any library sees it.

A folder from elsewhere may be half a download, or made to do harm. Only files that are needed are read, none larger
than an honest one; of what they say only what is known here is taken (see `config_file`); weights are held against
the shapes that the config asks for, so that nothing is allocated for a model that is not there; tokenizer and chat
template are tried out in a process with limits. Every fault is a ModelError.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast

from ..errors import ModelError
from ..tasks.bounded import Worker
from .config_file import stated
from .families import refusal
from .render import Renderer

BUNDLED = {"tiny": "tiny_llama", "tiny-teams": "tiny_teams"}
"""The models that ship with the package: the pair's, and the one that knows roles of teams as well."""

_AGAIN = "download the model again"
_MB = 2**20
_LARGEST = {  # bytes; several times what the largest models have
    "config.json": _MB,
    "generation_config.json": _MB,
    "chat_template.jinja": _MB,
    "special_tokens_map.json": _MB,
    "tokenizer_config.json": 16 * _MB,
    "model.safetensors.index.json": 64 * _MB,
    "tokenizer.json": 128 * _MB,
}
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_LONGEST_PROMPT = 10_000  # characters that a template may add to three short messages


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that can be loaded.

    config: as `config_file.stated` gives it. end_ids: those that generation_config.json names. special: the
    tokenizer's special tokens by what they are for, such as eos_token. template: the chat template, None without one.
    """

    folder: Path
    config: Mapping[str, Any]
    end_ids: tuple[int, ...]
    special: Mapping[str, str]
    template: str | None

    @property
    def architecture(self) -> Any:
        """The class of transformers that the model is of."""
        return getattr(transformers, self.config["architectures"][0])

    def configuration(self) -> Any:
        """The config as a new object of transformers, which holds nothing but what was checked."""
        return self.architecture.config_class(**copy.deepcopy(dict(self.config)))  # it changes tables that it is given

    def outline(self) -> Any:
        """The model laid out without weights, which takes no memory."""
        with torch.device("meta"):
            return self.architecture(self.configuration())

    def tokenizer(self) -> Any:
        """The tokenizer as a new object of transformers: what tokenizer.json says, with the special tokens and the chat
        template that were checked."""
        return PreTrainedTokenizerFast(
            tokenizer_file=str(self.folder / "tokenizer.json"),
            chat_template=self.template,
            padding_side="left",
            clean_up_tokenization_spaces=False,
            **self.special,
        )


def bundled(name: str = "tiny") -> Path:
    """The folder of a model that ships with the package. Raises KeyError for none of that name."""
    return Path(str(resources.files("optima_lite") / BUNDLED[name]))


def check_config(path: Path) -> dict[str, Any]:
    """What a config.json says of a model that can be trained here. Raises ModelError as `families.refusal` and
    `config_file.stated` find."""
    config = _json_object(path)
    if reason := refusal(config):
        raise ModelError(reason[0], where=path, hint=reason[1])
    return stated(config, where=path)


def read(folder: Path, *, weights: bool = True) -> Checkpoint:
    """A folder with a model of one of the families as whole safetensors, and a tokenizer with a chat template. weights:
    whether they are looked at.

    Raises ModelError for what is missing, damaged, too large, does not fit together, or never ends.
    """
    if (folder / "adapter_config.json").exists():  # transformers would load what it names instead
        hint = "the folder of its base model; or take adapter_config.json out of this one"
        raise ModelError("this folder holds an adapter", where=folder, hint=hint)
    config = check_config(folder / "config.json")
    tensors = _tensors(weight_files(folder)) if weights else {}
    tokenizer = _if_there(folder / "special_tokens_map.json") | _if_there(folder / "tokenizer_config.json")
    special = {name: token for name in _SPECIAL if (token := _token(tokenizer.get(name), name, folder))}
    template = _template(folder, tokenizer)
    ends = _ends(folder, vocabulary=config["vocab_size"])
    if folder not in map(bundled, BUNDLED):
        special = _tried(folder, special, template, vocabulary=config["vocab_size"])
    checkpoint = Checkpoint(folder, config, ends, special, template)
    if weights:
        _compare(checkpoint, tensors)
    with explained(folder):
        Renderer(checkpoint.tokenizer(), end_ids=())  # refuses a chat template that cannot be used
    return checkpoint


def whole(path: Path, *, hint: str = _AGAIN) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file. Raises ModelError for a file that is damaged or not whole."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is damaged or not whole", where=path.parent, hint=hint) from error


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What a library finds wrong with a model folder, as a ModelError of one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"not enough memory for the model's weights: {first_line(error)}",
            where=folder,
            hint="`optima-lite check` shows what fits",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(f"cannot load the model: {first_line(error)}", where=folder, hint=_AGAIN) from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- Weights --------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, as transformers chooses them: one file, else those of an index. Raises ModelError
    for files that are missing or that no honest index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if os.path.isfile(single):
        return [single]
    if not os.path.isfile(index):
        pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        why = f"only pickled weights ({pickled[0].name}), which can run code" if pickled else "no weights"
        raise ModelError(f"this model folder has {why}", where=folder, hint="a version saved as *.safetensors")
    parts = _json_object(index).get("weight_map")
    names = set(map(str, parts.values())) if isinstance(parts, dict) else set()
    if not names or len(names) > 10_000:
        raise ModelError(f"{index.name} names no weights", where=folder, hint=_AGAIN)
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index.name} names {name[:100]!r}, which is no file of this folder", where=folder, hint=_AGAIN
            )
        if not os.path.isfile(folder / name):
            raise ModelError(f"part of the weights is missing: {name[:100]}", where=folder, hint="finish the download")
    return [folder / name for name in sorted(names)]


def _tensors(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {}
    for file in files:
        tensors |= whole(file)
    return tensors


def _compare(checkpoint: Checkpoint, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """ModelError unless the weights are those of the model that the config describes.

    That model is laid out without memory. Four-bit weights are held against their number, two to a byte.
    """
    layers = {name.split(".layers.")[1].split(".")[0] for name in tensors if ".layers." in name}
    where, wanted = checkpoint.folder, checkpoint.config["num_hidden_layers"]
    if wanted > len(layers):  # before as many layers are laid out
        raise ModelError(
            f"part of the weights is missing: model.layers.{len(layers)}. of {wanted}",
            where=where,
            hint="finish the download",
        )
    packed = "quantization_config" in checkpoint.config
    with explained(where):
        model = checkpoint.outline()
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    for name, weight in model.state_dict().items():
        shape = tensors.get(name, tensors.get(name.removeprefix("model.")))
        if shape is None and name not in tied:
            raise ModelError(f"part of the weights is missing: {name}", where=where, hint="finish the download")
        if shape is None or shape == tuple(weight.shape) or (packed and _half_of(shape, weight.numel())):
            continue
        what = f"{name} has the shape {_shape(shape)}, and config.json asks for {_shape(weight.shape)}"
        raise ModelError(what, where=where, hint=_AGAIN)
    if packed and not any(".quant_state." in name for name in tensors):
        what = "config.json says that the weights are stored in four bits, and they are not"
        raise ModelError(what, where=where, hint=_AGAIN)


def _half_of(shape: tuple[int, ...], numbers: int) -> bool:
    return len(shape) == 2 and shape[1] == 1 and shape[0] == (numbers + 1) // 2


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) or "of one number"


# --- Tokenizer and ends ---------------------------------------------------------------------------


def _token(value: Any, name: str, folder: Path) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    if text is None or (isinstance(text, str) and 0 < len(text) < 200):
        return text
    raise ModelError(f"its {name} is no text", where=folder / "tokenizer_config.json", hint=_AGAIN)


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, else part of the tokenizer's config, of several the default one."""
    apart = folder / "chat_template.jinja"
    if os.path.isfile(apart):
        return _text(apart)
    value = tokenizer.get("chat_template")
    if isinstance(value, list):
        named = {str(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    if value is None or (isinstance(value, str) and len(value) <= _LARGEST[apart.name]):
        return value
    raise ModelError("its chat template is no text", where=folder / "tokenizer_config.json", hint=_AGAIN)


def _ends(folder: Path, *, vocabulary: int) -> tuple[int, ...]:
    """The ids that end a turn; of generation_config.json nothing else is taken."""
    value = _if_there(folder / "generation_config.json").get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > 1_000 or not all(type(i) is int and 0 <= i < vocabulary for i in ids):
        what = "its eos_token_id is no token, nor a list of them"
        raise ModelError(what, where=folder / "generation_config.json", hint=_AGAIN)
    return tuple(ids)


def _tried(folder: Path, special: Mapping[str, str], template: str | None, *, vocabulary: int) -> dict[str, str]:
    """The special tokens that the tokenizer knows, once it and the template have shown that they come to an end.

    A token that it does not know would be added to it, with an id that the model has no embedding for.
    """
    path = _there(folder / "tokenizer.json")
    seconds = 1 + path.stat().st_size / (4 * _MB)  # what an honest file of that size needs, and more
    found = Worker("optima_lite.model.trial:tokenise", seconds=seconds)(str(path), [*special.values()])
    if found is None:
        raise ModelError("tokenizer.json holds no tokenizer that can be used", where=folder, hint=_AGAIN)
    if found["highest"] >= vocabulary:
        what = f"its tokenizer has tokens up to number {found['highest']}, and the model has {vocabulary}"
        raise ModelError(what, where=folder, hint=_AGAIN)
    if template is not None:
        characters = Worker("optima_lite.model.trial:render", seconds=1)(template, dict(special))
        if characters is None or characters > _LONGEST_PROMPT:
            what = "its chat template cannot be used: it is damaged, never ends, or writes far more than the messages"
            raise ModelError(what, where=folder, hint="an instruct (chat) version of the model")
    return {name: token for name, token in special.items() if found["ids"].get(token, vocabulary) < vocabulary}


# --- Files ----------------------------------------------------------------------------------------


def _there(path: Path) -> Path:
    """The path of a regular file of sane size; it may be a link to one, as in the hub's cache."""
    if not os.path.isfile(path):
        raise ModelError(f"this model folder has no {path.name}", where=path.parent, hint=_AGAIN)
    if path.stat().st_size > _LARGEST[path.name]:
        what = f"{path.name} is larger than {_LARGEST[path.name] // _MB} MB"
        raise ModelError(what, where=path.parent, hint=_AGAIN)
    return path


def _text(path: Path) -> str:
    try:
        return _there(path).read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ModelError(f"cannot read {path.name}: {error}", where=path.parent, hint=_AGAIN) from error


def _json_object(path: Path) -> dict[str, Any]:
    """The content of one of the folder's JSON files; ModelError when it is missing or holds something else."""
    try:
        value = json.loads(_text(path))
    except RecursionError as error:
        raise ModelError(f"cannot read {path.name}: nested too deeply", where=path.parent, hint=_AGAIN) from error
    except ValueError as error:
        raise ModelError(f"cannot read {path.name}: {error}", where=path.parent, hint=_AGAIN) from error
    if not isinstance(value, dict):
        raise ModelError(f"cannot read {path.name}: it is no JSON object", where=path.parent, hint=_AGAIN)
    return value


def _if_there(path: Path) -> dict[str, Any]:
    return _json_object(path) if os.path.isfile(path) else {}
