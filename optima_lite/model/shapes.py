"""A model's sizes, from its config.json or from its name on the hub, and what follows from them. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .families import Config, fields_of


@dataclass(frozen=True, slots=True)
class Shape:
    """tied: the output layer is the embedding. fused: see `linears`. extra: parameters of a layer
    besides its linear maps and two norms, that is biases and further norms."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool = False
    fused: bool = False
    extra: int = 0

    @classmethod
    def from_config(cls, config: Config) -> Shape:
        """From the fields of a Hugging Face config.json. Raises KeyError when a size is missing."""
        family, fields = fields_of(config)
        hidden, intermediate = int(fields["hidden_size"]), int(fields["intermediate_size"])
        heads = int(fields["num_attention_heads"])
        kv_heads = int(fields.get("num_key_value_heads") or heads)
        width = int(fields.get("head_dim") or hidden // heads)
        extra = (family.norms - 2) * hidden + (2 * width if family.head_norms else 0)
        if family.biased or fields.get("attention_bias"):
            extra += (heads + 2 * kv_heads) * width
        if fields.get("attention_bias") and not family.biased:
            extra += hidden
        if fields.get("mlp_bias"):
            extra += 2 * intermediate + hidden
        return cls(
            layers=int(fields["num_hidden_layers"]),
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=kv_heads,
            head_width=width,
            vocabulary=int(fields["vocab_size"]),
            tied=bool(fields.get("tie_word_embeddings", False)),
            fused=family.fused,
            extra=extra,
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear map of a layer, by the name that transformers gives it."""
        query, key = self.heads * self.head_width, self.kv_heads * self.head_width
        if self.fused:
            into = {"qkv_proj": (self.hidden, query + 2 * key), "gate_up_proj": (self.hidden, 2 * self.intermediate)}
        else:
            into = {"q_proj": (self.hidden, query), "k_proj": (self.hidden, key), "v_proj": (self.hidden, key)}
            into |= {"gate_proj": (self.hidden, self.intermediate), "up_proj": (self.hidden, self.intermediate)}
        return {**into, "o_proj": (query, self.hidden), "down_proj": (self.intermediate, self.hidden)}

    @property
    def linear_parameters(self) -> int:
        """Parameters of all layers' linear maps: what is quantised."""
        return self.layers * sum(i * o for i, o in self.linears.values())

    @property
    def other_parameters(self) -> int:
        """Embedding, output layer, norms and biases, which stay as they are."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (2 * self.hidden + self.extra) + self.hidden

    @property
    def cached_values(self) -> int:
        """Keys and values that one token leaves behind, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_width


LLAMA3 = {  # Llama 3.2 1B and 3B, Llama 3 and 3.1 8B
    "1b": Shape(16, 2048, 8192, 32, 8, 64, 128_256, tied=True),
    "3b": Shape(28, 3072, 8192, 24, 8, 128, 128_256, tied=True),
    "8b": Shape(32, 4096, 14336, 32, 8, 128, 128_256),
}


def _qwen25(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, head_width: int) -> Shape:
    tied, biases = hidden < 3000, (heads + 2 * kv_heads) * head_width
    vocabulary = 151_936 if tied else 152_064
    return Shape(layers, hidden, intermediate, heads, kv_heads, head_width, vocabulary, tied=tied, extra=biases)


def _qwen3(layers: int, hidden: int, intermediate: int, heads: int) -> Shape:
    return Shape(layers, hidden, intermediate, heads, 8, 128, 151_936, tied=hidden < 3000, extra=2 * 128)


_PHI3 = Shape(32, 3072, 8192, 32, 32, 96, 32_064, fused=True)
_KNOWN = {  # the name on the hub, up to the size, as a regular expression
    r"llama-3(?:\.[12])?": LLAMA3,
    r"qwen2\.5(?:-coder|-math)?": {
        "0.5b": _qwen25(24, 896, 4864, 14, 2, 64),
        "1.5b": _qwen25(28, 1536, 8960, 12, 2, 128),
        "3b": _qwen25(36, 2048, 11008, 16, 2, 128),
        "7b": _qwen25(28, 3584, 18944, 28, 4, 128),
        "14b": _qwen25(48, 5120, 13824, 40, 8, 128),
    },
    r"qwen3": {
        "0.6b": _qwen3(28, 1024, 3072, 16),
        "1.7b": _qwen3(28, 2048, 6144, 16),
        "4b": _qwen3(36, 2560, 9728, 32),
        "8b": _qwen3(36, 4096, 12288, 32),
        "14b": _qwen3(40, 5120, 17408, 40),
    },
    r"mistral": {"7b": Shape(32, 4096, 14336, 32, 8, 128, 32_768)},  # v0.3; before it, 768 ids fewer
    r"smollm3": {"3b": Shape(36, 2048, 11008, 16, 4, 128, 128_256, tied=True)},
    r"gemma-3": {"1b": Shape(26, 1152, 6912, 4, 1, 256, 262_144, tied=True, extra=2 * 1152 + 2 * 256)},
    r"phi-3(?:\.5)?": {"mini": _PHI3},
    r"phi-4": {"mini": Shape(32, 3072, 8192, 24, 8, 128, 200_064, tied=True, fused=True)},
}


def known(name: str) -> Shape | None:
    """The shape of a model by its name on the hub, so that a forecast needs no download; None for other names."""
    for family, shapes in _KNOWN.items():
        found = re.search(rf"\b{family}-({'|'.join(map(re.escape, shapes))})\b", name.lower())
        if found:
            return shapes[found[1]]
    return None
