"""Tokens that come a few at a time spell what all of them do, and a row pauses at the same token however they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from optima_lite.model.decoding import Row
from optima_lite.model.render import Renderer
from optima_lite.model.spelling import Speller

TEXT = "Größe 東京 🙂🙂 of Mira's mother.\n\n```py\nx = 1\n```\nEND_STEP  <A> Tess </A>"
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=80)


def pieces(ids: Sequence[int], chosen: list[int]) -> list[list[int]]:
    found, rest = [], list(ids)
    for size in chosen * len(rest):
        if rest:
            found.append(rest[:size])
            rest = rest[size:]
    return found


@given(chosen=sizes)
def test_any_pieces_spell_the_same(renderer: Renderer, chosen: list[int]) -> None:
    ids = renderer.encode(TEXT * 2)
    spell = Speller(renderer.decode)
    told = ""
    for piece in pieces(ids, chosen):
        peeked = spell.peek(piece)
        told += spell(piece)
        assert told.endswith(peeked)
    assert told == renderer.decode(ids)


def test_a_long_message_is_read_a_bounded_number_of_times(renderer: Renderer) -> None:
    read: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        read.append(len(ids))
        return renderer.decode(ids)

    ids = renderer.encode(TEXT * 20)
    spell = Speller(decode)
    for piece in pieces(ids, [8]):
        spell(piece)
    assert sum(read) < 4 * len(ids)


@given(chosen=sizes, after=st.integers(1, 30), begun=st.integers(0, 9))
def test_a_row_pauses_at_the_same_token_however_they_come(chosen: list[int], after: int, begun: int) -> None:
    """As they come one at a time where a look costs nothing, or a slice at a time on a card."""

    def watch(said: Sequence[int]) -> Any:
        count = len(said)

        def stop(tokens: Sequence[int]) -> int | None:
            nonlocal count
            before, count = count, count + len(tokens)
            return after - before if before < after <= count else None

        return stop

    row, tokens = Row(0, 2, [7, 7, *range(begun)], 99, watch), list(range(begun, 40))
    paused = None
    for piece in pieces(tokens, chosen):
        for k, token in enumerate(piece):  # asked about twice, as on a processor
            if chosen[0] % 2 and row.pause_in([token], len(row.said) + k):
                break
        paused = row.pause_in(piece, len(row.said))
        row.ids += piece[:paused]
        if paused:
            break
    assert len(row.said) == (after if after > begun else 40)
    assert row.paused == (after > begun)
