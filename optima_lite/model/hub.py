"""Where a recipe's model is: a folder, or the local cache of the Hugging Face hub, fetched there first if need be.

Everything that can go wrong with a name or with the hub is a ModelError that says what to do about it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelError
from ..settings.machine import Machine
from .checkpoint import BUNDLED, bundled, check_config, first_line

UNGATED = "unsloth/llama-3-8b-Instruct-bnb-4bit"  # Llama 3 8B Instruct, quantised already
_WEIGHTS = "*.safetensors"
_NEEDED_FILES = ("*.json", _WEIGHTS, "*.jinja")
_PATIENCE = 10  # seconds for a look at the hub


class NotHere(ModelError):
    """A model that is not in the local cache and cannot be fetched now."""


def locate(name: str, *, machine: Machine) -> str:
    """Where a recipe's model is: an existing folder, else an alias of the machine file, else a bundled one, else a hub
    id."""
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
    if name in BUNDLED:
        return str(bundled(name))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        known = ", ".join([*BUNDLED, *machine.models])
        raise ModelError(
            f"no such model folder: {name[:200]}",
            where="model.name",
            hint=f"a folder, one of {known}, or a hub id such as {UNGATED}",
        )
    return name


def download(name: str, *, offline: bool, weights: bool = True) -> Path:
    """The folder of a model of the Hugging Face hub in the local cache, fetched there first if need be, with its
    weights or without.

    Its config is fetched and checked before the gigabytes. Raises ModelError: gated, no such model, a file missing, a
    model that cannot be trained here; NotHere: not cached and no network.
    """
    from huggingface_hub import snapshot_download

    fetch_config(name, offline=offline)
    with _reached(name, offline=offline):
        needed = [pattern for pattern in _NEEDED_FILES if weights or pattern != _WEIGHTS]
        return Path(snapshot_download(name, allow_patterns=needed, local_files_only=offline))


def fetch_config(name: str, *, offline: bool) -> Path:
    """The config.json of a model of the hub, in the local cache, fetched there first if need be, and checked. Raises as
    `download` does."""
    from huggingface_hub import hf_hub_download

    with _reached(name, offline=offline):
        path = Path(hf_hub_download(name, "config.json", local_files_only=offline))
    check_config(path)
    return path


def left_to_download(name: str, *, offline: bool) -> int | None:
    """Bytes of a hub model's files that are not in the local cache yet; None where the hub cannot be asked."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

    if offline:
        return None
    try:
        files = HfApi().model_info(name, files_metadata=True, timeout=_PATIENCE).siblings or []
    except (OfflineModeIsEnabled, HFValidationError, HTTPError, OSError):
        return None
    needed = [file for file in files if any(fnmatch(file.rfilename, pattern) for pattern in _NEEDED_FILES)]
    missing = [file for file in needed if not isinstance(try_to_load_from_cache(name, file.rfilename), str)]
    return sum(file.size or 0 for file in missing)


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
