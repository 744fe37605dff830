"""Programming tasks: questions whose gold answers are tests, and what share of them an answer passes.

A gold answer is a program with the line `SOLUTION` in it, where the answer goes: what stands before it is for both, and
what stands after it tests the answer. Both run in the sandbox alone, in a process each.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ..errors import ConfigError
from ..records import Question
from . import sandbox
from .sandbox import Limits, Outcome, Verdict, run

SOLUTION = "# the solution"
LIMITS = Limits()
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)(?:^```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^[ \t]*>>>[ \t]*(\S.*)\n[ \t]*(\S.*)$", re.MULTILINE)

Task = tuple[str, tuple[str, ...]]
"""What is asked, and the gold answers."""


def humaneval(prompt: str, name: str, test: str) -> Task:
    """A row of HumanEval by its columns `prompt`, `entry_point` and `test`. One gold answer: all of its checks, which
    is how its authors count."""
    before = re.split(rf"^def {re.escape(name)}\b", prompt, maxsplit=1, flags=re.MULTILINE)[0]
    gold = f"{before.strip()}\n{SOLUTION}\n{test}\ncheck({name})"
    return f"Write the whole Python function `{name}`.\n\n{prompt.strip()}", (gold.strip(),)


def mbpp(told: str, tests: Sequence[str], setup: str) -> Task:
    """A row of MBPP by its text, its tests and what has to run before them. One gold answer for each test; the tests
    are shown, because they alone tell the function's name."""
    text = "\n".join([told.strip(), "The function must pass these tests:", *tests])
    return text, tuple(f"{setup}\n{SOLUTION}\n{test}".strip() for test in tests)


def extract(text: str) -> str | None:
    """The last fenced block of a message, without its fence; one that was never closed goes to the end."""
    blocks = _FENCE.findall(text)
    return blocks[-1].rstrip("\n") if blocks else None


def shown(question: Question) -> tuple[str, ...]:
    """The tests that a question's own text shows, so that whoever runs them learns nothing new: gold answers that stand
    in it, else its `>>>` examples; without either one that only loads the solution."""
    golds = [gold for gold in question.answers if SOLUTION in gold]
    told = tuple(gold for gold in golds if gold.partition(SOLUTION)[2].strip() in question.text)
    if told:
        return told
    begin = f"{golds[0].partition(SOLUTION)[0]}{SOLUTION}" if golds else SOLUTION
    return tuple(f"{begin}\n{example}" for example in _examples(question.text)) or (begin,)


def _examples(text: str) -> Iterator[str]:
    """The examples in a docstring as programs: those of one expression and the value that it is to have."""
    for asked, wanted in _EXAMPLE.findall(text):
        try:
            ast.parse(asked, mode="eval")
            ast.literal_eval(wanted.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # what is printed, a statement, an ellipsis
            continue
        yield f"found = {asked}\nassert found == {wanted.strip()}, f'found {{found!r}}'"


def share_passed(answer: str | None, tests: Sequence[str]) -> float:
    """The share of the tests that a solution passes, each in a sandbox of its own."""
    return sum(outcome(answer, test).verdict is Verdict.PASSED for test in tests) / len(tests) if answer else 0.0


def all_passed(answer: str | None, tests: Sequence[str]) -> float:
    """pass@1: 1 where a solution passes every test, else 0; stops at the first that fails."""
    return float(bool(answer) and all(outcome(answer or "", test).verdict is Verdict.PASSED for test in tests))


@lru_cache(maxsize=65_536)  # more than an iteration writes; an outcome is a line
def outcome(answer: str, test: str) -> Outcome:
    """How a solution ended in one test; each is run once in a process."""
    before, _, checks = test.partition(SOLUTION)
    return run(answer, LIMITS, before=before, test=checks)


def require(*, allowed: bool) -> None:
    """Raises ConfigError where programs that a model writes may not be run, or cannot be contained."""
    runs = "this recipe runs programs that the model writes, to test them"
    if not allowed:
        hint = "set allow_code = true in optima_lite.toml; each then runs walled in, without network and files"
        raise ConfigError(f"{runs}, and that is not allowed on this machine", hint=hint)
    if reason := sandbox.missing():
        raise ConfigError(f"{runs}, and they cannot be contained here: {reason}")
