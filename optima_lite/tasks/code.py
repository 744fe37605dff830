"""Programming tasks: rows to questions whose gold answers are tests, and what share of them an answer passes.

A gold answer is a program with the line `SOLUTION` in it, where the answer goes. It runs in the sandbox alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..records import Question
from .sandbox import Limits, Verdict, run

SOLUTION = "# the solution"
LIMITS = Limits()
_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


def humaneval(row: Mapping[str, Any]) -> Question:
    """A row of HumanEval: `task_id`, `prompt`, `entry_point`, `test`. One gold answer: all of its checks, which is how
    its authors count. Raises KeyError for a missing field."""
    prompt, name = str(row["prompt"]), str(row["entry_point"])
    before = re.split(rf"^def {re.escape(name)}\b", prompt, maxsplit=1, flags=re.MULTILINE)[0]
    test = f"{before.strip()}\n{SOLUTION}\n{row['test']}\ncheck({name})"
    text = f"Write the whole Python function `{name}`.\n\n{prompt.strip()}"
    return Question(str(row["task_id"]), text, (test.strip(),), ((), ()))


def mbpp(row: Mapping[str, Any]) -> Question:
    """A row of MBPP: `task_id`, `text` or `prompt`, `test_list`, and `test_setup_code` or `test_imports`. One gold
    answer for each test; the tests are shown, because they alone tell the function's name. Raises KeyError."""
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    tests = [str(test) for test in row["test_list"]]
    told = row["text"] if "text" in row else row["prompt"]
    text = "\n".join([str(told).strip(), "The function must pass these tests:", *tests])
    golds = tuple(f"{setup}\n{SOLUTION}\n{test}".strip() for test in tests)
    return Question(f"mbpp/{row['task_id']}", text, golds, ((), ()))


def extract(text: str) -> str | None:
    """The last fenced block of a message, without its fence; one that was never closed goes to the end."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else None


def share_passed(answer: str | None, tests: Sequence[str]) -> float:
    """The share of the tests that a solution passes, each in a sandbox of its own."""
    return sum(outcome(answer, test) is Verdict.PASSED for test in tests) / len(tests) if answer else 0.0


def all_passed(answer: str | None, tests: Sequence[str]) -> float:
    """pass@1: 1 where a solution passes every test, else 0; stops at the first that fails."""
    return float(bool(answer) and all(outcome(answer or "", test) is Verdict.PASSED for test in tests))


@lru_cache(maxsize=4096)
def outcome(answer: str, test: str) -> Verdict:
    """How a solution ended in one test."""
    return run(test.replace(SOLUTION, answer), LIMITS).verdict
