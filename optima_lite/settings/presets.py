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


PRESETS: Mapping[str, Callable[[str | None, str | None], dict[str, Any]]] = {"official": official}
