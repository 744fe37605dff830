"""Texts found by the words that they share with a query (BM25). An index is made once and then only looked into."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_WORD = re.compile(r"\w+")


class Index:
    """Some texts, to be looked up. Making it reads every text; a look-up reads the query alone, and adds up what the
    index holds for its words."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.texts = texts
        self._scorer = _scorer([words(text) for text in texts])

    def find(self, query: str, *, at_most: int) -> list[str]:
        """The texts that share words with a query, the best first, earlier ones first among equals."""
        asked = [word for word in words(query) if self._scorer and word in self._scorer.vocab_dict]
        if not asked:
            return []
        scores = self._scorer.get_scores(asked)
        sharing = scores.nonzero()[0]
        ranked = sharing[(-scores[sharing]).argsort(kind="stable")]
        return [self.texts[number] for number in ranked[:at_most]]


@lru_cache(maxsize=1_000)  # the facts of as many questions as are talked about side by side, or of whole tasks
def index_of(texts: tuple[str, ...]) -> Index:
    """The index of some texts, made at the first call."""
    return Index(texts)


def words(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    return _WORD.findall(text.casefold())


def _scorer(words: list[list[str]]) -> Any:
    """BM25 over some texts as words; None where there are no words."""
    from bm25s import BM25

    if not any(words):
        return None
    scorer = BM25()
    scorer.index(words, show_progress=False)
    return scorer
