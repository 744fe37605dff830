"""Layers of settings: nested mappings as dotted keys, each value with the place it was stated in, and what is wrong.

A layer is one source of settings (a file, a variant in it, the command line); laying layers over each other is `a | b`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

MOST_LINES, LONGEST_LINE = 20, 500  # of a message
_ADVISED, _LONGEST_NAME = 50, 100  # looking for near names takes long: for so many mistakes, in names so long
_NEAR_KEY, _NEAR_NAME = 0.8, 0.65  # alike enough to be meant: sections make keys look alike that are not


@dataclass(frozen=True, slots=True)
class Mistake:
    """origin: file and line, or the command line. path: dotted key, may be empty. what: the rest of the sentence."""

    origin: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.path}: {self.what}" if self.path else f"{self.origin}: {self.what}"


def mistaken(mistakes: Sequence[Mistake]) -> ConfigError:
    """All mistakes of a load as one error, none told twice."""
    lines = list(dict.fromkeys(cut(mistake) for mistake in mistakes))
    count = len(lines)
    if count > MOST_LINES:
        lines[MOST_LINES:] = [f"... and {count - MOST_LINES:,} more"]
    return ConfigError(lines[0] if count == 1 else "\n  ".join([f"{count} mistakes in the settings", *lines]))


def cut(said: object) -> str:
    """A text as a line of a message holds it."""
    text = str(said)
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was stated."""

    value: Any
    origin: str


Layer = dict[str, Setting]  # by dotted key
KeyTree = Mapping[str, "KeyTree | None"]  # the keys there are; None where a value is held
Origin = Callable[[tuple[str, ...]], str]  # the keys down to a value -> where it is stated
Advice = Callable[[str], str]  # an unknown dotted key -> what to do about it, may be empty


def flatten(
    values: Mapping[str, Any],
    tree: KeyTree,
    origin: Origin,
    mistakes: list[Mistake],
    *,
    advice: Advice,
    above: tuple[str, ...] = (),
) -> Layer:
    """The layer of `values`; what the tree does not know is added to `mistakes`. Lists become tuples."""
    layer: Layer = {}
    for key, value in values.items():
        here = (*above, key)
        dotted = ".".join(here)
        if key not in tree:
            told = advice(dotted) if len(mistakes) < _ADVISED and len(dotted) < _LONGEST_NAME else ""
            mistakes.append(Mistake(origin(here), dotted, f"no such key{told}"))
        elif (section := tree[key]) is None:
            layer[dotted] = Setting(_tupled(value), origin(here))
        elif isinstance(value, Mapping):
            layer |= flatten(value, section, origin, mistakes, advice=advice, above=here)
        else:
            example = f"{dotted}.{next(iter(section))}"
            mistakes.append(Mistake(origin(here), dotted, f"holds keys such as {example}, and no value of its own"))
    return layer


def variant_layers(
    value: Any, tree: KeyTree, origin: Origin, mistakes: list[Mistake], *, advice: Advice
) -> dict[str, Layer]:
    """The layers of a recipe's `variants` block, by name."""
    blocks: dict[str, Layer] = {}
    if value is not None and not isinstance(value, Mapping):
        mistakes.append(Mistake(origin(("variants",)), "variants", "must be a block of named overrides"))
        return blocks
    for name, block in (value or {}).items():
        here, dotted = ("variants", name), f"variants.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):  # it becomes a part of the run folder's name
            mistakes.append(Mistake(origin(here), dotted, "a variant's name is made of letters, digits, _ and -"))
        elif not isinstance(block, Mapping):
            mistakes.append(Mistake(origin(here), dotted, "must be a block of overrides, laid out like the recipe"))
        elif "variants" in block:
            mistakes.append(Mistake(origin((*here, "variants")), f"{dotted}.variants", "a variant holds no variants"))
        else:
            blocks[name] = flatten(block, tree, _below(origin, here), mistakes, advice=advice)
    return blocks


def combine(layers: Sequence[Layer], mistakes: list[Mistake]) -> Layer:
    """Layers that are equals, as one; a key that two of them set is a mistake."""
    combined: Layer = {}
    for layer in layers:
        both = [key for key in layer if key in combined]
        mistakes += [Mistake(layer[key].origin, key, f"also set by {combined[key].origin}") for key in both]
        combined |= layer
    return combined


