"""Settings that are each valid and make no sense together: stated values that nothing would read.

Checked where a recipe is loaded to begin something. A stored run whose recipe has such settings still opens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_PLACEHOLDERS = ("{name}", "{partner}")
_OF_IMITATION = (
    "prompts.formats",
    "sampling.pool_temperature",
    *(f"training.{name}" for name in ("restart", "epochs", "learning_rate", "batch_size", "warmup_ratio")),
)
_TRAINING = ("selection", "search", "training", "dpo", "schedule", "sampling.rollouts", "sampling.pool_temperature")
PLACEHOLDER = re.compile(r"(?<![\\\w^{}])\{[A-Za-z_]\w*\}")  # not \boxed{answer}, x_{i} or {{word}}

_MARKET_LEAVES = (
    "team", "protocol.", "selection.", "search.", "dpo.", "schedule", "prompts.formats", "sampling.rollouts",
    "sampling.pool_temperature", "training.", "reward.", "evaluation.validation_questions",
)  # fmt: skip
_MARKET_READS = ("training.iterations", "training.questions", "reward.loss_condition")
_BY_SCHEME = {"market.tycoon_wealth": ("holland",), "market.tycoon_share": ("holland",)}


def _is_split_already(task: Mapping[str, Any]) -> bool:
    return isinstance(task["path"], Mapping) or task["fields"]["split"] is not None


def _unread_by_market(recipe: Mapping[str, Any], stated: Collection[str]) -> Iterator[tuple[str, str]]:
    """What a market, or its scheme of bidding, does not look at, and what nothing else does."""
    market = recipe["method"] == "market"
    for key in stated:
        if key.startswith("market.") and not market:
            yield key, f"is read by method market only, not by {recipe['method']}"
        elif market and key.startswith("training.") and recipe["market"]["imitation"]:
            continue
        elif market and key not in _MARKET_READS and key.startswith(_MARKET_LEAVES):
            yield key, "is not read by method market, which trains no weights and lays no ways (docs/market.md)"
        elif market and key in _BY_SCHEME and recipe["market"]["scheme"] not in _BY_SCHEME[key]:
            yield key, f"is not read by market.scheme {recipe['market']['scheme']}"
    own = [key for key, one in recipe["market"]["agents"].items() if one.get("adapter") == "own"]
    if market and own and recipe["start"] is not None:
        yield "start", f"gives agents without adapters of their own something to speak with; {', '.join(own)} has one"
    if market and recipe["market"]["births_by"] == "model" and "market.variants" in stated:
        yield "market.variants", "is read with market.births_by: variants only"


def _of_another_method(recipe: Mapping[str, Any], key: str) -> str:
    """Why the recipe's method does not read a key; empty for one that it reads."""
    section, _, name = key.partition(".")
    if recipe["method"] != "reinforce":
        return "is read by method: reinforce" if section == "reinforce" else ""
    settings = recipe["reinforce"]
    if section == "reinforce":
        if name in ("discount", "gae_lambda", "value_learning_rate") and settings["advantage"] != "value":
            return "is read with reinforce.advantage: value"
        return "is read where reinforce.kl_weight is above 0" if name == "kl_to" and not settings["kl_weight"] else ""
    if section in ("schedule", "dpo") or (section == "search" and name != "normaliser_percentile"):
        return "is not read by method: reinforce"
    if (section == "selection" or key in _OF_IMITATION) and not settings["imitations"]:
        return "is read by method: reinforce where reinforce.imitations is above 0"
    return ""


def idle(recipe: Mapping[str, Any], stated: Collection[str]) -> Iterator[tuple[str, str]]:
    """Each dotted key of which nothing comes, with the rest of a sentence that says why.

    recipe: all its settings as nested plain values. stated: the keys that somebody wrote.
    """
    yield from _unread_by_market(recipe, stated)
    task = recipe["task"]
    from_a_file = task["name"] not in ("world", "plugin") and task["path"] is not None
    if isinstance(task["path"], Mapping) and task["fields"]["split"] is not None:
        yield "task.fields.split", "splits one file; task.path names one for each split already"
    for key in stated:
        if key.startswith("task.fields.") or key == "task.answer_pattern":
            if task["name"] != "jsonl":
                yield key, f"is read by task.name jsonl only; {task['name']} knows its own layout"
        elif key == "task.held_out_share" and task["name"] not in ("jsonl", "humaneval") and not from_a_file:
            yield key, "splits a file of rows; there is none without task.path"
        elif key in ("task.held_out_share", "task.validation_share") and _is_split_already(task):
            yield key, "splits one file; task.path or task.fields.split says already what belongs where"
        elif key == "task.validation_share" and task["name"] in ("world", "plugin"):
            yield key, f"splits rows; task.name {task['name']} makes its own questions"
    alike = recipe["reward"]["credit"] in ("trajectory", "split") and not recipe["reward"]["parse_weight"]
    if alike and "selection.min_credit" in stated:
        credit = recipe["reward"]["credit"]
        yield (
            "selection.min_credit",
            f"tells no messages apart: reward.credit {credit} gives all of a dialogue the same",
        )
    for key in stated:
        if why := _of_another_method(recipe, key):
            yield key, why
    taking_part = recipe["team"]["roles"] if recipe["team"] else recipe["protocol"]["roles"]
    for name in recipe["reinforce"]["roles"] or ():
        if name not in taking_part:
            yield "reinforce.roles", f"names {name}, who has no part in the team; these have: {', '.join(taking_part)}"
    if recipe["method"] == "reinforce" and recipe["sampling"]["top_p"] < 1:
        yield "sampling.top_p", "must be 1 with method: reinforce, whose ratios are of the whole distribution"
    if recipe["schedule"] == "idpo" and recipe["training"]["iterations"] < 2:
        yield "schedule", "idpo prefers from the second iteration on; training.iterations must be at least 2"
    if recipe["start"] is not None:
        for section in ("training", "dpo"):
            if recipe[section]["restart"] == "base":
                yield "start", f"is given up by {section}.restart: base, which trains new adapters in each iteration"
    yield from _of_other_methods(recipe["method"], stated)
    formats = recipe["prompts"]["formats"]
    if again := next((name for i, name in enumerate(formats) if name in formats[:i]), None):
        yield "prompts.formats", f"holds {again} twice"
    for key in ("system", "solo_system"):
        told = recipe["prompts"][key] or ""
        for word in dict.fromkeys(PLACEHOLDER.findall("\n".join(told.values()) if isinstance(told, Mapping) else told)):
            if word not in _PLACEHOLDERS:
                inside = word.strip("{}")
                known = " and ".join(_PLACEHOLDERS)
                yield f"prompts.{key}", f"knows {known}, not {word}; write {{ {inside} }} for the word in braces"


def _of_other_methods(method: str, stated: Collection[str]) -> Iterator[tuple[str, str]]:
    for key in stated:
        if key.startswith("prompt_search.") and method != "prompts":
            yield key, f"is read by method: prompts only, and the method is {method}"
        elif method == "prompts" and (key.split(".")[0] in _TRAINING or key in _TRAINING):
            yield key, "is about training, and method: prompts changes no weights"
