"""PEFT imports bitsandbytes, which asks torch for its compiler as soon as it is imported.

That takes a second and a half, and what is compiled then only runs on cards other than NVIDIA's. So where there is no
card nothing is compiled: that code stays as it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _as_written(function: Callable[..., Any] | None = None, **how: Any) -> Any:
    return function or (lambda function: function)


_compile = torch.compile
if not torch.cuda.is_available():
    torch.compile = _as_written
try:
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer
    from peft.utils import load_peft_weights, set_peft_model_state_dict
finally:
    torch.compile = _compile

__all__ = ["LoraConfig", "LoraLayer", "PeftModel", "get_peft_model", "load_peft_weights", "set_peft_model_state_dict"]
