"""The adapter while the model speaks: merged into the weights, or added beside them in the model's own precision.

The float32 weights that training moves are never written to, so that what was said changes nothing in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@contextmanager
def merged(layers: Sequence[Any]) -> Iterator[None]:
    """The adapter inside the base's weights, which must not be quantised: a layer is then one matrix product.

    Taking it out arithmetically would leave rounding errors, and a resumed run would then differ from an uninterrupted
    one, so the original weights are put back instead.
    """
    saved = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        with _computing(layers, [layer.get_base_layer().forward for layer in layers]):
            yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, saved, strict=True):
                if layer.merged:
                    layer.unmerge()
                layer.get_base_layer().weight.copy_(weight)


@contextmanager
def beside(layers: Sequence[Any], name: str, dtype: torch.dtype) -> Iterator[None]:
    """The adapter called `name` as two matrix products on top of the base's, in `dtype`, from copies of its weights.

    PEFT's own forward takes the input to the adapter's float32 and the result back for every layer, and scales and adds
    in passes of their own: seven kernels after the base's where here are two.
    """
    with _computing(layers, [_adapted(layer, name, dtype) for layer in layers]):
        yield


@contextmanager
def _computing(layers: Sequence[Any], forwards: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Each layer with a forward pass of ours instead of PEFT's, which asks anew what it is to do at every call."""
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _adapted(layer: Any, name: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The forward pass of a layer with its adapter: x (..., inputs) to (..., outputs). Passes no gradient."""
    base, rank = layer.get_base_layer(), layer.r[name]
    down = layer.lora_A[name].weight.detach().to(dtype)
    up = (layer.lora_B[name].weight.detach() * layer.scaling[name]).to(dtype).t()

    def forward(x: Tensor) -> Tensor:
        result = base(x)
        result.view(-1, up.shape[1]).addmm_(linear(x, down).view(-1, rank), up)
        return result

    return forward