def nested(layer: Layer, tree: KeyTree) -> dict[str, Any]:
    """The values of a layer, nested; sections are there even when empty."""
    values: dict[str, Any] = {}
    for key, section in tree.items():
        if section is not None:
            inside = {path.removeprefix(f"{key}."): held for path, held in layer.items() if path.startswith(f"{key}.")}
            values[key] = nested(inside, section)
        elif key in layer:
            values[key] = layer[key].value
    return values


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested mappings that is not a mapping itself."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def nearest(dotted: str, tree: KeyTree) -> str | None:
    """The real key that was probably meant: the same name in another section, else one spelled almost so."""
    keys = [key for key, _ in leaves(tree)]
    same_name = [key for key in keys if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    near = same_name or difflib.get_close_matches(dotted, [*keys, *tree], n=1, cutoff=_NEAR_KEY)
    return near[0] if near else None


def reason(detail: Mapping[str, Any]) -> str:
    """What is wrong with one value, in plain words; `detail` is one of pydantic's errors."""
    got = detail["input"]
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in detail.get("ctx", {}).items()}
    known = re.findall(r"'(.*?)'", context.get("expected", ""))
    context["expected"] = " or ".join(filter(None, [", ".join(known[:-1]), *known[-1:]]))
    text = (
        _REASONS[detail["type"]].format(got=shown(got), **context) if detail["type"] in _REASONS else str(detail["msg"])
    )
    worth_a_look = isinstance(got, str) and len(got) < _LONGEST_NAME and len(known) > 1
    near = difflib.get_close_matches(got, known, n=1, cutoff=_NEAR_NAME) if worth_a_look else []
    return f"{text}; did you mean {near[0]}?" if near else text


def either(reasons: Sequence[str]) -> str:
    """`must be at least 1, not 0` and `must be auto, not 0` as one sentence."""
    *others, last = reasons
    stems = [reason.partition(", not ")[0] for reason in others]
    return " or ".join([*stems, last.removeprefix("must be ") if stems else last])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two nested dicts of plain values, a line for each key: `training.epochs: 3 -> 4`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        if key not in before or key not in after or before[key] != after[key]:
            was, now = (shown(values[key]) if key in values else "absent" for values in (before, after))
            lines.append(f"{key}: {was} -> {now}")
    return lines


def undoing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str] | None:
    """What takes the changes back on the command line: `training.epochs=3`; None where a key is new or gone."""
    before, after = dict(leaves(old)), dict(leaves(new))
    if before.keys() != after.keys():
        return None
    return [f"{key}={json.dumps(before[key], ensure_ascii=False)}" for key in before if before[key] != after[key]]


def shown(value: Any) -> str:
    """A value as a message quotes it."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # a number of thousands of digits
        return "a number that is too large"
    return text if len(text) <= 60 else text[:57] + "..."


def near_names(name: str, known: Sequence[str]) -> str:
    """`did you mean x?` where a known name is near, else the list of them."""
    near = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1)
    return f"did you mean {near[0]}?" if near else f"there is {', '.join(known) or 'none'}"


def _below(origin: Origin, prefix: tuple[str, ...]) -> Origin:
    return lambda keys: f"{origin((*prefix, *keys))} (variant {prefix[-1]})"


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


_REASONS = {
    "missing": "is required",
    "int_type": "must be a whole number, not {got}",
    "float_type": "must be a number, not {got}",
    "finite_number": "must be a finite number, not {got}",
    "bool_type": "must be true or false, not {got}",
    "string_type": "must be text, not {got}",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length} characters",
    "string_unicode": "must be valid Unicode text",
    "tuple_type": "must be a list, not {got}",
    "list_type": "must be a list, not {got}",
    "too_short": "must hold at least one item",
    "dict_type": "must be a table, not {got}",
    "too_long": "must hold {max_length} items, not {actual_length}",
    "greater_than": "must be above {gt}, not {got}",
    "greater_than_equal": "must be at least {ge}, not {got}",
    "less_than": "must be below {lt}, not {got}",
    "less_than_equal": "must be at most {le}, not {got}",
    "value_error": "{error}",
    "literal_error": "must be {expected}, not {got}",
}
