"""What steps without a speaker do: look facts up, run tests. Recorded, never trained, and free of tokens."""

from __future__ import annotations

import re

from ..records import Question
from ..tasks import code
from ..tasks.sandbox import Verdict
from .retrieval import Index

NOTHING = "(nothing found)"
_LINES, _LONGEST = 5, 400  # of an error that is told
_PASSED = re.compile(r"passed ([0-9]+) of \1\b")
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")
_MARK = re.compile(r"^\s*(?:[-*•]|\(?[0-9]{1,3}[.):])\s+")  # before an item of a list


def run_tests(question: Question, program: str) -> str:
    """How many of the tests that the question shows a program passes, and the end of the first error. Nothing is run
    that the question does not show; see `code.shown`."""
    tests = code.shown(question)
    outcomes = [code.outcome(program, test) for test in tests]
    failed = [outcome for outcome in outcomes if outcome.verdict is not Verdict.PASSED]
    said = f"passed {len(tests) - len(failed)} of {len(tests)}"
    return f"{said}\n{_ending(failed[0].verdict, failed[0].output)}" if failed else said


def _ending(verdict: Verdict, output: str) -> str:
    """The last lines of what a program printed, the same at every run and on every machine: in ASCII, so that a
    character is at most a token, and without addresses."""
    if verdict is not Verdict.FAILED:
        return f"stopped at its limit: {verdict}"
    ascii = _ADDRESS.sub("0x0", output).encode("ascii", "backslashreplace").decode()
    return "\n".join(ascii.strip().splitlines()[-_LINES:])[-_LONGEST:] or "ended before its last line"


def passes(text: str) -> bool:
    """Whether `run_tests` said that every test was passed."""
    return _PASSED.match(text) is not None


def retrieve(index: Index, asked: str, *, at_most: int) -> str:
    """The facts that each line of `asked` finds: a line each, the best first, at most so many for a line, none
    twice."""
    lines = [_MARK.sub("", line) for line in asked.splitlines() if line.strip()]
    found = dict.fromkeys(fact for line in lines for fact in index.find(line, at_most=at_most))
    return "\n".join(f"- {fact}" for fact in found) or NOTHING
