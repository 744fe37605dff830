r"""Answers: taken out of a message, made comparable, compared. No function raises on any text.

An answer is marked as `<A>answer</A>` or, as models write mathematics, as `\boxed{answer}`; a program (metrics `tests`
and `pass`) is a message's last fenced block, and is run on the gold answers. Comparison follows SQuAD's
evaluation (case, punctuation and articles do not count), with three repairs that short answers need: the signs inside
a number stay (3.5 is not 35, 1/2 is not 12), signs between words count (x+1 is not x=1), and an answer that is nothing
but an article or a symbol (the choice "A") stays itself, where it would become empty and equal to every other such
answer. Formulas (metric `math`) are compared in a worker process under a time limit.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

from ..errors import ConfigError
from ..records import CODE_METRICS, Metric
from . import code, mathematics, official
from .bounded import Worker

SECONDS = 5  # of processor time for one comparison of formulas


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a task scores answers. tokenize: given, they are scored by the rules of the official code, whose F1 counts
    these tokens, those of the model; None: see `score`. own: a function of the user's that scores instead of all this;
    the metric then only says when two answers are the same."""

    metric: Metric = "f1"
    tokenize: Callable[[str], Sequence[str]] | None = None
    own: Callable[[str | None, Sequence[str]], float] | None = None

    def score(self, prediction: str | None, answers: Sequence[str]) -> float:
        """The task score in [0, 1], the best over the accepted answers; no prediction scores 0."""
        if self.own is not None:
            return self.own(prediction, answers)
        if self.tokenize is None or self.metric in CODE_METRICS:
            return score(self.metric, prediction, answers)
        if prediction is None:
            return 0.0
        if self.metric == "f1":
            return official.f1(prediction, answers, tokenize=self.tokenize)
        if self.metric == "exact":
            return max(official.exact_match(prediction, answer) for answer in answers)
        return float(any(self._same(prediction, answer) for answer in answers))

    def _same(self, prediction: str, answer: str) -> bool | None:
        """Whether a mathematical answer counts as the accepted one; None where the comparison came to no result."""
        if self.tokenize is None:
            return _same_value(prediction, answer)
        if max(len(prediction), len(answer)) > mathematics.LONGEST:
            return False
        one, other = official.math_normalize(prediction), official.math_normalize(answer)
        return bool(official.exact_match(one, other)) if self.metric == "numeric" else _official_equal(one, other)

    def undecided(self, prediction: str | None, answers: Sequence[str]) -> bool:
        """Whether the score is 0 only because a comparison of formulas came to no result within its limits of time and
        memory."""
        if self.own is not None or prediction is None or self.metric != "math" or self.score(prediction, answers):
            return False
        return any(self._same(prediction, answer) is None for answer in answers)


_MARKED = re.compile(r"<A>((?:(?!</?A>).)*)</A>", re.DOTALL)
_ARTICLES = frozenset(("a", "an", "the"))
# The named part stays: between two digits (3.5, 1/2, 10:30, 2^8), or at a word's start before one (-5, .5).
_PUNCTUATION = re.compile(r"(?P<in_number>(?<=[0-9])[./:^](?=[0-9])|(?<!\S)(?:-\.?|\.)(?=[0-9]))|[^\w\s]|_")
_CURRENCY = re.compile(r"[$€£¥]\s*")
# Signs that tell two choices apart, such as x+1 from x-1, or an "and" of logic from an "or".
_SIGNS = re.compile(r"[^\w\s]")
_NUMBER = re.compile(
    r"(?<![\w.])-?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:e[-+]?[0-9]{1,3})?(?:/[0-9]+)?"
)


def extract(text: str, *, metric: Metric = "f1") -> str | None:
    """What the last mark of a message holds, stripped of the white space around it, or its last fenced block where the
    metric wants a program; None when absent or empty.

    This is strict extraction: what decides when a dialogue ends and how it scores. Of a mark within a mark the inner
    one counts.
    """
    if metric in CODE_METRICS:
        return code.extract(text) or None
    tag = max(_MARKED.finditer(text), key=re.Match.start, default=None)
    box = mathematics.boxed(text)
    if tag is not None and (box is None or tag.start() > box[0]):
        return tag[1].strip() or None
    return (box[1] or None) if box else None


def extract_flexibly(text: str, *, metric: Metric = "f1") -> str | None:
    """The marked answer, else the last number in the message: what a model knew but failed to mark. For reports. A
    number is no program."""
    marked = extract(text, metric=metric)
    if marked is not None or metric in CODE_METRICS:
        return marked
    numbers = _NUMBER.findall(_CURRENCY.sub("", _folded(text)))
    return numbers[-1] if numbers else None


def normalise(text: str) -> str:
    """Case, punctuation, articles and spacing removed; empty only for text that is empty or white space."""
    text = _folded(text)
    words = _PUNCTUATION.sub(_kept, text).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words or text.split())


