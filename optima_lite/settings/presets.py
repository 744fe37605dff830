"""Presets: settings that go together, under one name, between the schema's defaults and a recipe's own lines.

The defaults follow the paper. `official` follows the authors' code (github.com/thunlp/Optima at 4017740) in everything
that is a choice rather than a mistake; what is left out, and why, is told in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def official(task: str | None, schedule: str | None) -> dict[str, Any]:
    """The authors' choices by dotted key. task, schedule: of the recipe that they are for, None where it has none."""
    values: dict[str, Any] = {
        "task.scoring": "official",
        "protocol.max_turns": 10,
        "protocol.stop": "anyone",  # an agent who says the same again ends the talk, in every task
        "prompts.layout": "assistant",
        "sampling.pool_temperature": 0.3,
        "reward.loss_condition": "message",
        "reward.min_tokens": 40,
        "reward.repeated": "zero",
        "reward.confusion": "zero",
        "selection.order": "share_first",
        "selection.keep_scope": "tree",
    }
    if task == "hotpotqa":
        values["task.context"] = "first_sentence"
    if task == "math":
        values["selection.drop_easiest"] = 0.1
    if task in ("gsm8k", "math"):
        del values["sampling.pool_temperature"]
    if schedule == "idpo":
        values["dpo.sft_weight"] = 1.0
    if schedule == "isft-dpo":
        values["search.normaliser_percentile"] = 80
    return values


def official_search() -> dict[str, Any]:
    """What `official` means with method: prompts, the choices of MASPOB's authors (arXiv 2603.02630) where their code
    differs from their paper or from our defaults."""
    return {
        "prompt_search.surrogate": "attention",
        "prompt_search.information": 10.0,
        "prompt_search.start": "last",
        "prompt_search.repeated": "count",
        "prompt_search.writer_temperature": 0.5,
    }


# The three domains of EoM's code (arXiv 2606.02859). What belongs to a domain and not to a market is left out: scores
# that a design keeps from one episode to the next, and the prices of designs that are broken or fall back.
_SCIENCE = {
    "trials": 2,
    "eps": 0.1,
    "rent": 0.2,
    "rent_interval": 3,
    "birth_interval": 3,
    "min_population": 2,
    "max_population": 20,
    "replace_by_richest": 0.334,
    "replace_by_repair": 0.334,
}
_CLOUDCAST = {
    "steps": 22,
    "trials": 1,
    "scheme": "fixed_with_eps",
    "base_bid": 0.05,
    "eps": 0.005,
    "initial_wealth": 0.7,
    "rent": 0.02,
    "rent_interval": 1,
    "births": 1,
    "birth_interval": 3,
    "min_population": 6,
    "max_population": 20,
    "replace_by_richest": 0.4,
    "replace_by_repair": 0.4,
    "births_of_richest": 0.6,
    "centred": False,
    "env_scale": 2.0,
    "path_scale": 2.0,
    "path_share": "author",
    "bonus_scale": 0.0,
}
_ACCELERATOR = {
    "steps": 80,
    "trials": 1,
    "scheme": "fixed_with_eps",
    "eps": 0.05,
    "rent": 0.02,
    "rent_interval": 1,
    "births": 1,
    "birth_interval": 2,
    "min_population": 6,
    "max_population": 18,
    "replace_by_richest": 0.334,
    "replace_by_repair": 0.334,
    "centred": False,
    "env_scale": 0.5,
    "bonus_scale": 1.0,
}


def _market(values: Mapping[str, Any]) -> Callable[[str | None, str | None], dict[str, Any]]:
    return lambda task, schedule: {f"market.{key}": value for key, value in values.items()}


PRESETS: Mapping[str, Callable[[str | None, str | None], dict[str, Any]]] = {
    "official": official,
    "market_science": _market(_SCIENCE),
    "market_cloudcast": _market(_CLOUDCAST),
    "market_accelerator": _market(_ACCELERATOR),
}
