"""A message falls into the same steps however it comes in pieces, and never inside of code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.settings.workflow import Streaming
from optima_lite.team.segments import Segmenter, parts

MARKED, SENTENCES = Streaming(), Streaming(border="sentence")
CODE = "```python\nx = 'END_STEP'\n```"

pieces = st.lists(
    st.sampled_from(
        ["END_STEP", "END_", "STEP", "E", "one", " two", "\n", "```", "~~~", "`", " ", ".", "! ", "1.", "Dr. ", "py"]
    ),
    max_size=25,
)


def steps(texts: list[str], how: Streaming) -> list[str]:
    """All steps of a message that comes in these pieces, the last one without a border too."""
    segmenter = Segmenter(how)
    return [step for text in texts for step in segmenter.feed(text)] + [segmenter.take()]


@pytest.mark.parametrize("how", [MARKED, SENTENCES], ids=["marker", "sentence"])
@given(pieces)
def test_pieces_do_not_matter(how: Streaming, texts: list[str]) -> None:
    whole = "".join(texts)
    assert steps(texts, how) == steps([*whole], how)
    assert [step for step in steps([whole + "\n"], how) if step] == [
        step for step in steps([*whole, "\n"], how) if step
    ]


@given(pieces)
def test_nothing_but_markers_and_space_is_lost(texts: list[str]) -> None:
    whole = "".join(texts)
    kept = "".join(step.replace("END_STEP", "") for step in steps(texts, MARKED))  # in code a marker is text
    assert "".join(kept.split()) == "".join(whole.replace("END_STEP", "").split())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one END_STEP two END_STEP", ["one", "two"]),
        ("one END_STEP two", ["one", "two"]),  # the last marker is missing
        ("no marker at all", ["no marker at all"]),
        ("END_STEP END_STEP one END_STEP", ["one"]),  # empty steps
        ("", []),
        (f"one END_STEP\n{CODE}\ntwo END_STEP three", ["one", f"{CODE}\ntwo", "three"]),
        (f"{CODE}END_STEP two", [CODE, "two"]),
        (f"~~~\n{CODE}\nEND_STEP\n~~~\nEND_STEP two", [f"~~~\n{CODE}\nEND_STEP\n~~~", "two"]),
        ("````\n```\nEND_STEP\n````\nEND_STEP b", ["````\n```\nEND_STEP\n````", "b"]),
        ("```\nopen to the end END_STEP still code", ["```\nopen to the end END_STEP still code"]),
        ("```inline``` END_STEP two", ["```inline```", "two"]),
        ("a ``` b END_STEP c", ["a ``` b", "c"]),  # in the middle of a line nothing is a fence
    ],
)
def test_markers(text: str, found: list[str]) -> None:
    assert parts(text, MARKED) == found
    assert [step for step in steps([*text], MARKED) if step] == found


def test_any_text_may_be_the_marker() -> None:
    assert parts("a.*b.*c", Streaming(marker=".*")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('First. Second! "Third?" Fourth', ["First.", "Second!", '"Third?"', "Fourth"]),
        ("Pi is 3.14, e.g. by Dr. Lee. Yes.", ["Pi is 3.14, e.g. by Dr. Lee.", "Yes."]),
        ("1. Add them.\n2. Done.", ["1. Add them.", "2. Done."]),
        ("a line\n\nanother one", ["a line", "another one"]),
        ("So:\n```\na. b\nc. d\n```\nEnd.", ["So:", "```\na. b\nc. d\n```", "End."]),
    ],
)
def test_sentences(text: str, found: list[str]) -> None:
    assert parts(text, SENTENCES) == found


def test_a_step_that_is_taken_before_its_border_leaves_an_open_block_open() -> None:
    segmenter = Segmenter(MARKED)
    assert segmenter.feed("```\nx = 1") == []
    assert segmenter.take() == "```\nx = 1"
    assert segmenter.feed("\nEND_STEP\n```\nEND_STEP") == ["END_STEP\n```"]
