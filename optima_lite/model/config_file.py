"""What a model's config.json may say: the fields that decide what is computed, each with its type and range.

Whoever made a model folder wrote this file, and the libraries believe it. So nothing of it reaches them but the fields
below, once they are checked: which attention to use, which code to run and where to find it is not for the folder to
say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError
from .families import accepted, fields_of

_AGAIN = "download the model again"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True, slots=True)
class Rule:
    """kind: what a value has to be, as the rest of "must be". holds: whether it is."""

    kind: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int) -> Rule:
    return Rule(f"a whole number from {low:,} to {high:,}", lambda v: type(v) is int and low <= v <= high)


def _number(low: float, high: float) -> Rule:
    return Rule(f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high)


def _one_of(*known: str) -> Rule:
    return Rule(f"one of {', '.join(known)}", lambda v: isinstance(v, str) and v in known)


def _list_of(rule: Rule) -> Rule:
    return Rule(f"a list of at most 1,000, each {rule.kind}", lambda v: _few(v) and all(map(rule.holds, v)))


def _few(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 1_000


def _either(one: Rule, other: Rule) -> Rule:
    return Rule(f"{one.kind} or {other.kind}", lambda v: one.holds(v) or other.holds(v))


def _table(rules: Mapping[str, Rule]) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, dict) and all(
            name in rules and (inside is None or rules[name].holds(inside)) for name, inside in value.items()
        )

    return Rule(f"a table with {', '.join(rules)} and values that make sense", holds)


_FLAG = Rule("true or false", lambda v: type(v) is bool)
_TOKEN = _whole(0, 10_000_000)
_POSITIONS = _whole(1, 1 << 24)
_ACTIVATION = _one_of(
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "mish"
)
_THETA = _number(1, 1e12)
_FACTOR = _number(1e-3, 1e6)
_ROPE = _table(
    {
        **dict.fromkeys(
            ("rope_type", "type"), _one_of("default", "linear", "dynamic", "yarn", "longrope", "su", "llama3")
        ),
        **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", "attention_factor"), _FACTOR),
        **dict.fromkeys(("beta_fast", "beta_slow", "mscale", "mscale_all_dim"), _number(0, 1e6)),
        **dict.fromkeys(("short_factor", "long_factor"), _list_of(_FACTOR)),
        **dict.fromkeys(("original_max_position_embeddings", "max_position_embeddings"), _POSITIONS),
        "rope_theta": _THETA,
        "partial_rotary_factor": _number(0.01, 1),
        "truncate": _FLAG,
    }
)
_ROPES = _either(_ROPE, _table({"full_attention": _ROPE, "sliding_attention": _ROPE}))

FIELDS: Mapping[str, Rule] = {
    "hidden_size": _whole(1, 1 << 17),
    "intermediate_size": _whole(1, 1 << 20),
    "num_hidden_layers": _whole(1, 1_000),
    "num_attention_heads": _whole(1, 4_096),
    "num_key_value_heads": _whole(1, 4_096),
    "head_dim": _whole(2, 4_096),
    "vocab_size": _whole(2, 10_000_000),
    "max_position_embeddings": _POSITIONS,
    "original_max_position_embeddings": _POSITIONS,
    "rms_norm_eps": _number(0, 1),
    "hidden_act": _ACTIVATION,
    "hidden_activation": _ACTIVATION,
    "attention_bias": _FLAG,
    "mlp_bias": _FLAG,
    "tie_word_embeddings": _FLAG,
    "attention_dropout": _number(0, 0.99),
    "embd_pdrop": _number(0, 0.99),
    "resid_pdrop": _number(0, 0.99),
    "rope_theta": _THETA,
    "rope_local_base_freq": _THETA,
    "partial_rotary_factor": _number(0.01, 1),
    "rope_scaling": _ROPES,
    "rope_parameters": _ROPES,
    "sliding_window": _POSITIONS,
    "sliding_window_pattern": _whole(1, 1_000),
    "use_sliding_window": _FLAG,
    "max_window_layers": _whole(0, 1_000),
    "layer_types": _list_of(_one_of("full_attention", "sliding_attention")),
    "no_rope_layers": _list_of(_whole(0, 1)),
    "no_rope_layer_interval": _whole(1, 1_000),
    "query_pre_attn_scalar": _number(1e-3, 1e6),
    "attn_logit_softcapping": _FACTOR,
    "final_logit_softcapping": _FACTOR,
    "use_bidirectional_attention": _FLAG,
    "bos_token_id": _TOKEN,
    "pad_token_id": Rule("a token", lambda v: v == -1 or _TOKEN.holds(v)),
    "eos_token_id": _either(_TOKEN, _list_of(_TOKEN)),
}
_DTYPE = _one_of("float32", "float16", "bfloat16", "uint8")
_FOUR_BITS: Mapping[str, Rule] = {  # of quantization_config, which bitsandbytes writes
    "load_in_4bit": Rule("true", lambda v: v is True),
    "bnb_4bit_quant_type": _one_of("nf4", "fp4"),
    "bnb_4bit_use_double_quant": _FLAG,
    "bnb_4bit_compute_dtype": _DTYPE,
    "bnb_4bit_quant_storage": _DTYPE,
    "llm_int8_skip_modules": _list_of(Rule("a name", lambda v: isinstance(v, str) and len(v) < 200)),
}


def stated(config: Mapping[str, Any], *, where: object) -> dict[str, Any]:
    """What a config.json states of the fields above and of `quantization_config`; `architectures` is the one class.

    Tokens that it does not state are None, and its heads for keys are as many as for queries: transformers would take
    those of some other model. Raises ModelError for a missing size, a value of the wrong type or range, sizes that
    contradict each other, and weights in a form that cannot be trained.
    """
    absent = [name for name in _SIZES if config.get(name) is None]
    if absent:  # transformers would take those of some other model
        raise ModelError(f"does not say its {absent[0]}", where=where, hint=_AGAIN)
    found = {
        name: _obeying(rule, config[name], name, where) for name, rule in FIELDS.items() if config.get(name) is not None
    }
    if "sliding_window" in config:  # none is not the same as nothing said
        found.setdefault("sliding_window", None)
    found = {**dict.fromkeys(_TOKENS), "num_key_value_heads": found["num_attention_heads"], **found}
    found["architectures"] = [accepted(config)]
    _fits_together(found, where)
    if config.get("quantization_config") is not None:
        found["quantization_config"] = _four_bits(config["quantization_config"], where)
    return found


def _obeying(rule: Rule, value: Any, name: str, where: object) -> Any:
    if not rule.holds(value):
        raise ModelError(f"its {name} must be {rule.kind}, not {_shown(value)}", where=where, hint=_AGAIN)
    return value


def _fits_together(config: Mapping[str, Any], where: object) -> None:
    family, fields = fields_of(config)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    layers, vocabulary = config["num_hidden_layers"], config["vocab_size"]
    ends, padding = config["eos_token_id"] or 0, config["pad_token_id"] or 0
    types, window = config.get("layer_types"), fields.get("use_sliding_window") and fields.get("sliding_window")
    wrong = (
        ("hidden_size", hidden % heads and "head_dim" not in fields),
        ("sliding_window", family.kinds and types is None and not window),
        ("num_key_value_heads", heads % config["num_key_value_heads"]),
        ("head_dim", fields.get("head_dim", hidden // heads) % 2),
        *((name, not family.kinds and _by_layer(config.get(name, {}))) for name in ("rope_parameters", "rope_scaling")),
        ("layer_types", types is not None and (len(types) != layers or ("sliding_attention" in types and not window))),
        ("no_rope_layers", len(config.get("no_rope_layers", range(layers))) != layers),
        ("pad_token_id", padding >= vocabulary),
        ("eos_token_id", max(ends if isinstance(ends, list) else [ends], default=0) >= vocabulary),
    )
    for name, is_wrong in wrong:
        if is_wrong:
            raise ModelError(f"its {name} does not fit its other sizes", where=where, hint=_AGAIN)


def _by_layer(rope: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in rope.values())


def _four_bits(stored: Any, where: object) -> dict[str, Any]:
    method = stored.get("quant_method", "bitsandbytes") if isinstance(stored, dict) else None
    if method != "bitsandbytes" or stored.get("load_in_4bit") is not True:
        named = isinstance(method, str) and method != "bitsandbytes"
        what = f"its weights are quantised {f'by {_shown(method)}' if named else 'in a way that is not known here'}"
        raise ModelError(what, where=where, hint="its plain copy; quantization: nf4 takes four bits")
    known = {name: stored[name] for name in _FOUR_BITS if stored.get(name) is not None}
    for name, value in known.items():
        _obeying(_FOUR_BITS[name], value, f"quantization_config.{name}", where)
    return {"quant_method": "bitsandbytes", **known}


def _shown(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return "something too large"
    return text if len(text) <= 60 else text[:57] + "..."
