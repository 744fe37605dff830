"""Messages in a fixed form: is one valid by a JSON schema? Needs the library jsonschema, of the extra `schema`.

A schema comes from the recipe and is trusted, a message comes from a model and is not: it may be anything, and its
check always ends. A schema holds no references, so that checking it neither loops nor asks the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

LIBRARY = "jsonschema"
LONGEST = 10_000  # characters; a longer message is not valid, whatever it holds


def installed() -> bool:
    """Whether the library is there."""
    return find_spec(LIBRARY) is not None


def problem(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a schema (draft 2020-12), for people; None when nothing is, or when the library is not there
    to tell."""
    special = next((key for key in _keys(schema) if key.startswith("$")), None)
    if special:
        return f"the keyword {special} is not supported; write the schema out"
    if not installed():
        return None
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path))
        return f"{where}: {error.message}" if where else str(error.message)
    return None


def valid(message: str, schema: Mapping[str, Any]) -> bool:
    """Whether a message is JSON, nothing else, and valid by the schema. Raises no exception on any message."""
    if len(message) > LONGEST:
        return False
    try:
        value = json.loads(message, parse_constant=_refuse)
        return bool(_validator(json.dumps(schema)).is_valid(value))
    except (ValueError, ArithmeticError, RecursionError):  # no JSON; numbers beyond floats; nested too deeply
        return False


@lru_cache(maxsize=100)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)
