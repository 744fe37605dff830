"""Answers out of any text, and how they compare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.tasks import answers

ANY_TEXT = st.text() | st.text(alphabet="<A>/a \n.-5,$%")
WORDS = st.text(alphabet="abthen 0123456789.,-'/$", max_size=30)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("<A>Paris</A>", "Paris"),
        ("It is <A> Porto\n</A>.", "Porto"),
        ("<A>one</A> no, <A>two</A> then", "two"),
        ("<A><A>x</A></A>", "x"),
        ("<A>x</A> stray </A>", "x"),
        ("<A>x</A> and <A>cut off", "x"),
        ("<A>line\nbreak</A>", "line\nbreak"),
        ("<A>北京</A>", "北京"),
        ("<A>a < b > c</A>", "a < b > c"),
        ("<A>one</A> then <A> </A>", None),  # the last mark counts, and it is empty
        ("<a>x</a>", None),
        ("</A>x<A>", None),
        ("<A>x", None),
        ("no mark", None),
        ("", None),
    ],
)
def test_extract(message: str, answer: str | None) -> None:
    assert answers.extract(message) == answer


def test_extract_is_linear_in_unclosed_marks() -> None:
    assert answers.extract("<A>" * 200_000) is None  # a quadratic search would take minutes


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("U.S.", "us"),
        ("rock-and-roll", "rockandroll"),
        ("O\u2019Neil", "oneil"),
        ("\uff21\u3000\uff42", "b"),
        ("Straße", "strasse"),
        ("1,000 people", "1000 people"),
        ("3.5", "3.5"),
        ("1/2", "1/2"),
        ("10:30 a.m.", "10:30 am"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("-.5", "-.5"),
        ("1990-1995", "19901995"),
        ("5.", "5"),
        ("A", "a"),
        ("the", "the"),
        ("+", "+"),
        ("हिन्दी", "हिन्दी"),
        (" \n", ""),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert answers.normalise(text) == normal


@pytest.mark.parametrize(
    ("one", "other"), [("A", "B"), ("+", "-"), ("3.5", "35"), ("-5", "5"), ("कि", "की"), ("?", "the")]
)
def test_different_answers_do_not_agree(one: str, other: str) -> None:
    assert not answers.agree(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("the Alps", "Alps"), ("PARIS.", "paris"), ("$1,000", "1000"), ("e\u0301", "é")]
)
def test_same_answers_agree(one: str, other: str) -> None:
    assert answers.agree(one, other)


def test_f1_is_the_best_over_the_accepted_answers() -> None:
    assert answers.f1("Paris, France", ["Lyon", "Paris"]) == pytest.approx(2 / 3)
    assert answers.f1("green green tea", ["green tea"]) == pytest.approx(0.8)  # a repeated word counts once
    assert answers.f1("tea", ["coffee"]) == 0
    assert answers.f1("", [""]) == 0
    assert answers.f1("tea", []) == 0


@pytest.mark.parametrize(
    "prediction", ["1000", "1,000", "1000.0", "$1,000", "1,000.00 dollars", "= 1000", "1e3", "1000%", "2000/2"]
)
def test_numeric_reads_the_number_in_any_clothes(prediction: str) -> None:
    assert answers.numeric(prediction, ["1,000"]) == 1


@pytest.mark.parametrize(
    "prediction", ["1001", "-1000", "1000 or 1001", "1,00", "1.000", "a thousand", "", "1000:00", "1/0", "1e9999"]
)
def test_numeric_refuses(prediction: str) -> None:
    assert answers.numeric(prediction, ["1,000"]) == 0


def test_numeric_compares_other_answers_as_text() -> None:
    assert answers.numeric("The cat", ["cat"]) == 1
    assert answers.numeric("dog", ["cat"]) == 0


def test_a_huge_number_is_no_error() -> None:
    assert answers.number("9" * 10_000) is None
    assert answers.number("1e999") == 10**999


def test_score_picks_the_metric() -> None:
    assert answers.score("f1", "Paris, France", ["Paris"]) == pytest.approx(2 / 3)
    assert answers.score("exact", "Paris, France", ["Paris"]) == 0
    assert answers.score("numeric", "72 clips", ["72"]) == 1
    assert answers.score("f1", None, ["Paris"]) == 0


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("Paris", "Paris", 1),
        ("The Paris, of France!", "paris", 0.5),  # precision 1/3, recall 1
        ("city of Paris", "Paris France", 0.4),  # precision 1/3, recall 1/2
        ("yes", "yes", 1),
        ("Yes.", "yes", 1),
        ("yes it is", "yes", 0),  # F1 of words alone would be 1/2
        ("no", "no way", 0),
        ("noanswer", "no answer", 0),
        ("3.5", "35", 1),  # all punctuation goes
        ("rock-and-roll", "rockandroll", 1),
        ("the", "the", 0),  # nothing is left of either
        ("London", "Paris", 0),
        (None, "Paris", 0),
    ],
)
def test_hotpotqa_s_own_f1(prediction: str | None, answer: str, score: float) -> None:
    assert answers.hotpot_f1(prediction, [answer]) == pytest.approx(score)


def test_hotpotqa_s_own_f1_takes_the_best_of_several_answers() -> None:
    assert answers.hotpot_f1("Paris", ["London", "Paris"]) == 1
    assert answers.hotpot_f1("Paris", []) == 0


@given(ANY_TEXT)
def test_nothing_raises_and_every_text_agrees_with_itself(text: str) -> None:
    extracted = answers.extract(text)
    assert extracted is None or (extracted and extracted == extracted.strip())
    assert answers.agree(text, text)
    assert bool(answers.normalise(text)) == bool(text.split())
    for metric in ("f1", "exact", "numeric"):
        assert 0 <= answers.score(metric, text, [text, "x"]) <= 1
    assert 0 <= answers.hotpot_f1(text, [text, "x"]) <= 1


@given(ANY_TEXT, st.text(alphabet="abc <>/", min_size=1))
def test_a_mark_is_found_after_any_text(before: str, answer: str) -> None:
    if answer.strip():
        assert answers.extract(f"{before}<A>{answer}</A> and so on") == answer.strip()


@given(WORDS)
def test_normalise_is_stable(text: str) -> None:
    assert answers.normalise(answers.normalise(text)) == answers.normalise(text)


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_one_only_for_the_same_words(one: str, other: str) -> None:
    value = answers.f1(one, [other])
    assert value == answers.f1(other, [one])
    assert (value == 1) == (sorted(answers.normalise(one).split()) == sorted(answers.normalise(other).split()) != [])


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["{:,}", "${:,}", "{} apples", "{}.00", "about {:,} %", "{}.", "x = {}"]),
)
def test_a_number_survives_its_spelling(value: int, spelling: str) -> None:
    assert answers.number(spelling.format(value)) == value
