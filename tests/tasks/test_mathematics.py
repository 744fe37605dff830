"""Mathematical answers: out of any text, in one spelling, compared by value, and never for longer than allowed."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.errors import ConfigError
from optima_lite.settings import schemas
from optima_lite.tasks import answers, forms
from optima_lite.tasks.bounded import Worker
from optima_lite.tasks.mathematics import boxed, canonical

FORMULA_TEXT = st.text() | st.text(alphabet="\\boxed{}fracsqtx 12,.$^_!", max_size=60)
needs_library = pytest.mark.skipif(not answers.installed("math"), reason="the extra `math` is not installed")


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (r"So $\boxed{5}$.", "5"),
        (r"\boxed{5} or rather \boxed{6}", "6"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {7}", "7"),
        (r"\boxed{5} and \boxed{\frac{a}{b", "5"),
        (r"{{ \boxed{5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{ }", None),
        (r"\boxed 5", None),
        (r"\boxed{\boxed{5}", "5"),
        (r"<A>4</A> so \boxed{5}", "5"),
        (r"\boxed{5} so <A>4</A>", "4"),
        (r"<A>$\boxed{5}$</A>", "5"),
    ],
)
def test_the_last_box_is_the_answer(message: str, answer: str | None) -> None:
    assert answers.extract(message) == answer


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (r"First 3, then 4, so \boxed{5}.", "5"),
        ("First 3, then 1,004 clips.", "1,004"),
        ("<A>Paris</A> in 1900", "Paris"),
        ("No idea.", None),
    ],
)
def test_flexible_extraction_falls_back_on_the_last_number(message: str, answer: str | None) -> None:
    assert answers.extract_flexibly(message) == answer


def test_extraction_is_linear_in_open_boxes() -> None:
    assert answers.extract(r"\boxed{" * 100_000) is None


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        (r" \dfrac 12 ", r"\frac{1}{2}"),
        (r"\frac1{2}", r"\frac{1}{2}"),
        (r"\tfrac{1}2", r"\frac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\left( 1 , 2 \right)", "(1,2)"),
        (r"85,\!184", "85184"),
        ("1,234,567", "1234567"),
        ("1{,}000.5", "1000.5"),
        (r"\$1,000", "1000"),
        (r"5\text{ cm}^2", "5"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"$5$.", "5"),
        (r"\text{Friday}", "friday"),
        ("72 apple trees", "72"),
        ("5 million people", "5 million people"),
        (r"5\text{ million}", "5 million"),
        ("2 sin x", "2 sin x"),
        ("New  York", "new york"),
        ("27,93", "27,93"),
        ("100,200,3", "100,200,3"),
        ("2 1/2", "2 1/2"),
        (r"x^{2}", "x^2"),
        ("\u22125", "-5"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        ("x" * 1001, "x" * 1001),
    ],
)
def test_canonical(text: str, spelling: str) -> None:
    assert canonical(text) == spelling


def test_agreement_under_math_is_about_formulas() -> None:
    assert answers.agree(r"\dfrac12", r"$\frac{1}{2}$", metric="math")
    assert not answers.agree("x+1", "x-1", metric="math")
    assert not answers.agree(r"\frac{1}{23}", r"\frac{12}{3}", metric="math")


@needs_library
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.5", r"\frac{1}{2}", True),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
        ("x+1", "1+x", True),
        ("x = 5", "5", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("72 clips", "72", True),
        ("(1,2)", "(2,1)", False),
        ("[1,2]", "(1,2)", False),
        ("72 or 73", "73", False),
        ("204_5", "204", False),
        ("stressed", "desserts", False),
        ("", "5", False),
    ],
)
def test_formulas_are_compared_by_value(one: str, other: str, same: bool) -> None:
    assert answers.score("math", one, ["no answer at all", other]) == same


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optima_lite.tasks.mathematics.LIBRARY", "no_such_library")
    with pytest.raises(ConfigError) as caught:
        answers.math("1", ["1"])
    assert str(caught.value) == (
        "task.metric math needs the library math-verify, which is not installed\n"
        "  try: in the clone: pip install '.[math]', or set task.metric=numeric where all answers are numbers"
    )


@given(FORMULA_TEXT)
def test_any_text_has_a_spelling_and_perhaps_a_box(text: str) -> None:
    assert answers.agree(text, text, metric="math")
    found = boxed(text)
    assert found is None or text[found[0] :].startswith(("\\boxed", "\\fbox"))


@given(FORMULA_TEXT, st.text(alphabet="xyz12+", min_size=1))
def test_a_box_is_found_after_any_text(before: str, answer: str) -> None:
    assert answers.extract(f"{before} \\boxed{{{answer}}} and so on") == answer


# What can be written differently without being another answer, and what is another answer.


def rewrites(gold: str) -> list[str]:
    """Harmless rewrites of a gold answer."""
    spaced = re.sub(r"([=+,&()])(?!\\)", r" \1 ", gold.replace(r",\!", "")) if r"\text" not in gold else gold
    texts = [gold, f"  {gold} ", f"${gold}$", f"{gold}.", spaced]
    texts += [re.sub(r"\\[dt]?frac", command, gold) for command in (r"\\frac", r"\\dfrac", r"\\tfrac")]
    texts += [gold.replace(r",\!", mark) for mark in (",", "{,}", "")]
    if gold[-1] in "0123456789}" and "_" not in gold:
        texts += [gold + unit for unit in (r"\text{ cm}", r" \text{ dollars}", r"\mbox{ units}^2")]
    plain = gold.replace(r",\!", "").replace(",", "")
    if re.fullmatch(r"-?\d+", plain) and gold != "27,93":
        texts += [f"{int(plain):,}", f"{int(plain):,}".replace(",", "{,}"), rf"\${plain}", f"{plain}.0", f"{plain} cm"]
    return list(dict.fromkeys(texts))


def perturbed(gold: str, others: list[str], rng: random.Random) -> list[str]:
    """Five answers that are wrong: a digit or a sign changed where there is one, else other rows' answers."""
    wrong = []
    for digit in re.finditer(r"\d", gold):
        step = rng.choice((1, 3, 7))
        wrong.append(gold[: digit.start()] + str((int(digit[0]) + step) % 10) + gold[digit.end() :])
    wrong = rng.sample(wrong, min(3, len(wrong)))
    if re.fullmatch(r"[\d,.!\\]*[1-9][\d,.!\\]*|\\frac\{\d+\}\{\d+\}", gold):
        wrong.append(f"-{gold}")
    while len(wrong) < 5:
        other = rng.choice(others)
        if canonical(other) not in map(canonical, [gold, *wrong]):
            wrong.append(other)
    return wrong