def agree(one: str, other: str, *, metric: Metric = "f1") -> bool:
    """Whether two stated answers are the same answer, as far as their texts show.

    Under `math` formulas are only brought to one spelling: whether a talk has ended must not hang on a time limit.
    Programs are the same when they are spelled the same.
    """
    if metric in CODE_METRICS:
        return one.strip() == other.strip()
    if metric == "math":
        return mathematics.canonical(one) == mathematics.canonical(other)
    return normalise(one) == normalise(other) and _signs(one) == _signs(other)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 of the normalised texts, the best over the accepted answers; in [0, 1]."""
    return max((_token_f1(prediction, answer) for answer in answers), default=0.0)


def hotpot_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """F1 as HotpotQA's own evaluation computes it (hotpot_evaluate_v1.py), the best over the accepted answers; reported
    beside ours because published numbers are this one.

    It differs twice: all punctuation goes, so that 3.5 is 35, and an answer of yes, no or noanswer, on either side,
    earns nothing unless the other side is the same.
    """
    return max((_hotpot_f1(prediction or "", answer) for answer in answers), default=0.0)


def _hotpot_f1(prediction: str, answer: str) -> float:
    said, wanted = _hotpot_words(prediction), _hotpot_words(answer)
    if said != wanted and any(words in (["yes"], ["no"], ["noanswer"]) for words in (said, wanted)):
        return 0.0
    common = (Counter(said) & Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _hotpot_words(text: str) -> list[str]:
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def exact(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction equals an accepted answer after normalisation, else 0."""
    return float(any(agree(prediction, answer) for answer in answers))


def numeric(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction holds the same number as an accepted answer, else 0; see `number`.

    An accepted answer that is no number is compared as in `exact`.
    """
    return float(any(_same_number(prediction, answer) for answer in answers))


def math(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction has the same value as an accepted answer, else 0; undecided comparisons count as 0.

    Raises ConfigError when the extra `math` is not installed.
    """
    require("math")
    return float(any(_same_value(prediction, answer) for answer in answers))


def installed(metric: Metric) -> bool:
    """Whether the library that a metric needs is there."""
    return metric != "math" or find_spec(mathematics.LIBRARY) is not None


def require(metric: Metric, *, allow_code: bool = False) -> None:
    """Raises ConfigError when the library that a metric needs is not installed, and when it would run programs that a
    model wrote where that is not allowed or cannot be contained."""
    if metric in CODE_METRICS:
        code.require(allowed=allow_code)
    if not installed(metric):
        hint = "in the clone: pip install '.[math]', or set task.metric=numeric where all answers are numbers"
        raise ConfigError("task.metric math needs the library math-verify, which is not installed", hint=hint)


def number(text: str) -> Fraction | None:
    """The one number in a text, whatever unit, currency or percent sign is around it; None for none or several.

    1,000 and 1000.0 and $1,000 are the same number; 50 % is 50. Two different numbers are a guess, not an answer.
    """
    found = _NUMBER.findall(_CURRENCY.sub("", _folded(text)))
    try:
        values = {Fraction(digits.replace(",", "")) for digits in found}
    except (ValueError, ZeroDivisionError):  # more digits than Python converts, 1.5/2, or 1/0
        return None
    return values.pop() if len(values) == 1 else None


def score(metric: Metric, prediction: str | None, answers: Sequence[str]) -> float:
    """The task score in [0, 1] by the recipe's `task.metric`; no prediction scores 0."""
    if prediction is None:
        return 0.0
    by = {
        "f1": f1,
        "exact": exact,
        "numeric": numeric,
        "math": math,
        "tests": code.share_passed,
        "pass": code.all_passed,
    }
    return by[metric](prediction, answers)


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").replace("\N{FRACTION SLASH}", "/")


def _kept(sign: re.Match[str]) -> str:
    """Marks that belong to a letter (vowel signs, accents) are no punctuation, though Python's \\w leaves them out."""
    return sign[0] if sign["in_number"] or unicodedata.category(sign[0]).startswith("M") else ""


def _signs(text: str) -> str:
    found = _SIGNS.findall(_folded(text))
    return "".join(sign for sign in found if sign in "^•·" or unicodedata.category(sign) == "Sm")


_EQUAL = Worker("optima_lite.tasks.mathematics:equal", seconds=SECONDS)
_OFFICIAL_EQUAL = Worker("optima_lite.tasks.official:math_equal", seconds=10)  # its own limit


@lru_cache(maxsize=10_000)
def _official_equal(one: str, other: str) -> bool | None:
    require("math")
    equal = _OFFICIAL_EQUAL(one, other)
    return None if equal is None else bool(equal)


@lru_cache(maxsize=10_000)
def _same_value(prediction: str, answer: str) -> bool | None:
    """None where the comparison came to no result."""
    if agree(prediction, answer, metric="math"):
        return True
    if max(len(prediction), len(answer)) > mathematics.LONGEST:
        return False
    equal = _EQUAL(prediction, answer)
    return None if equal is None else bool(equal)


def _token_f1(prediction: str, answer: str) -> float:
    said, wanted = normalise(prediction).split(), normalise(answer).split()
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def _same_number(prediction: str, answer: str) -> bool:
    wanted = number(answer)
    if wanted is None:
        return agree(prediction, answer)
    return wanted in (number(prediction), number(mathematics.canonical(prediction)))  # 1{,}000 is LaTeX for 1,000
