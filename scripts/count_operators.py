"""What one step of decoding asks of a card: operators and waits, counted on the meta device at a named shape.

    python scripts/count_operators.py [--shape 8b] [--rows 16]

Nothing is computed, so no card and no memory is needed: tensors have shapes only, and whatever would start a kernel is
counted. A view starts none; attention, and the product with a 4-bit matrix, count as one. The base is in NF4, the
adapter on all its linear maps. Out: a table, per step, of the operators of a layer, of those outside the layers, and of
the times Python asks for numbers that the card has, in three ways: `model.generate` for a slice of tokens over the same
attention states; our loop with the adapter as PEFT computes it in float32; our loop as it is. On CUDA transformers may
put off one of the questions of `generate`, whether all rows have ended; here it is asked at every token.
"""

from __future__ import annotations

import argparse
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import torch
from bench import Keyed
from bitsandbytes.functional import QuantState
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList

from optima_lite.model.decoding import Decoding, Row
from optima_lite.model.policy import ADAPTER, Policy
from optima_lite.model.sampling import KeyedSampler, Sampling
from optima_lite.model.shapes import LLAMA3, Shape
from optima_lite.model.states import States

META = torch.device("meta")
PROMPT, NEW, SLICE = 1000, 64, 8
PAD, END = 0, 1
WAYS = ("generate", "loop, PEFT's adapter", "loop")
COMPUTED = {"_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided"}  # no views by their schema, no kernels


@dataclass(frozen=True)
class Step:
    """What a step takes: operators of each layer and of everything outside of them, and waits for the card."""

    layer: float
    outside: float
    waits: float


class Card(TorchDispatchMode):
    """Counts what would start a kernel, and answers what Python wants to know of a card's numbers with no."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == META:
            self.waits += 1
            return torch.zeros((), dtype=args[0].dtype).item()
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) and out else out
        on_card = isinstance(first, torch.Tensor) and first.device == META
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if on_card and not view and func.overloadpacket.__name__ not in COMPUTED:
            self.names.append(func.overloadpacket.__name__)
        return out


class Functions(TorchFunctionMode):
    """Attention as one operator, whichever of its kernels a card would take; lists of numbers that nobody computed."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is functional.scaled_dot_product_attention:
            self.card.names.append("attention")
            return args[0].new_empty(args[0].shape)
        if func is torch.Tensor.tolist and args[0].device == META:
            self.card.waits += 1
            return torch.zeros(args[0].shape, dtype=torch.long).tolist()
        return func(*args, **(kwargs or {}))


def policy(shape: Shape) -> Policy:
    """A Llama of this shape in NF4 without any numbers, with an adapter in float32."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=8192,
        dtype=torch.bfloat16,
    )
    config._attn_implementation = "sdpa"
    with META, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = LlamaForCausalLM(config).to(torch.bfloat16)
        for layer in base.model.layers:
            for block in (layer.self_attn, layer.mlp):
                for name, linear in list(block.named_children()):
                    if isinstance(linear, torch.nn.Linear):
                        setattr(block, name, _four_bits(linear))
        base.is_loaded_in_4bit = True
        lora = LoraConfig(r=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, lora, ADAPTER).eval()
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(META, torch.float32)
    tokenizer = SimpleNamespace(pad_token_id=PAD, added_tokens_decoder={PAD: SimpleNamespace(special=True)})
    return Policy(model=model, tokenizer=tokenizer, max_length=8192, end_ids=(END,), base="random")


def _four_bits(linear: Any) -> Any:
    """The layer as bitsandbytes holds it when it has been quantised."""
    out, into = linear.weight.shape
    new = bnb.nn.Linear4bit(into, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device=META)
    numbers = out * into
    inner = QuantState(torch.empty(numbers // 64 // 256 + 1), code=torch.empty(256), blocksize=256)
    state = QuantState(
        torch.empty(numbers // 64, dtype=torch.uint8),
        shape=torch.Size((out, into)),
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=torch.empty(()),
        state2=inner,
    )
    packed = torch.empty((numbers // 2, 1), dtype=torch.uint8)
    new.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True, module=new)
    new.quant_state, new.compute_type_is_set = state, True
    return new


def operators(shape: Shape, way: str, sampling: Sampling, *, rows: int) -> tuple[float, float]:
    """Operators and waits of a step, on average over a slice in the middle of a message."""
    speaker = policy(shape)
    states = States(speaker, max_batch_tokens=1 << 20, max_cache_bytes=0, notify=lambda text: None)
    waiting = [
        Row(row, PROMPT - row, [2] * (PROMPT - row), sampling.max_new_tokens) for row in range(rows)
    ]  # ragged, so padded
    card = Card()
    adapter = speaker.speaking() if way == "loop" else nullcontext(speaker.model)
    with adapter as model, torch.no_grad(), Functions(card), card:
        decoding = Decoding(states, model, sampling, unsayable=[PAD], waiting=waiting)
        decoding.fill()
        decoding.advance()  # reads the prompts
        card.names.clear()
        card.waits = 0
        if way == "generate":
            _generate(model, decoding, sampling)
        else:
            decoding.advance()
    return len(card.names) / SLICE, card.waits / SLICE


def _generate(model: Any, decoding: Decoding, sampling: Sampling) -> None:
    """A slice by transformers, over the states of the running batch."""
    batch, ids = decoding._batch, decoding._batch.ids
    sampler = KeyedSampler(
        range(len(ids)), [SLICE] * len(ids), sampling=sampling, steps=SLICE, candidates=1024, device=META
    )
    config = GenerationConfig(
        max_new_tokens=SLICE,
        do_sample=False,
        eos_token_id=[END],
        pad_token_id=PAD,
        suppress_tokens=[PAD],
        use_cache=True,
    )
    processors = LogitsProcessorList([Keyed(sampler, ids.shape[1])] if sampling.temperature else [])
    base, steps = model.get_base_model(), iter(range(SLICE))
    # The card's answer to "have all rows ended?" is always no here, the limit of tokens included.
    base._has_unfinished_sequences = lambda *args, **named: next(steps, None) is not None
    model.generate(
        input_ids=ids,
        attention_mask=batch.mask,
        past_key_values=batch.cache,
        generation_config=config,
        logits_processor=processors,
    )


def step(shape: Shape, way: str, sampling: Sampling, *, rows: int = 16) -> Step:
    """What a step takes at a shape: layers differ in nothing, so two depths tell."""
    one, waits = operators(replace(shape, layers=1), way, sampling, rows=rows)
    two, _ = operators(replace(shape, layers=2), way, sampling, rows=rows)
    return Step(layer=two - one, outside=2 * one - two, waits=waits)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=LLAMA3, default="8b")
    parser.add_argument("--rows", type=int, default=16)
    given = parser.parse_args()
    shape = LLAMA3[given.shape]
    print("| way | top_p | operators of a layer | outside the layers | in all | waits |\n|" + " --- |" * 6)
    for top_p in (1.0, 0.9):
        for way in WAYS:
            found = step(shape, way, Sampling(1.0, top_p, NEW), rows=given.rows)
            all_of_it = found.layer * shape.layers + found.outside
            numbers = f"{found.layer:.0f} | {found.outside:.1f} | {all_of_it:,.0f} | {found.waits:.2f}"
            print(f"| {way} | {top_p} | {numbers} |")


if __name__ == "__main__":
    main()
