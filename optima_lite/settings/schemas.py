"""JSON schemas in a recipe: is it one? Needs the library jsonschema, of the extra `schema`; `tasks.forms` uses them.

A schema holds no references, so that checking by it neither loops nor asks the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

LIBRARY = "jsonschema"


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


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)
