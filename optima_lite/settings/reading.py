"""What each method reads of a recipe, and so which stated settings it would pass over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

Values = Mapping[str, Any]
"""All settings of a recipe, as nested plain values."""

_OWN = {"reinforce": "reinforce", "prompt_search": "prompts", "market": "market"}
"""The sections that one method alone reads."""

# Keys, and sections with a dot at their end.
_PASSED_OVER = {
    "optima": (),
    "reinforce": ("schedule", "dpo.", "search."),
    "prompts": (
        *("selection.", "search.", "training.", "teacher.", "dpo.", "schedule"),
        *("sampling.rollouts", "sampling.pool_temperature"),
    ),
    "market": (
        *(
            "team",
            "team.",
            "protocol.",
            "selection.",
            "search.",
            "teacher.",
            "dpo.",
            "schedule",
            "prompts.formats",
            "sampling.rollouts",
        ),
        *("sampling.pool_temperature", "reward.", "evaluation.validation_questions"),
    ),
}
_YET_READ = {
    "search.normaliser_percentile": ("reinforce", "prompts"),
    "reward.loss_condition": ("market",),
    "training.iterations": ("market",),
    "training.questions": ("market",),
}
_WHY = {
    "reinforce": "is not read by method: reinforce",
    "prompts": "is about training, and method: prompts changes no weights",
    "market": "is not read by method market, which trains no weights and lays no ways (docs/market.md)",
}
_IMITATION = (
    *("selection.", "teacher.", "prompts.formats", "sampling.pool_temperature"),
    *(f"training.{name}" for name in ("restart", "epochs", "learning_rate", "batch_size", "warmup_ratio")),
)


class _Only(NamedTuple):
    """Keys that a method reads only where something holds, and why they are refused elsewhere."""

    method: str
    keys: tuple[str, ...]
    where: Callable[[Values], bool]
    why: str


_CONDITIONS = (
    _Only(
        "reinforce",
        _IMITATION,
        lambda recipe: recipe["reinforce"]["imitations"] > 0,
        "is read by method: reinforce where reinforce.imitations is above 0",
    ),
    _Only(
        "reinforce",
        ("reinforce.discount", "reinforce.gae_lambda", "reinforce.value_learning_rate"),
        lambda recipe: recipe["reinforce"]["advantage"] == "value",
        "is read with reinforce.advantage: value",
    ),
    _Only(
        "reinforce",
        ("reinforce.kl_to",),
        lambda recipe: recipe["reinforce"]["kl_weight"] > 0,
        "is read where reinforce.kl_weight is above 0",
    ),
    _Only("market", ("training.",), lambda recipe: bool(recipe["market"]["imitation"]), _WHY["market"]),
    _Only(
        "market",
        ("market.tycoon_wealth", "market.tycoon_share"),
        lambda recipe: recipe["market"]["scheme"] == "holland",
        "is read with market.scheme: holland only",
    ),
    _Only(
        "market",
        ("market.variants",),
        lambda recipe: recipe["market"]["births_by"] == "variants",
        "is read with market.births_by: variants only",
    ),
)


def unread(recipe: Values, stated: Collection[str]) -> Iterator[tuple[str, str]]:
    """Each stated key that the recipe's method does not read, with the rest of a sentence that says why."""
    method = recipe["method"]
    for key in stated:
        reader = _OWN.get(key.partition(".")[0], method)
        if reader != method:
            yield key, f"is read by method: {reader} only, not by {method}"
        elif method not in _YET_READ.get(key, ()):
            passed_over = _WHY[method] if _among(key, _PASSED_OVER[method]) else ""
            if why := passed_over or next((one.why for one in _CONDITIONS if _refuses(one, recipe, key)), ""):
                yield key, why


def _refuses(only: _Only, recipe: Values, key: str) -> bool:
    return only.method == recipe["method"] and _among(key, only.keys) and not only.where(recipe)


def _among(key: str, keys: Collection[str]) -> bool:
    return any(key == one or (one.endswith(".") and key.startswith(one)) for one in keys)
