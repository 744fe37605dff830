"""A folder of texts as facts to be looked up.

    *.txt, *.md   each paragraph, that is what stands between empty lines, is a fact
    *.jsonl       each row is one: its `text`, after its `title` where it has one

Folders in it are read, too; names that begin with a dot are not. Anything else in it is refused: who does not see that
half of a library is left out trusts what is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from . import jsonl

TEXTS, ROWS = (".txt", ".md"), ".jsonl"
_KINDS = "texts (.txt, .md) and rows (.jsonl)"
_LARGEST = 256 * 2**20  # bytes of one text
_GAP = re.compile(r"\n\s*\n")


def facts_in(folder: str) -> tuple[str, ...]:
    """The facts in a folder, by the names of the files, none twice. Raises DataError, with file and line, for what
    cannot be read, and where there are none."""
    place = Path(os.path.expanduser(folder))
    if not os.path.isdir(place):
        what = "a file, not a folder" if os.path.exists(place) else "no such folder"
        raise DataError(what, where=place, hint=f"index: a folder of {_KINDS}, relative to the working folder")
    found = tuple(dict.fromkeys(fact for path in _files(place) for fact in _facts(path)))
    if not found:
        raise DataError("nothing to look up in this folder", where=place, hint=f"put {_KINDS} there")
    return found


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"cannot be read: {error.strerror}", where=error.filename)

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            yield Path(place, name)


def _facts(path: Path) -> Iterator[str]:
    kind = path.suffix.lower()
    if kind != ROWS and kind not in TEXTS:
        raise DataError("neither text nor rows", where=path, hint=f"a folder to look up in holds {_KINDS} alone")
    if not os.path.isfile(path):
        raise DataError("a device, a pipe or a dead link, not a file", where=path)
    if kind == ROWS:
        yield from filter(None, map(_row, jsonl.rows(path)))
        return
    for paragraph in _GAP.split(_text(path)):
        if fact := " ".join(paragraph.split()):
            yield fact


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"a text of more than {_LARGEST >> 20} MB", where=path, hint="cut it into several files")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=path, hint="save the file as UTF-8, or take it out") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    if "\0" in text:
        raise DataError("binary data, not text", where=path, hint="take it out of the folder")
    return text


def _row(row: jsonl.Row) -> str:
    if "text" not in row.values:
        keys = ", ".join(row.values) or "none"
        row.refuse(f"no field 'text'; the keys there are {keys}", 'rows such as {"title": "Oakton", "text": "A town."}')
    title, text = (row.text(row.values.get(name), name) for name in ("title", "text"))
    return f"{title}: {text}" if title and text else text
