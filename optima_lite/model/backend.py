"""What loads and trains the model: Unsloth where it is installed and its import works, else plain transformers.

Unsloth patches transformers, TRL and PEFT while it is imported, so `decide` is called before any of these is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Backend:
    """name: what is used. why: a line for the user, where it is not what was asked for or is installed."""

    name: Literal["transformers", "unsloth"]
    why: str | None = None


def decide(wanted: str) -> Backend:
    """The backend for `auto`, `transformers` or `unsloth`, imported if it is Unsloth. The same throughout a process."""
    if wanted == "transformers":
        return Backend("transformers")
    installed = importlib.util.find_spec("unsloth") is not None
    problem = _problem() if installed else "it is not installed (pip install 'optima-lite[gpu]')"
    if problem is None:
        return Backend("unsloth")
    worth_saying = wanted == "unsloth" or installed
    return Backend("transformers", f"plain transformers instead of Unsloth: {problem}" if worth_saying else None)


def _problem() -> str | None:
    """Imports Unsloth; what went wrong, if anything. The GPU is asked for first: the import takes long to fail."""
    import torch

    if not torch.cuda.is_available():
        return "it needs a GPU, and torch finds none"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache / "optima_lite" / "unsloth"))  # else the working folder
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a banner, which would spoil --json
            importlib.import_module("unsloth")
    except (ImportError, NotImplementedError, RuntimeError) as error:
        return f"its import fails ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    return None
