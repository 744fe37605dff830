"""Settings that are each valid and make no sense together: stated values that nothing would read.

Checked where a recipe is loaded to begin something. A stored run whose recipe has such settings still opens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_PLACEHOLDERS = ("{name}", "{partner}")
_LONE_WORD = re.compile(r"(?<![\\\w^{}])\{[A-Za-z_]\w*\}")  # not \boxed{answer}, x_{i} or {{word}}


def _is_split_already(task: Mapping[str, Any]) -> bool:
    return isinstance(task["path"], Mapping) or task["fields"]["split"] is not None


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
        for word in dict.fromkeys(_LONE_WORD.findall(recipe["prompts"][key] or "")):
            if word not in _PLACEHOLDERS:
                inside = word.strip("{}")
                known = " and ".join(_PLACEHOLDERS)
                yield f"prompts.{key}", f"knows {known}, not {word}; write {{ {inside} }} for the word in braces"
