"""Many values in compressed blocks of bounded size, so that who looks at one of them unpacks one block."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, MutableMapping
from typing import Any

BLOCK = 256 * 1024  # bytes of JSON after which a block is closed


def shelve(values: Iterable[Any], blocks: MutableMapping[str, str], *, size: int = BLOCK) -> dict[str, Any]:
    """Put plain values into blocks, in order, holding no more than one block of them at a time.

    Returns where they are: count, the first value of each block (starts), and the blocks' names, which `blocks` then
    has. A name is made of the content, so the same values have the same names.
    """
    count, starts, names, held, bytes_held = 0, [0], [], [], 0
    for value in values:
        text = to_text(value)
        held.append(text)
        count, bytes_held = count + 1, bytes_held + len(text)
        if bytes_held >= size:
            names.append(_close(held, blocks))
            starts.append(count)
            held, bytes_held = [], 0
    if held:
        names.append(_close(held, blocks))
    return {"count": count, "starts": starts[: len(names)], "names": names}


def to_text(value: Any) -> bytes:
    """A plain value as compact JSON; half characters, which models may say, become JSON's own escapes of them."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def pack(text: bytes) -> str:
    """JSON as letters that mean nothing to HTML: compressed, in base64. The same input gives the same output."""
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode("ascii")


def _close(held: list[bytes], blocks: MutableMapping[str, str]) -> str:
    text = b"[" + b",".join(held) + b"]"
    name = hashlib.sha256(text).hexdigest()[:16]
    blocks[name] = pack(text)
    return name
