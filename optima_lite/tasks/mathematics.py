r"""Mathematical answers: taken out of a message, written one way, compared by value. Pure functions.

The last `\boxed{...}` of a message is its answer. `canonical` undoes what does not change an answer and can be seen in
its text (spacing, \dfrac, a trailing unit, thousands separators); `equal` asks math-verify whether two formulas have
the same value. That can take for ever, so `equal` belongs into a worker with a time limit (see `bounded`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

LIBRARY = "math_verify"  # of the extra `math`
LONGEST = 1000  # characters; a longer text is no answer that could be parsed

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
_SCALE = r"(?:\\\w+\s*\{\s*)?(?:hundred|thousand|million|billion|trillion|dozen)"  # words that are no unit
_WORDS = re.compile(r"[^\W\d_]{3,}(?:[ ,.'-]+[^\W\d_]+)*")
_IN_BASE = re.compile(r"\w+_(?:\d|\{\d+\})")  # 204_5: math-verify would not see the base


def _digits(grouped: re.Match[str]) -> str:
    return re.sub("[ ,]", "", grouped[0])


_STEPS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\?[$€£]|(?<!\\)\\[()\[\]]", " "),  # currency, and what sets a formula off from text
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}|,\\!", ","),
        (r"(?<!\\)\\[!,;:> ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|°", " "),
        (r"\u2212", "-"),
        (r"[\s.,;:]+$", ""),
        (rf"(?<=[\d}})\]]) *(?!{_SCALE}){_TEXT} *(?:\^ *\{{?[23]\}}?)?$", ""),  # a unit
        (_TEXT, r" \1 "),
        (rf"^(-?[\d.,]+)(?: (?!{_SCALE})[a-z]{{3,}})+$", r"\1"),  # a unit in plain words
        (r"^ *-? *\d{1,3}(?:[ ,]\d{3})+(?![,\d])", _digits),
        (r"\\frac *(\d)", r"\\frac{\1}"),
        (r"(\\frac *\{[^{}]*\}) *(\d)", r"\1{\2}"),
        (r"\\sqrt *(\w)", r"\\sqrt{\1}"),
        (r"([\^_]) *\{ *(\w) *\}", r"\1\2"),
        (r" +(?!\w)|(?<!\w) +", ""),  # a space that separates no two names or numbers
    )
]


def boxed(text: str) -> tuple[int, str] | None:
    r"""Where the last complete `\boxed{...}` begins and what it holds, stripped; of nested boxes the innermost."""
    found: tuple[int, str] | None = None
    opened: list[re.Match[str]] = []
    for brace in _BRACES.finditer(text):
        if brace["box"] or brace["open"]:
            opened.append(brace)
        elif brace["close"] and opened:
            first = opened.pop()
            if first["box"] and (found is None or first.start() > found[0]):
                found = first.start(), text[first.end() : brace.start()].strip()
    return found


def canonical(text: str) -> str:
    """One spelling for answers that differ in nothing but notation; words without case. Longer texts than `LONGEST`
    stay as they are."""
    if len(text) > LONGEST:
        return text
    text = " ".join(text.split())
    for pattern, by in _STEPS:
        text = pattern.sub(by, " ".join(text.split()))
    return text.casefold() if _WORDS.fullmatch(text) else text


def equal(one: str, other: str) -> bool:
    """Whether two answers have the same value by math-verify: formulas, numbers, sets, intervals, matrices.

    Words, which math-verify would take for products of letters, and numbers in another base are compared as texts.
    No time limit of its own.
    """
    one, other = canonical(one), canonical(other)
    if one == other:
        return True
    if any(len(text) > LONGEST or _WORDS.fullmatch(text) or _IN_BASE.fullmatch(text) for text in (one, other)):
        return False
    from math_verify import parse, verify

    parsed = [parse(f"${text}$", parsing_timeout=None) for text in (one, other)]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))
