"""What steps without a speaker do: look facts up. Recorded in the dialogue, never trained, and free of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..records import Question

NOTHING = "(nothing found)"
_MARK = re.compile(r"^\s*(?:[-*•]|\(?[0-9]{1,3}[.):])\s+")  # before an item of a list
_WORD = re.compile(r"\w+")


def retrieve(question: Question, asked: str, *, at_most: int) -> str:
    """The facts of the question, whoever holds them, that each line of `asked` finds: a line each, the best first, at
    most so many for a line, none twice."""
    facts = sum(question.contexts, ())
    lines = [_MARK.sub("", line) for line in asked.splitlines() if line.strip()]
    found = dict.fromkeys(facts[k] for line in lines for k in best(facts, line, at_most=at_most))
    return "\n".join(f"- {fact}" for fact in found) or NOTHING


def best(texts: Sequence[str], query: str, *, at_most: int) -> list[int]:
    """The texts that share words with a query, by BM25, the best first, earlier ones first among equals."""
    from bm25s import BM25

    words = [_words(text) for text in texts]
    if not any(words):
        return []
    index = BM25()
    index.index(words, show_progress=False)
    known = set().union(*words)
    asked = [word for word in _words(query) if word in known]
    scores = index.get_scores(asked) if asked else [0.0] * len(texts)
    ranked = sorted(range(len(texts)), key=lambda k: -scores[k])
    return [k for k in ranked if scores[k] > 0][:at_most]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
