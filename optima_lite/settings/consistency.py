"""Settings that are each valid and make no sense together: stated values that nothing would read.

Checked where a recipe is loaded to begin something. A stored run whose recipe has such settings still opens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_PLACEHOLDERS = ("{name}", "{partner}")
_TRAINING = (
    *("selection", "search", "training", "dpo", "reinforce", "schedule"),
    *("sampling.rollouts", "sampling.pool_temperature"),
)
PLACEHOLDER = re.compile(r"(?<![\\\w^{}])\{[A-Za-z_]\w*\}")  # not \boxed{answer}, x_{i} or {{word}}
_OF_IMITATION = (
    "prompts.formats",
    "sampling.pool_temperature",
    *(f"training.{name}" for name in ("restart", "epochs", "learning_rate", "batch_size", "warmup_ratio")),
)


def _is_split_already(task: Mapping[str, Any]) -> bool:
    return isinstance(task["path"], Mapping) or task["fields"]["split"] is not None


def _of_another_method(recipe: Mapping[str, Any], key: str) -> str:
    """Why the recipe's method does not read a key; empty for one that it reads."""
    section, _, name = key.partition(".")
    if recipe["method"] == "prompts":
        about_training = section in _TRAINING or key in _TRAINING
        return "is about training, and method: prompts changes no weights" if about_training else ""
    if section == "prompt_search":
        return f"is read by method: prompts only, and the method is {recipe['method']}"
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
    if recipe["method"] == "reinforce" and recipe["sampling"]["top_p"] < 1:
        yield "sampling.top_p", "must be 1 with method: reinforce, whose ratios are of the whole distribution"
    if recipe["schedule"] == "idpo" and recipe["training"]["iterations"] < 2:
        yield "schedule", "idpo prefers from the second iteration on; training.iterations must be at least 2"
    if recipe["start"] is not None:
        for section in ("training", "dpo"):
            if recipe[section]["restart"] == "base":
                yield "start", f"is given up by {section}.restart: base, which trains new adapters in each iteration"
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
