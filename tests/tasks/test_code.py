"""Rows in the layouts of HumanEval and MBPP; right solutions score, wrong ones do not."""

from __future__ import annotations

import pytest

from optima_lite.tasks import code, sandbox
from optima_lite.tasks.code import all_passed, extract, humaneval, mbpp, share_passed

walled = pytest.mark.skipif(bool(sandbox.missing()), reason=str(sandbox.missing()))

HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": "from typing import List\n\n\ndef evens(numbers: List[int]) -> List[int]:\n"
    '    """Keep the even ones.\n    >>> evens([1, 2])\n    [2]\n    """\n',
    "entry_point": "evens",
    "test": "def check(candidate):\n    assert candidate([1, 2, 4]) == [2, 4]\n    assert candidate([]) == []\n",
}
MBPP = {
    "task_id": 901,
    "text": "Write a function to add two numbers, and a third if given.",
    "test_list": ["assert add(1, 2) == 3", "assert add(1, 2, 3) == 6", "assert math.isclose(add(.1, .2), .3)"],
    "test_setup_code": "import math",
}


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
    monkeypatch.setattr(code, "LIMITS", sandbox.Limits(seconds=1.5, cpu=1))
    question = humaneval(HUMANEVAL)
    assert question.id == "HumanEval/900" and "evens" in question.text and len(question.answers) == 1
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
    question = mbpp(MBPP)
    assert question.id == "mbpp/901" and all(test in question.text for test in MBPP["test_list"])
    assert share_passed(answer, question.answers) == pytest.approx(share)
    assert all_passed(answer, question.answers) == whole


def test_the_sanitised_layout_of_mbpp() -> None:
    row = {"task_id": 2, "prompt": "Do it.", "test_list": ["assert f(1)"], "test_imports": ["import math", "import re"]}
    assert mbpp(row).answers == (f"import math\nimport re\n{code.SOLUTION}\nassert f(1)",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Here:\n```python\ndef f():\n    return 1\n```\nDone.", "def f():\n    return 1"),
        ("```\na = 1\n```\nbetter:\n```py\na = 2\n```", "a = 2"),
        ("```python\nnever closed", "never closed"),
        ("no code at all", None),
    ],
)
def test_the_last_fenced_block_is_the_answer(text: str, found: str | None) -> None:
    assert extract(text) == found


def test_a_missing_field_is_named() -> None:
    with pytest.raises(KeyError, match="test_list"):
        mbpp({"task_id": 1, "text": "x"})
