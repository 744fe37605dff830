"""What rows of ids have in common: their shared prefixes, and windows of rows that a cache can hold together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

Ids = tuple[int, ...]


def shared_prefixes(rows: Sequence[Ids]) -> list[list[Ids]]:
    """What two or more rows have in common, in waves: no prefix extends another of its own wave.

    In sorted order the longest prefix that a row shares with any other is one it shares with a neighbour.
    """
    shared = {one[: common_length(one, two)] for one, two in pairwise(sorted(rows))}
    path: list[Ids] = []
    waves: list[list[Ids]] = []
    for prefix in sorted(shared):
        while path and prefix[: len(path[-1])] != path[-1]:
            path.pop()
        path.append(prefix)
        if len(waves) < len(path):
            waves.append([])
        waves[len(path) - 1].append(prefix)
    return waves


def windows(rows: Sequence[Ids], *, room: int, batch: int) -> Iterator[list[int]]:
    """The numbers of all rows in windows, one of which is to be done before the next begins.

    Rows that share most of their ids stand together, and a window's sharing rows, with common ids counted once, stay
    in `room` tokens, so that what they share is still in the cache when the last of them needs it. What makes no more
    than one batch of `batch` positions is never cut; nor are rows that share little, which gain nothing.
    """
    order = sorted(range(len(rows)), key=rows.__getitem__)
    common = [0, *(common_length(rows[i], rows[j]) for i, j in pairwise(order)), 0]
    window: list[int] = []
    size = longest = 0
    for k, i in enumerate(order):
        length = len(rows[i])
        shares = 2 * max(common[k], common[k + 1]) > length
        fresh = length - common[k] if shares else 0
        longest = max(longest, length)
        if window and size + fresh > room and (len(window) + 1) * longest > batch:
            yield window
            window, size, longest, fresh = [], 0, length, length if shares else 0
        window.append(i)
        size += fresh
    if window:
        yield window


def common_length(one: Sequence[int], two: Sequence[int]) -> int:
    """How many ids two rows have in common from the first on."""
    shortest = min(len(one), len(two))
    if one[:shortest] == two[:shortest]:
        return shortest
    return next(k for k in range(shortest) if one[k] != two[k])
