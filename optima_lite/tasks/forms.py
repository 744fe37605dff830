"""Messages in a fixed form: is one valid by a JSON schema? Needs the library jsonschema, of the extra `schema`.

A schema comes from the recipe and is trusted, a message comes from a model and is not: it may be anything, and its
check always ends. A regular expression of a schema could be busy with a message for ever, so a schema that holds one is
checked in a process of its own, under a limit of time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from .bounded import Worker

LONGEST = 10_000  # characters; a longer message is not valid, whatever it holds
SECONDS = 0.5  # of processor time, for a schema with patterns; a message that takes longer is not valid
_PATTERNS = frozenset(("pattern", "patternProperties"))
_in_time = Worker("optima_lite.tasks.fitting:fits", seconds=SECONDS)


def valid(message: str, schema: Mapping[str, Any]) -> bool:
    """Whether a message is JSON, nothing else, and valid by the schema. Raises no exception on any message."""
    if len(message) > LONGEST:
        return False
    from .fitting import fits

    written = json.dumps(schema)
    return bool(_in_time(message, written) if _searches(written) else fits(message, written))


@lru_cache(maxsize=100)
def _searches(schema: str) -> bool:
    """Whether a schema holds regular expressions, or a property of such a name."""
    return not _PATTERNS.isdisjoint(_keys(json.loads(schema)))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _keys(item)
