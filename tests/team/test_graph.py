"""Which roles read which: as a graph that a prompt search looks along."""

from __future__ import annotations

import pytest

from optima_lite.settings.teams import shipped
from optima_lite.team.graph import edges, loop


@pytest.mark.parametrize(
    ("team", "found", "ring"),
    [
        ("solo", (), ()),
        ("chain", ((0, 1), (1, 2), (2, 3)), ()),
        ("tree", ((0, 1), (0, 2), (1, 3), (2, 3)), ()),
        ("writers_picker_formatter", ((0, 3), (1, 3), (2, 3), (3, 4)), ()),
        ("exchange", ((0, 1), (1, 0)), (0, 1, 0)),  # a talk: its loop is an edge each way
        ("decompose_retrieve_answer", ((0, 1),), ()),  # who reads what a tool found reads who asked it
        ("ask_search_summarise", ((0, 1), (1, 0), (1, 2)), (0, 1, 0)),
    ],
)
def test_shipped_teams(team: str, found: tuple[tuple[int, int], ...], ring: tuple[int, ...]) -> None:
    assert edges(shipped(team)) == found
    assert loop(edges(shipped(team))) == ring


def test_a_ring_of_three_is_found_behind_a_way_in() -> None:
    assert loop(((0, 1), (1, 2), (2, 3), (3, 1))) == (1, 2, 3, 1)
