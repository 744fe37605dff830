"""Settings that are each valid and make no sense together: stated values that nothing would read.

Checked where a recipe is loaded to begin something. A stored run whose recipe has such settings still opens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from .reading import Values, unread

_PLACEHOLDERS = ("{name}", "{partner}")
PLACEHOLDER = re.compile(r"(?<![\\\w^{}])\{[A-Za-z_]\w*\}")  # not \boxed{answer}, x_{i} or {{word}}


def idle(recipe: Values, stated: Collection[str]) -> Iterator[tuple[str, str]]:
    """Each dotted key of which nothing comes, with the rest of a sentence that says why.

    recipe: all its settings as nested plain values. stated: the keys that somebody wrote.
    """
    yield from unread(recipe, stated)
    yield from _of_rows(recipe["task"], stated)
    yield from _of_learning(recipe, stated)
    yield from _of_start(recipe)
    yield from _of_prompts(recipe["prompts"])


def _of_rows(task: Values, stated: Collection[str]) -> Iterator[tuple[str, str]]:
    """What says where rows come from and how they are split."""
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


def _is_split_already(task: Values) -> bool:
    return isinstance(task["path"], Mapping) or task["fields"]["split"] is not None


def _of_learning(recipe: Values, stated: Collection[str]) -> Iterator[tuple[str, str]]:
    """What says who learns, what from, and when."""
    credit = recipe["reward"]["credit"]
    alike = credit in ("trajectory", "split") and not recipe["reward"]["parse_weight"]
    if alike and "selection.min_credit" in stated:
        what = f"tells no messages apart: reward.credit {credit} gives all of a dialogue the same"
        yield "selection.min_credit", what
    for key in ("teacher.at_most", "teacher.own"):
        if key in stated and recipe["teacher"]["demonstrations"] is recipe["teacher"]["speaker"] is None:
            yield key, "is read with teacher.demonstrations or teacher.speaker"
    if "teacher.licence" in stated and recipe["teacher"]["speaker"] is None:
        yield "teacher.licence", "is of what teacher.speaker says; a file's rows have the licence of their import"
    taking_part = recipe["team"]["roles"] if recipe["team"] else recipe["protocol"]["roles"]
    for name in recipe["reinforce"]["roles"] or ():
        if name not in taking_part:
            yield "reinforce.roles", f"names {name}, who has no part in the team; these have: {', '.join(taking_part)}"
    others = (recipe["team"] or {}).get("spoken_by") or {}
    for name in others if isinstance(others, Mapping) else ():
        if name in (recipe["reinforce"]["roles"] or ()):
            yield "reinforce.roles", f"names {name}, whom {others[name]} speaks for, so that it learns nothing"
    if recipe["method"] == "reinforce":
        yield from _of_rewards(recipe)
    if recipe["schedule"] == "idpo" and recipe["training"]["iterations"] < 2:
        yield "schedule", "idpo prefers from the second iteration on; training.iterations must be at least 2"


def _of_rewards(recipe: Values) -> Iterator[tuple[str, str]]:
    """What reinforcement cannot learn from."""
    reward, how = recipe["reward"], recipe["reinforce"]
    if recipe["sampling"]["top_p"] < 1:
        yield "sampling.top_p", "must be 1 with method: reinforce, whose ratios are of the whole distribution"
    if recipe["sampling"]["rollouts"] < 2 and how["advantage"] == "group":
        yield "sampling.rollouts", "must be 2 or more where reinforce.advantage compares the runs of a question"
    if reward["readability"] == "inverse" and reward["readability_weight"]:
        what = "has no upper bound: reinforcement climbs it by saying what is foreseeable, right or wrong"
        yield "reward.readability", f"inverse {what}; capped and relative are for method: reinforce"
    if how["ratio"] == "sequence" and reward["credit"] not in ("trajectory", "split"):
        what = (
            f"gives all that an agent says one ratio, which averages away what reward.credit {reward['credit']} tells"
        )
        yield "reinforce.ratio", f"sequence {what}"


def _of_start(recipe: Values) -> Iterator[tuple[str, str]]:
    """An earlier run whose adapters would speak nowhere."""
    if recipe["start"] is None:
        return
    owners = [key for key, one in recipe["market"]["agents"].items() if one.get("adapter") == "own"]
    if recipe["method"] == "market" and owners:
        what = "gives agents without adapters of their own something to speak with"
        yield "start", f"{what}; {', '.join(owners)} has one"
    for section in ("training", "dpo"):
        if recipe[section]["restart"] == "base":
            yield "start", f"is given up by {section}.restart: base, which trains new adapters in each iteration"


def _of_prompts(prompts: Values) -> Iterator[tuple[str, str]]:
    """Formats that stand there twice, and words in braces that nothing fills in."""
    formats = prompts["formats"]
    if again := next((name for i, name in enumerate(formats) if name in formats[:i]), None):
        yield "prompts.formats", f"holds {again} twice"
    for key in ("system", "solo_system"):
        told = prompts[key] or ""
        for word in dict.fromkeys(PLACEHOLDER.findall("\n".join(told.values()) if isinstance(told, Mapping) else told)):
            if word not in _PLACEHOLDERS:
                inside = word.strip("{}")
                known = " and ".join(_PLACEHOLDERS)
                yield f"prompts.{key}", f"knows {known}, not {word}; write {{ {inside} }} for the word in braces"
