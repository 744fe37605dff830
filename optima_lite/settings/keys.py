"""What every schema of settings is made of: sections of keys, each with a type, a default and a line that explains it.

A layer of values is laid on a schema here, and whatever the schema refuses is told by the key that it was given for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .layers import MOST_LINES, KeyTree, Layer, Mistake, either, mistaken, nested, reason

Schema = TypeVar("Schema", bound="Section")

Count = Annotated[int, Field(ge=1, le=1_000_000)]
TokenCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
Share = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1, max_length=100_000)]


def _nameable(path: str) -> str:
    if "\0" in path:
        raise ValueError("must not hold a null character")
    return path


PathText = Annotated[str, Field(min_length=1, max_length=4_000), AfterValidator(_nameable)]


class Section(BaseModel):
    """Settings that belong together: frozen, of exactly the types that are stated, and with no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the reference table. default: as written in a file, None when the key must be given."""

    path: str
    default: str | None
    description: str


def reference(schema: type[BaseModel], *, prefix: str = "") -> Iterator[Key]:
    """Every key of a schema with its default and description, in the order of the schema."""
    for name, field in schema.model_fields.items():
        if section := _section(schema, name):
            yield from reference(section, prefix=f"{prefix}{name}.")
        else:
            default = None if field.is_required() else json.dumps(field.default, ensure_ascii=False)
            yield Key(prefix + name, default, field.description or "")


def _section(schema: type[BaseModel], name: str) -> type[BaseModel] | None:
    kind = schema.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def key_tree(schema: type[BaseModel]) -> KeyTree:
    """The keys of a schema as `flatten` and `nested` take them."""
    sections = {name: _section(schema, name) for name in schema.model_fields}
    return {name: key_tree(section) if section else None for name, section in sections.items()}


def checked(schema: type[Schema], layer: Layer, source: str, mistakes: Sequence[Mistake]) -> Schema:
    """The settings; or all mistakes, those given and those of the values, as one ConfigError."""
    settings, wrong = validated(schema, layer, source)
    if settings is None or mistakes:
        raise mistaken([*mistakes, *wrong])
    return settings


def validated(schema: type[Schema], layer: Layer, source: str) -> tuple[Schema | None, list[Mistake]]:
    """The settings and no mistakes, or None and every mistake; a missing key is missing in `source`."""
    try:
        return schema.model_validate(nested(layer, key_tree(schema))), []
    except ValidationError as error:
        reasons: dict[tuple[str, str], list[str]] = {}  # `int | "auto"` gives two for one value
        for detail in error.errors()[: 10 * MOST_LINES]:  # a value may be a list of thousands of wrong names
            reasons.setdefault(_located(schema, detail["loc"]), []).append(reason(detail))
    return None, [
        Mistake(layer[dotted].origin if dotted in layer else source, dotted, item + either(texts))
        for (dotted, item), texts in reasons.items()
    ]


def _located(schema: type[BaseModel], location: Sequence[str | int]) -> tuple[str, str]:
    """The dotted key that pydantic's location leads to, and which item of its value is meant."""
    keys: list[str] = []
    section: type[BaseModel] | None = schema
    while section and len(keys) < len(location):
        keys.append(str(location[len(keys)]))
        section = _section(section, keys[-1])
    inside = location[len(keys) :]
    item = "".join(f"item {part + 1} " for part in inside if isinstance(part, int))
    if keys in (["models"], ["speakers"]) and inside:  # tables; elsewhere pydantic names the sides of a union here
        item = ".".join(map(str, inside[:2])) + " "
    return ".".join(keys), item
