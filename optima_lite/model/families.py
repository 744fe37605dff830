"""What a model's config.json tells before anything is loaded: its family, its longest row, and whether it can be
trained here at all. No torch.

A model can be used when transformers runs its architecture without foreign code, PyTorch's own attention (SDPA)
computes it, and attention states depend on nothing but the ids before them and their positions, since they are reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]
"""The content of a Hugging Face config.json."""

SUPPORTED = "Llama, Qwen 2, 2.5 and 3, Mistral, SmolLM3, Gemma 1 and 3 (text only), Phi 3, 3.5 and 4"
_HINT = f"a chat model of one of these families: {SUPPORTED}"
_SIZES = {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"}


@dataclass(frozen=True, slots=True)
class Family:
    """Where an architecture differs from Llama's. fused: queries, keys and values are one linear map, gate and up
    another. biased: queries, keys and values always have biases. norms: of the hidden width, in each layer.
    head_norms: queries and keys have norms, too. foreign_code: its copies on the hub name code of their own, which
    transformers has taken in since. defaults: what transformers takes for fields that a config.json leaves out."""

    fused: bool = False
    biased: bool = False
    norms: int = 2
    head_norms: bool = False
    foreign_code: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_WINDOW = {"use_sliding_window": True, "sliding_window": 4096}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
_FAMILIES = {
    "LlamaForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(biased=True),  # Qwen 2 and 2.5
    "Qwen3ForCausalLM": Family(head_norms=True, defaults={"head_dim": 128}),
    "MistralForCausalLM": Family(defaults=_WINDOW),
    "SmolLM3ForCausalLM": Family(defaults={"tie_word_embeddings": True}),
    "GemmaForCausalLM": Family(defaults=_GEMMA),
    "Gemma3ForCausalLM": Family(norms=4, head_norms=True, defaults=_GEMMA | _WINDOW),
    "Phi3ForCausalLM": Family(fused=True, foreign_code=True, defaults={"use_sliding_window": True}),  # Phi 3 to 4
}
_EXPERTS = "it mixes experts, which an adapter on linear maps does not reach"
_PICTURES = "it reads pictures, too: that part would be loaded, and get an adapter of its own"
_REFUSED = {
    "Gemma2ForCausalLM": "it caps its attention scores, which PyTorch's attention (SDPA) cannot do",
    "Gemma3ForConditionalGeneration": _PICTURES,
    "Mistral3ForConditionalGeneration": _PICTURES,
    "MixtralForCausalLM": _EXPERTS,
    "Qwen2MoeForCausalLM": _EXPERTS,
    "Qwen3MoeForCausalLM": _EXPERTS,
}


def refusal(config: Config) -> tuple[str, str] | None:
    """Why a model of this config cannot be trained here, and what to try; None when it can."""
    names = config.get("architectures") or []
    known = [name for name in names if name in _FAMILIES]
    if "auto_map" in config and not (known and _FAMILIES[known[0]].foreign_code):
        return "this model asks to run code of its own, which is refused", _HINT
    if not known:
        reason = next((f": {_REFUSED[name]}" for name in names if name in _REFUSED), "")
        return f"cannot train {', '.join(names) or 'a model of unknown architecture'}{reason}", _HINT
    absent = sorted(_SIZES - config.keys())  # transformers would take those of some other model
    if absent:
        return f"does not say its {absent[0]}", "download the model again"
    if config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        return "cannot train a model that caps its logits", _HINT
    if config.get("use_bidirectional_attention"):
        return "cannot train a model that reads in both directions, and so writes nothing", _HINT
    method = (config.get("quantization_config") or {}).get("quant_method", "bitsandbytes")
    if method != "bitsandbytes":
        return (
            f"its weights are quantised by {method}",
            "its plain copy; quantization: nf4 takes four bits",
        )
    return None


def longest_row(config: Config) -> tuple[int, str | None]:
    """The most tokens a row may have, and why they are fewer than the model's own limit, where they are.

    A row no longer than the attention window is attended to in full, so one mask and one cache serve all layers. A row
    that is longer would need masks by position, and states that a window does not forget.
    """
    family, fields = fields_of(config)
    own = int(fields.get("max_position_embeddings") or 8192)
    window = fields.get("sliding_window") if fields.get("use_sliding_window") else None
    if window and window < own and set(fields.get("layer_types") or ()) != {"full_attention"}:
        return int(window), f"rows are kept to {window:,} tokens, which its sliding attention windows hold"
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    short = int(fields.get("original_max_position_embeddings") or own)
    if family.fused and scaling.get("rope_type", scaling.get("type", "default")) != "default" and short < own:
        return short, f"rows are kept to {short:,} tokens, because beyond them all positions are encoded differently"
    return own, None


def fields_of(config: Config) -> tuple[Family, dict[str, Any]]:
    """The family of a config that is not refused, Llama's where it names none, and its fields as transformers takes
    them."""
    family = next((_FAMILIES[name] for name in config.get("architectures") or () if name in _FAMILIES), Family())
    return family, {**family.defaults, **config}
