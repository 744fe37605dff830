"""Rows in the layouts of HumanEval and MBPP; right solutions score, wrong ones do not."""

from __future__ import annotations

import pytest

from optima_lite.errors import ConfigError
from optima_lite.records import Question
from optima_lite.tasks import answers, code, sandbox
from optima_lite.tasks.answers import Scoring
from optima_lite.tasks.code import all_passed, extract, humaneval, mbpp, share_passed, shown

walled = pytest.mark.skipif(bool(sandbox.missing()), reason=str(sandbox.missing()))

HUMANEVAL = (
    "from typing import List\n\n\ndef evens(numbers: List[int]) -> List[int]:\n"
    '    """Keep the even ones.\n    >>> evens([1, 2])\n    [2]\n    """\n',
    "evens",
    "def check(candidate):\n    assert candidate([1, 2, 4]) == [2, 4]\n    assert candidate([]) == []\n",
)
MBPP = (
    "Write a function to add two numbers, and a third if given.",
    ["assert add(1, 2) == 3", "assert add(1, 2, 3) == 6", "assert math.isclose(add(.1, .2), .3)"],
    "import math",
)


def asked(task: code.Task) -> Question:
    return Question("q", *task, ((), ()))


@walled
@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("def evens(numbers: List[int]) -> List[int]:\n    return [n for n in numbers if n % 2 == 0]", 1.0),
        ("def evens(numbers):\n    return numbers", 0.0),
        ("def evens(numbers):\n    while True: pass", 0.0),
        ("def odds(numbers):\n    return []", 0.0),
        ("import sys; sys.exit(0)", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_humaneval(answer: str | None, score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "LIMITS", sandbox.Limits(seconds=8, cpu=1))
    question = asked(humaneval(*HUMANEVAL))
    assert "evens" in question.text and len(question.answers) == 1
    assert all_passed(answer, question.answers) == share_passed(answer, question.answers) == score


@walled
@pytest.mark.parametrize(
    ("answer", "share", "whole"),
    [
        ("def add(a, b, c=0):\n    return a + b + c", 1.0, 1.0),
        ("def add(a, b):\n    return a + b", 2 / 3, 0.0),
        ("def add(a, b):\n    return a - b", 0.0, 0.0),
    ],
)
def test_mbpp(answer: str, share: float, whole: float) -> None:
    question = asked(mbpp(*MBPP))
    assert all(test in question.text for test in MBPP[1])
    assert share_passed(answer, question.answers) == pytest.approx(share)
    assert all_passed(answer, question.answers) == whole


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Here:\n```python\ndef f():\n    return 1\n```\nDone.", "def f():\n    return 1"),
        ("```\na = 1\n```\nbetter:\n```py\na = 2\n```", "a = 2"),
        ("```python\nnever closed", "never closed"),
        ("```java\nint a;\n```\nthen\n```python\na = 3\n```", "a = 3"),
        ("no code at all", None),
    ],
)
def test_the_last_fenced_block_is_the_answer(text: str, found: str | None) -> None:
    assert extract(text) == found


def test_the_same_solution_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def run(program: str, limits: sandbox.Limits, *, before: str, test: str) -> sandbox.Outcome:
        assert program == "counted = 1" and before.strip() == "import math"
        runs.append(test)
        return sandbox.Outcome(sandbox.Verdict.PASSED)

    monkeypatch.setattr(code, "run", run)
    code.outcome.cache_clear()
    tests = mbpp(*MBPP)[1]
    for metric in ("tests", "pass", "tests"):
        assert Scoring(metric).score("counted = 1", tests) == 1
        assert Scoring(metric, str.split).score("counted = 1", tests) == 1, "official scoring has no rule for programs"
    assert len(runs) == 3
    code.outcome.cache_clear()


def test_programs_agree_when_they_are_spelled_the_same() -> None:
    assert answers.agree("a = 1\n", "a = 1", metric="pass")
    assert not answers.agree("a = [1]", "a = (1)", metric="pass") and answers.agree("a = [1]", "a = (1)")


def test_the_answer_of_a_message_is_its_code() -> None:
    message = "<A>7</A>\n```python\nx = 1\n```"
    assert answers.extract(message, metric="tests") == answers.extract_flexibly(message, metric="pass") == "x = 1"
    assert answers.extract(message) == "7"
    assert answers.extract("12 lines", metric="pass") is answers.extract_flexibly("12 lines", metric="pass") is None
    assert answers.extract("```python\n```", metric="pass") is None


def test_only_what_the_question_shows_is_run_for_the_team() -> None:
    """HumanEval hides the tests that decide; its docstring's examples are no secret."""
    question = asked(humaneval(*HUMANEVAL))
    (example,) = shown(question)
    assert example.splitlines() == [
        "from typing import List",
        "# the solution",
        "found = evens([1, 2])",
        "assert found == [2], f'found {found!r}'",
    ]
    assert "candidate" not in example
    known = asked(mbpp(*MBPP))
    assert shown(known) == known.answers


@pytest.mark.parametrize(
    ("docstring", "examples"),
    [
        (">>> f(1)\n    2", ["f(1)"]),
        (">>>f(1)\n    2\n    >>> f('a')\n    'b'\n", ["f(1)", "f('a')"]),
        (">>> f(1)\n    two things\n    >>> f(2)\n    (1, 2)", ["f(2)"]),
        (">>> x = 1\n    >>> f(x)\n", []),
        (">>> f(", []),
        ("f(1) -> 2", []),
    ],
)
def test_examples_of_an_expression_and_its_value(docstring: str, examples: list[str]) -> None:
    prompt = f'def f(x):\n    """Do it.\n    {docstring}\n    """\n'
    found = shown(asked(humaneval(prompt, "f", "def check(candidate):\n    pass")))
    assert [test.partition("found = ")[2].partition("\n")[0] for test in found] == (examples or [""])
    assert examples or found == (code.SOLUTION,), "without any the code is only loaded"


def test_a_question_of_nobody_s_has_no_tests() -> None:
    assert shown(Question("chat", "What is 1 + 1?", ("",), ((), ()))) == (code.SOLUTION,)


def test_code_is_run_only_where_that_is_allowed_and_can_be_contained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: None)
    answers.require("pass", allow_code=True)
    answers.require("f1")
    with pytest.raises(ConfigError, match="not allowed on this machine") as caught:
        answers.require("tests")
    assert "allow_code = true in optima_lite.toml" in str(caught.value.hint)
    monkeypatch.setattr(sandbox, "missing", lambda: "no walls")
    with pytest.raises(ConfigError, match="cannot be contained here: no walls"):
        answers.require("tests", allow_code=True)
