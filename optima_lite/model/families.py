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


@dataclass(frozen=True, slots=True)
class Family:
    """Where an architecture differs from Llama's. fused: queries, keys and values are one linear map, gate and up
    another. biased: queries, keys and values always have biases. norms: of the hidden width, in each layer.
    head_norms: queries and keys have norms, too. kinds: layers with a window and without, whose
    positions may be encoded differently. foreign_code: its copies on the hub name code of their own, which transformers
    has taken in since. defaults: what transformers takes for fields that a config.json leaves out."""

    fused: bool = False
    biased: bool = False
    norms: int = 2
    head_norms: bool = False
    kinds: bool = False
    foreign_code: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_WINDOW = {"use_sliding_window": True, "sliding_window": 4096}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
_FAMILIES = {
    "LlamaForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(biased=True, defaults={"sliding_window": 4096}),  # Qwen 2 and 2.5
    "Qwen3ForCausalLM": Family(head_norms=True, defaults={"head_dim": 128, "sliding_window": 4096}),
    "MistralForCausalLM": Family(defaults=_WINDOW),
    "SmolLM3ForCausalLM": Family(defaults={"tie_word_embeddings": True}),
    "GemmaForCausalLM": Family(defaults=_GEMMA),
    "Gemma3ForCausalLM": Family(norms=4, head_norms=True, kinds=True, defaults=_GEMMA | _WINDOW),
    "Phi3ForCausalLM": Family(fused=True, foreign_code=True, defaults={"use_sliding_window": True}),  # Phi 3 to 4
}
ACCEPTED = tuple(_FAMILIES)  # the classes of transformers
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
    """Why a model of such a kind cannot be trained here, and what to try; None when it can. The values of the fields
    are another matter, see `config_file.stated`."""
    names = architectures(config)
    known = [name for name in names if name in _FAMILIES]
    if "auto_map" in config and not (known and _FAMILIES[known[0]].foreign_code):
        return "this model asks to run code of its own, which is refused", _HINT
    if not known:
        reason = next((f": {_REFUSED[name]}" for name in names if name in _REFUSED), "")
        return f"cannot train {', '.join(names) or 'a model of unknown architecture'}{reason}", _HINT
    if config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        return "cannot train a model that caps its logits", _HINT
    if config.get("use_bidirectional_attention"):
        return "cannot train a model that reads in both directions, and so writes nothing", _HINT
    return None


def architectures(config: Config) -> list[str]:
    """The classes that a config.json names; none where it holds something else in their place."""
    named = config.get("architectures")
    return [name[:100] for name in named[:10] if isinstance(name, str)] if isinstance(named, list) else []


def accepted(config: Config) -> str:
    """The class, of those that a config names, that can be trained here; Llama's where it names none."""
    return next((name for name in architectures(config) if name in _FAMILIES), "LlamaForCausalLM")


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
    family = _FAMILIES[accepted(config)]
    return family, {**family.defaults, **config}
