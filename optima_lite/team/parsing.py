"""What steps take from a message for those that come after it: items, a verdict, code, JSON. No text raises.

What cannot be parsed is read as it was said: the next step then sees a bad message, as a partner would.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..settings.workflow import Step
from ..tasks import code as programs
from ..tasks import forms
from ..tasks.answers import extract

_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\(?[0-9]{1,3}[.):])[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_VERDICT = re.compile(r"\b(accept(?:ed)?|revise|reject(?:ed)?)\b", re.IGNORECASE)


def value(step: Step, text: str) -> str:
    """What others read of a step's message."""
    match step.parse:
        case "answer":
            return extract(text) or text
        case "list":
            return numbered(items(text, step.at_most)) or text
        case "verdict":
            return text
        case "code":
            return code(text)
        case "json":
            found = parsed_json(text, step)
            return text if found is None else json.dumps(found, ensure_ascii=False)
        case "text":
            return text


def valid(step: Step, text: str) -> bool:
    """Whether a message holds what its step is to say."""
    match step.parse:
        case "answer":
            return extract(text) is not None
        case "list":
            return bool(items(text, step.at_most))
        case "verdict":
            return _VERDICT.search(text) is not None
        case "code":
            return programs.extract(text) is not None
        case "json":
            return parsed_json(text, step) is not None
        case "text":
            return bool(text.strip())


def items(text: str, at_most: int) -> list[str]:
    """The numbered or bulleted lines of a message, without their marks; the first `at_most`."""
    return _ITEM.findall(text)[:at_most]


def numbered(values: list[str]) -> str:
    """Texts as numbered lines."""
    return "\n".join(f"{number}. {text}" for number, text in enumerate(values, start=1))


def accepts(text: str) -> bool:
    """Whether the last of the words accept, revise and reject in a message is accept; without any it is not."""
    words = _VERDICT.findall(text)
    return bool(words) and words[-1].casefold().startswith("accept")


def code(text: str) -> str:
    """The last fenced block of a message, else all of it."""
    found = programs.extract(text)
    return text if found is None else found


def parsed_json(text: str, step: Step) -> Any:
    """The JSON that a message is, valid by its step's schema if it has one; None if it is none."""
    if len(text) > forms.LONGEST or (step.schema and not forms.valid(text, step.schema)):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
