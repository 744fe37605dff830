"""What is taken from a message: items, verdicts, code, JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.settings.workflow import Parse, Step
from optima_lite.team import parsing


def step(parse: Parse, at_most: int = 3) -> Step:
    return Step("s", "A", parse=parse, at_most=at_most)


@pytest.mark.parametrize(
    ("parse", "text", "value", "valid"),
    [
        ("text", "as it is", "as it is", True),
        ("answer", "so <A>Tess</A>", "Tess", True),
        ("answer", "no mark", "no mark", False),
        ("list", "First:\n1. a\n 2) b \n- c\n* d", "1. a\n2. b\n3. c", True),
        ("list", "3.5 is no item, nor is 1.x", "3.5 is no item, nor is 1.x", False),
        ("verdict", "ACCEPT", "ACCEPT", True),
        ("code", "try\n```python\nx = 1\n```\nor\n```\ny = 2\n```", "y = 2", True),
        ("code", "x = 1", "x = 1", False),
        ("json", ' {"a": [1]} ', '{"a": [1]}', True),
        ("json", "{a}", "{a}", False),
    ],
)
def test_what_a_message_holds(parse: Parse, text: str, value: str, valid: bool) -> None:
    assert parsing.value(step(parse), text) == value
    assert parsing.valid(step(parse), text) == valid


@pytest.mark.parametrize(
    ("text", "accepts"),
    [
        ("ACCEPT", True),
        ("accepted.", True),
        ("I do not accept: REVISE", False),
        ("unacceptable", False),
        ("", False),
    ],
)
def test_a_verdict_is_the_last_word_of_its_kind(text: str, accepts: bool) -> None:
    assert parsing.accepts(text) == accepts


@given(st.text(), st.sampled_from(("text", "answer", "list", "verdict", "code", "json")))
def test_no_text_is_trouble(text: str, parse: Parse) -> None:
    parsing.value(step(parse), text)
    parsing.valid(step(parse), text)
    assert isinstance(parsing.accepts(text), bool)
