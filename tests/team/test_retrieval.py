"""Facts are found by their words, and a library is read once, however often it is looked into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.team import retrieval
from optima_lite.team.retrieval import Index, index_of
from optima_lite.team.tools import NOTHING, retrieve

FACTS = ("Mira mother Tess", "Tess home Oakton", "Ravik boss Mira", "Oakton country Alder")


def test_each_line_finds_its_facts_the_best_first() -> None:
    index = Index(FACTS)
    assert (
        retrieve(index, "1. mother of Mira?\n2. home of Tess?", at_most=1) == "- Mira mother Tess\n- Tess home Oakton"
    )
    assert retrieve(index, "nobody", at_most=3) == NOTHING
    assert retrieve(Index(()), "Mira", at_most=3) == retrieve(Index(("",)), "Mira", at_most=3) == NOTHING
    assert index.find("MIRA", at_most=9) == [FACTS[0], FACTS[2]], "equals in their order"


@given(st.lists(st.text(max_size=30), max_size=6), st.text(max_size=30), st.integers(1, 9))
def test_whatever_is_searched_for_what_is_found_shares_a_word(texts: list[str], query: str, at_most: int) -> None:
    asked = set(retrieval.words(query))
    found = Index(tuple(dict.fromkeys(texts))).find(query, at_most=at_most)
    assert len(found) == len(set(found)) <= at_most
    assert all(asked & {*retrieval.words(text)} for text in found)
    sharing = [text for text in dict.fromkeys(texts) if asked & {*retrieval.words(text)}]
    assert len(found) == min(at_most, len(sharing)), "nothing that shares a word is passed over"


def test_fifty_thousand_facts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later look-up reads its own words and nothing else, whoever asks for the index."""
    read = 0
    words = retrieval.words

    def counted(text: str) -> list[str]:
        nonlocal read
        read += 1
        return words(text)

    monkeypatch.setattr(retrieval, "words", counted)
    size = 50_000
    facts = tuple(f"p{k} home t{k % 300}" for k in range(size))
    for k in range(0, 2_000, 10):
        first, *_ = index_of(tuple(facts)).find(f"Where is the home of p{k}?", at_most=8)
        assert first == facts[k]
    assert read == size + 200
