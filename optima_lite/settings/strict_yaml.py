"""YAML without its traps: text in, plain values out, with the line of every key and all the mistakes found on the way.

Plain scalars follow the core rules of YAML 1.2, which is what a reader expects who never met YAML 1.1: `2e-4` is a
number; `no`, `2024-01-01` and `1:30` are text; `012` is twelve. A key stated twice is a mistake, not a silent choice.
Anchors and merges (`<<`) work; tags, documents after the first and anything executable do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

_PREFIX = "tag:yaml.org,2002:"
_CORE = {
    "merge": re.compile(r"<<\Z"),
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?[0-9]+\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_MOST_VALUES = 100_000  # a recipe has a hundred; only anchors that multiply each other come near


@dataclass(frozen=True, slots=True)
class Mistake:
    """line: counted from 1, None when unknown. path: the keys down to the mistake. what: one sentence, no stop."""

    line: int | None
    path: tuple[str, ...]
    what: str


@dataclass(frozen=True, slots=True)
class Document:
    """value: the plain value, None when the text could not be read. lines: the line of each key, by its path."""

    value: Any
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()


def load(text: str) -> Document:
    """A file's text as a Document; its value is a dict, or None when a mistake says why it is not."""
    document = _parse(text)
    if document.value is None and not document.mistakes:
        return Document(None, mistakes=(Mistake(None, (), "the file is empty"),))
    if document.value is not None and not isinstance(document.value, dict):
        what = "the file must hold `key: value` lines at its top level"
        return Document(None, mistakes=(*document.mistakes, Mistake(1, (), what)))
    return document


def load_value(text: str) -> Document:
    """One value given outside a file: quotes, [lists] and {mappings} are YAML, anything else is a single plain scalar.

    So a `#` or a `: ` in unquoted text is text, as someone who types it on a command line means it.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return _parse(text)
    kind = next((kind for kind, pattern in _CORE.items() if kind != "merge" and pattern.match(text)), "str")
    try:
        return Document(_scalar(kind, text))
    except ValueError:
        return Document(None, mistakes=(Mistake(None, (), "has too many digits"),))


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the plain-scalar rules of YAML 1.2; used only up to the node graph."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  (PyYAML's own class attribute, emptied)


for _kind, _pattern in _CORE.items():
    _Loader.add_implicit_resolver(_PREFIX + _kind, _pattern, None)


class _Stop(Exception):
    """A mistake after which there is no value to go on with."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake.what)
        self.mistake = mistake


def _parse(text: str) -> Document:
    builder = _Builder()
    try:
        node = yaml.compose(text, Loader=_Loader)
        value = None if node is None else builder.build(node, ())
    except yaml.YAMLError as error:
        return Document(None, mistakes=(_syntax_mistake(error, text),))
    except RecursionError:
        return Document(None, mistakes=(Mistake(None, (), "nested too deeply"),))
    except _Stop as stop:
        return Document(None, mistakes=(*builder.mistakes, stop.mistake))
    return Document(value, builder.lines, tuple(builder.mistakes))


def _syntax_mistake(error: yaml.YAMLError, text: str) -> Mistake:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Mistake(line, (), f"holds the unreadable character U+{ord(text[error.position]):04X}; not a text file?")
    if not isinstance(error, yaml.MarkedYAMLError):
        return Mistake(None, (), f"not valid YAML: {error}")
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "unreadable"
    if r"'\t'" in problem:
        problem = "a tab where YAML wants spaces; indent with spaces"
    elif "mapping values are not allowed" in problem:
        problem = "a colon inside plain text, or a line indented too far; put text with a colon in quotes"
    elif error.context == "expected a single document in the stream":
        problem = "a second document begins (---); a recipe is one document"
    else:
        problem = f"not valid YAML: {problem}"
    return Mistake(mark.line + 1 if mark else None, (), problem)


class _Builder:
    """Turns a node graph into plain values, noting lines and mistakes; shared nodes are built anew at each use."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, ...], int] = {}
        self.mistakes: list[Mistake] = []
        self._open: list[yaml.Node] = []
        self._built = 0

    def build(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        line = node.start_mark.line + 1
        self._built += 1
        if self._built > _MOST_VALUES:
            raise _Stop(Mistake(line, path, "the anchors multiply into too many values"))
        if any(node is parent for parent in self._open):
            raise _Stop(Mistake(line, path, "an anchor contains itself"))
        kind = node.tag.removeprefix(_PREFIX)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and kind == "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and kind == "seq":
                return [self.build(item, path) for item in node.value]
            if isinstance(node, yaml.ScalarNode):
                return _scalar(kind, node.value)
            raise ValueError
        except ValueError:
            self.mistakes.append(Mistake(line, path, _unreadable(kind)))
            return None
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                values = self._merged(value, path) | values
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                continue
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.mistakes.append(Mistake(line, path, "a key must be text, not a list or a mapping"))
                continue
            here = (*path, key.value)
            if key.value in first:
                self.mistakes.append(Mistake(line, here, f"stated twice; first on line {first[key.value]}"))
                continue
            first[key.value] = self.lines[here] = line
            values[key.value] = self.build(value, here)
        return values

    def _merged(self, node: yaml.Node, path: tuple[str, ...]) -> dict[str, Any]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values: dict[str, Any] = {}
        for part in reversed(parts):  # the first of several has the last word
            value = self.build(part, path)
            if not isinstance(value, dict):
                self.mistakes.append(Mistake(node.start_mark.line + 1, path, "<< merges mappings only"))
                continue
            values |= value
        return values


def _scalar(kind: str, text: str) -> Any:
    """The value of a scalar. Raises ValueError when the text is none of that kind, or the kind is unknown."""
    if kind in ("str", "merge"):
        return text
    if kind not in _CORE or not _CORE[kind].match(text):
        raise ValueError
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    return int(text) if kind == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _unreadable(kind: str) -> str:
    if kind == "int":
        return "has too many digits"
    return f"the tag {kind if kind.startswith('!') else '!!' + kind} is not supported; write a plain value"
