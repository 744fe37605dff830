"""The records of a stage, one JSON line each: a sequence that stays in its file until it is asked for."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from operator import eq
from pathlib import Path
from typing import Any, overload

from ..errors import RunError
from ..records import Record, decode, to_json
from .disk import reading


class Rows(Sequence[Record]):
    """The records of a stage, read from its file each time they are asked for, so that no stage has to fit in memory.

    `Run` and `RunFolder` make them, after a look at every row. Equal to any sequence of the same records. ends: the
    place in the file where each row ends, after a 0. Raises RunError if a row has been damaged since.
    """

    def __init__(self, path: Path, kind: type[Record], ends: array[int]) -> None:
        self._path, self._kind, self._ends = path, kind, ends

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self._ends[-1]

    def first(self, count: int) -> Rows[Record]:
        """The same rows without those after the first `count`."""
        return Rows(self._path, self._kind, self._ends[: count + 1])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            places = range(len(self))[index]
            return [self[place] for place in places] if places.step != 1 else list(self._between(places))
        place = range(len(self))[index]
        return next(self._between(range(place, place + 1)))

    def __iter__(self) -> Iterator[Record]:
        return self._between(range(len(self)))

    def _between(self, places: range) -> Iterator[Record]:
        lines = _lines(self._path, start=self._ends[places.start])
        for place in places:
            try:
                record = decode(self._kind, next(lines, b""))
            except ValueError as error:
                raise damaged_line(self._path, line=place + 1) from error
            yield record

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


class Pieces(Sequence[Sequence[Any]]):
    """Items that lie side by side, piece by piece; each piece is only read when it is asked for. places: of each."""

    def __init__(self, items: Sequence[Any], places: Sequence[range]) -> None:
        self._items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Sequence[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Any]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[Any]:
        if isinstance(index, slice):
            return Pieces(self._items, self.places[index])
        piece = self.places[index]
        return self._items[piece.start : piece.stop]

    def split(self, parts: int) -> Pieces:
        """Each piece in so many parts, of one size but for the last; in fewer where it has not as many items."""
        whole = ((piece, max(1, -(-len(piece) // parts))) for piece in self.places)
        halves = (piece[start : start + size] for piece, size in whole for start in range(0, len(piece), size))
        return Pieces(self._items, [*halves])


def read_rows(path: Path, kind: type[Record]) -> tuple[Rows[Record], int]:
    """The rows of a file up to its first damaged or unended line; and its number of lines, torn one included.

    Raises RunError for a line of JSON that is no `kind`.
    """
    ends, lines, damaged = array("q", [0]), 0, False
    for line in _lines(path):
        lines += 1
        damaged = damaged or not line.endswith(b"\n") or not _is_whole(path, kind, line, lines)
        if not damaged:
            ends.append(ends[-1] + len(line))
    return Rows(path, kind, ends), lines


def to_lines(records: Iterable[Any]) -> bytes:
    """The records as lines of JSON, each with its end."""
    return b"".join(_encode(record) + b"\n" for record in records)


def _encode(record: Any) -> bytes:
    text = json.dumps(to_json(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes JSON's own escape of it


def _is_whole(path: Path, kind: type[Record], line: bytes, number: int) -> bool:
    """Whether a line is whole. Raises RunError if it is, and holds something else."""
    try:
        decode(kind, line)
    except ValueError as error:
        if not _is_json(line):
            return False
        what = f"line {number} is not a {kind.__name__} of this version ({error})"
        raise RunError(what, where=path, hint=redo_hint(path)) from error
    return True


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8"))
    except ValueError:
        return False
    return True


def _lines(path: Path, *, start: int = 0) -> Iterator[bytes]:
    """Each with its end, none without a file; not splitlines, because text may hold the other line ends, unescaped.

    start: the byte to begin at.
    """
    with reading(path), suppress(FileNotFoundError), path.open("rb") as stream:
        stream.seek(start)
        yield from stream


def damaged_line(path: Path, *, line: int) -> RunError:
    """The error of a line, counted from 1, that cannot be read."""
    return RunError(f"line {line} is damaged", where=path, hint=redo_hint(path))


def redo_hint(path: Path) -> str:
    """What to do about a stage whose file cannot be used."""
    return f"delete {path.name}; the same command computes it again, and what follows it"
