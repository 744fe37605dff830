"""Right and terse talks about questions of the bundled world, as others would store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optima_lite.records import Question


def said_about(question: Question) -> list[str]:
    """Three or four messages, the first of Alice: whoever holds the first hop says it, the other one answers."""
    first, second = question.supporting
    *known, value = second.split()
    answer = f" {' '.join(known)} <A> {value} </A>"
    share = [f" {first}", answer, f" <A> {value} </A>"]
    return share if first in question.contexts[0] else [" ?", *share]


def openai_row(question: Question, roles: Sequence[str] = (), *, said: Sequence[str] = ()) -> dict[str, Any]:
    """OpenAI's layout, Alice as the user unless the roles are others."""
    texts = said or said_about(question)
    who = roles or [("user", "assistant")[k % 2] for k in range(len(texts))]
    messages = [{"role": role, "content": text} for role, text in zip(who, texts, strict=False)]
    return {**_about(question), "messages": messages}


def sharegpt_row(question: Question) -> dict[str, Any]:
    """ShareGPT's layout."""
    said = enumerate(said_about(question))
    turns = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in said]
    return {**_about(question), "conversations": turns}


def _about(question: Question) -> dict[str, Any]:
    return {"question": question.text, "answers": question.answers, "contexts": question.contexts}