def gold_answers(folder: Path) -> Iterator[str]:
    for line in (folder / "math.jsonl").read_text(encoding="utf-8").splitlines():
        found = boxed(json.loads(line)["solution"])
        assert found, line
        yield found[1]
    for line in (folder / "gsm8k.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["answer"].split("####")[1].strip()


@needs_library
def test_real_answers_equal_their_rewrites_and_no_perturbed_ones(real_data: Path) -> None:
    golds, rng = list(gold_answers(real_data)), random.Random(0)
    same = [(gold, text) for gold in golds for text in rewrites(gold)]
    other = [(gold, text) for gold in golds for text in perturbed(gold, golds, rng)]
    missed = [(gold, text) for gold, text in same if answers.math(text, [gold]) != 1]
    mixed_up = [(gold, text) for gold, text in other if answers.math(text, [gold]) != 0]
    print(f"{len(same) - len(missed)} of {len(same)} equal, {len(other) - len(mixed_up)} of {len(other)} unequal")
    assert (len(golds), len(other)) == (260, 1300)
    assert not missed
    assert not mixed_up


def messages(count: int) -> Iterator[str]:
    """Texts that a broken or hostile model could write."""
    rng = random.Random(0)
    pieces = [
        "<A>", "</A>", "<a>", "<A", "\\boxed{", "\\boxed", "{", "}", "\\{", "\\frac", "\\frac{1}{", "\\sqrt[", "$",
        "$$", "\\left(", "\\right", "^", "_", "\\", "\\text{", "72", "-3.5", "1/0", "1e999", ",", "\x00", "\ud800",
        "\udfff", "\u202e\u05e9\u05dc\u05d5\u05dd", "\u0663", "\u221e", "\n", "\r", "\u2028", " ", "Paris",
        "\\begin{pmatrix}", "\\end{pmatrix}", "&", "%", "\\infty", "#", "\\int_0^1", "\\sum", "!", "9" * 50,
    ]  # fmt: skip
    whole = ["9^{9^{9^9}}", "10000000!", "{" * 300, "x" * 100_000, "\\frac{" * 90, "<A>" * 30_000, "(" * 50_000]
    for number in range(count):
        inside = rng.choice(whole) if number % 200 == 7 else "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        shapes = ["{}", "<A>{}</A>", "\\boxed{{{}}}", "Then <A>{}", "x \\boxed{{{}", "{}</A>", "$\\boxed{{{}}}$ done"]
        yield rng.choice(shapes if number % 200 != 7 else shapes[1:3]).format(inside)


def test_numbers_are_numbers_however_latex_spells_them(real_data: Path) -> None:
    golds, rng = [gold for gold in gold_answers(real_data)][140:], random.Random(0)
    same = [(gold, text) for gold in golds for text in rewrites(gold)]
    other = [(gold, text) for gold in golds for text in perturbed(gold, golds, rng)]
    print(f"{len(same)} rewrites and {len(other)} wrong answers of {len(golds)}")
    assert not [(gold, text) for gold, text in same if answers.numeric(text, [gold]) != 1]
    assert not [(gold, text) for gold, text in other if answers.numeric(text, [gold]) != 0]


FORM = {"type": "object", "properties": {"facts": {"type": "array", "items": {"pattern": "^[^<]*$"}}}}


@needs_library
@pytest.mark.skipif(not schemas.installed(), reason="the extra `schema` is not installed")
@pytest.mark.slow
def test_no_message_breaks_or_hangs_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("optima_lite.tasks.mathematics:equal", seconds=1)
    monkeypatch.setattr(answers, "_EQUAL", worker)
    monkeypatch.setattr(answers, "_OFFICIAL_EQUAL", Worker("optima_lite.tasks.official:math_equal", seconds=1))
    slowest, compared = 0.0, 0
    for message in messages(1000):
        started = time.monotonic()
        for found in {answers.extract(message), answers.extract_flexibly(message)}:
            for metric in ("f1", "exact", "numeric", "math"):
                compared += found is not None
                for scoring in (answers.Scoring(metric), answers.Scoring(metric, tokenize=str.split)):
                    assert 0 <= scoring.score(found, ["72", r"\frac{1}{2}"]) <= 1
        for metric in ("f1", "exact", "numeric"):
            assert 0 <= answers.score(metric, message, ["72"]) <= 1
        for text in (message, json.dumps({"facts": [message]})):
            assert forms.valid(text, FORM) in (True, False)
        slowest = max(slowest, time.monotonic() - started)
    print(f"{compared} scores, {worker.undecided} undecided comparisons, slowest message {slowest:.1f} s")
    assert slowest < 30
    assert worker.undecided < 30
