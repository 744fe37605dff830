"""What is taken from a message: items, verdicts, code, JSON; and what a search for facts finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import Question
from optima_lite.settings.workflow import Parse, Step
from optima_lite.team import parsing
from optima_lite.team.tools import NOTHING, best, retrieve


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


FACTS = ("Mira mother Tess", "Tess home Oakton", "Ravik boss Mira", "Oakton country Alder")


def test_each_line_finds_its_facts_the_best_first() -> None:
    asked = Question("q", "?", ("x",), (FACTS[:2], FACTS[2:]))
    assert (
        retrieve(asked, "1. mother of Mira?\n2. home of Tess?", at_most=1) == "- Mira mother Tess\n- Tess home Oakton"
    )
    assert retrieve(asked, "nobody", at_most=3) == NOTHING
    assert retrieve(Question("q", "?", ("x",), ((), ())), "Mira", at_most=3) == NOTHING
    assert best(FACTS, "MIRA", at_most=9) == [0, 2], "equals in their order"


@given(st.lists(st.text(max_size=30), max_size=6), st.text(max_size=30), st.integers(1, 9))
def test_whatever_is_searched_for_what_is_found_shares_a_word(texts: list[str], query: str, at_most: int) -> None:
    found = best(texts, query, at_most=at_most)
    assert len(found) == len(set(found)) <= at_most
