"""Does a message fit a JSON schema? It may take for ever to find out, so `forms` asks in a process of its own.

Here and not there because it is imported where the extra `schema` is installed alone, and before the clock runs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator


def fits(message: str, schema: str) -> bool:
    """Whether a message is JSON, nothing else, and valid by a schema, which is written out."""
    try:
        return bool(_validator(schema).is_valid(json.loads(message, parse_constant=_refuse)))
    except (ValueError, ArithmeticError, RecursionError):  # no JSON; numbers beyond floats; nested too deeply
        return False


@lru_cache(maxsize=100)
def _validator(schema: str) -> Any:
    return Draft202012Validator(json.loads(schema))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
