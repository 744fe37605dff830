"""Questions from a JSONL file in any layout: the recipe says where a row keeps its parts.

`task.fields` holds dotted paths. A name looks into an object, or into each object of a list; a number picks one item of
a list; `*` means every item, for lists within lists: `context.*.1`. Nested lists of sentences join into one fact.

A row's facts come as two lists, one for each agent, or as one list that is dealt out: those marked as needed in turn
after a shuffle, so that neither agent can answer alone, and the others by coin flips. Both agents keep the file's
order, so a fact's place says nothing about its worth. Everything random hangs on the row's own content, never on its
place in the file.

A file is split as its recipe says: a file for each split, a field of the row that names it, or shares. Shares are of
the questions with the same text and facts as one, in the order of a hash of these: 60 rows with .2 and .1 are 12 and 6
and leave 42, a question that all rows share is no obstacle, and the same question never sits in two splits.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..errors import DataError
from ..records import Question
from ..settings.task import FieldSettings, TaskSettings
from .bounded import Worker

Item = TypeVar("Item")
Part = tuple[float, float]
"""Where a part of some rows begins and ends, as shares of their number."""

WHOLE: Part = (0.0, 1.0)
Stamp = tuple[int, int, int] | None
"""When a file was last written, its size and its number."""

_LONGEST_LINE = 16 * 2**20  # bytes; of a row that is one question
_DEEPEST = 64  # brackets within brackets
_LONGEST_MESSAGE = 1_000
SECONDS = 0.5  # of processor time, for an answer pattern on one text
_last_match = Worker("optima_lite.tasks.pattern:last_match", seconds=SECONDS)


def load(settings: TaskSettings, *, split: str) -> list[Question]:
    """The questions of one split (train, validation, held_out), in an order that does not depend on the file's.

    An exact repeat of a row is left out. Raises DataError, with file and line, for the first row that cannot be read,
    and for a split without rows.
    """
    path = file_of(settings, split)
    found = _questions(path, stamp(path), settings.fields, settings.answer_pattern)
    if isinstance(settings.path, Mapping):
        ours = [question for question, _ in found]
    elif settings.fields.split is not None:
        ours = [question for question, stated in found if stated == split]
    else:
        ours = by_shares([question for question, _ in found], settings)[split]
    if not ours:
        hint = "use a larger file, change the shares, or name a file for each split (task.path) or a field for it"
        raise DataError(f"none of the {len(found)} questions falls into the {split} split", where=path, hint=hint)
    return sorted(ours, key=lambda question: (place(identity(question)), question.id))


@lru_cache(maxsize=3)  # as many files as there are splits: each is read once, however often it is asked for
def _questions(
    path: Path, _stamp: Stamp, fields: FieldSettings, pattern: str | None
) -> tuple[tuple[Question, str | None], ...]:
    """Every question of a file once, with the split that its row names if rows do."""
    found: dict[str, tuple[Question, Row]] = {}
    for row in rows(path):
        question = question_of(row, fields, pattern)
        earlier, first = found.setdefault(question.id, (question, row))
        if earlier != question:
            row.refuse(f"the id {question.id!r} belongs to line {first.line} already", "give each row its own id")
    if not found:
        raise DataError("the file has no rows", where=path)
    named = fields.split
    return tuple((question, _stated_split(row, named) if named else None) for question, row in found.values())


def stamp(path: Path) -> Stamp:
    """What changes when a file does; None where there is none, which reading it will tell."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def by_shares(questions: Sequence[Question], settings: TaskSettings) -> dict[str, list[Question]]:
    """The questions of each split by the task's shares, which hold whatever the number of questions.

    Each share of at least half a question gets one. With more held-out questions the others only become fewer.
    """
    alike: dict[str, list[Question]] = {}
    for question in questions:
        alike.setdefault(identity(question), []).append(question)
    order = sorted(alike, key=lambda one: (place(one), one))
    held_out = round(len(order) * settings.held_out_share)
    validation = held_out + round(len(order) * settings.validation_share)
    parts = {"train": order[validation:], "validation": order[held_out:validation], "held_out": order[:held_out]}
    return {split: [question for one in part for question in alike[one]] for split, part in parts.items()}


def identity(question: Question) -> str:
    """What makes a question the one that it is: its text and its facts, whoever holds them. Without facts, its text.
    Case and spacing do not count."""
    parts = [question.text, *sorted(fact for hand in question.contexts for fact in hand)]
    return "\n".join(" ".join(part.split()).casefold() for part in parts)


_SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "held_out": "held_out", "test": "held_out",
}  # fmt: skip


def _stated_split(row: Row, path: str) -> str:
    """The split that a row names."""
    stated = row.text(row.at(path), path)
    if stated.casefold() not in _SPLIT_NAMES:
        row.refuse(f"{path} holds {stated!r}, which is no split", f"one of {', '.join(_SPLIT_NAMES)}")
    return _SPLIT_NAMES[stated.casefold()]


def file_of(settings: TaskSettings, split: str) -> Path:
    """The file that `task.path` names for a split. Raises DataError where it names none, or something that is no
    regular file: a pipe may never end."""
    if settings.path is None:
        raise DataError("the recipe reads a file of questions and names none", hint="add task.path=FILE.jsonl")
    named = settings.path[split] if isinstance(settings.path, Mapping) else settings.path
    path = Path(os.path.expanduser(named))  # Path.expanduser raises for a user that does not exist
    if os.path.isdir(path):
        raise DataError("a folder, not a file", where=path, hint="give one .jsonl file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError("a device or a pipe, not a file", where=path, hint="save the rows to a file first")
    return path


def take(items: Sequence[Item], count: int, *, start: int = 0, part: Part = WHOLE) -> list[Item]:
    """`count` items of a part from its number `start` on, beginning again at its end: iteration k goes on where k - 1
    stopped. None comes twice: where there are fewer, all of them come. Parts that do not overlap share no item."""
    first, last = (round(bound * len(items)) for bound in part)
    own = items[first:last]
    return [own[(start + i) % len(own)] for i in range(min(count, len(own)))]


def place(text: str) -> float:
    """A number in [0, 1) that belongs to the text, even if half of a character is in it."""
    folded = " ".join(text.split()).casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(folded, digest_size=6).digest()) / 2**48


@dataclass(frozen=True, slots=True)
class Row:
    """A row and where it stands, to look into it and to say what is wrong with it. line: counted from 1."""

    path: Path
    line: int
    values: dict[str, Any]

    def refuse(self, what: str, hint: str | None = None) -> NoReturn:
        if len(what) > _LONGEST_MESSAGE:  # it may quote the row
            what = what[:_LONGEST_MESSAGE] + "..."
        raise DataError(what, where=f"{self.path}:{self.line}", hint=hint)

    def at(self, path: str) -> Any:
        """What the row holds at a dotted path. Raises DataError where the path leads nowhere."""
        return self._follow(self.values, path.split("."), ())

    def _follow(self, value: Any, steps: Sequence[str], taken: tuple[str, ...]) -> Any:
        if not steps:
            return value
        step, rest = steps[0], steps[1:]
        if isinstance(value, dict) and step in value:
            return self._follow(value[step], rest, (*taken, step))
        if isinstance(value, list):
            if step.isdecimal() and int(step) < len(value):
                return self._follow(value[int(step)], rest, (*taken, step))
            if not step.isdecimal():
                return [self._follow(item, rest if step == "*" else steps, (*taken, "*")) for item in value]
        there = f"the keys there are {', '.join(value)}" if isinstance(value, dict) else f"there is {kind(value)}"
        place = f" at {'.'.join(taken)}" if taken else ""
        self.refuse(
            f"no field {'.'.join([*taken, *steps])!r}; {there}{place}", "set task.fields to the row's own paths"
        )

    def text(self, value: Any, path: str) -> str:
        """Text, a number, or nested lists of them, as one line. Raises DataError for anything else."""
        if isinstance(value, list):
            return " ".join(filter(None, (self.text(item, path) for item in value)))
        if value is None:
            return ""
        if isinstance(value, bool | dict):
            self.refuse(f"{path} holds {kind(value)} where text is needed")
        return " ".join(self.whole(str(value), path).split())

    def whole(self, text: str, path: str) -> str:
        """The text, if it can be written as UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError:
            self.refuse(f"{path} holds half of a character (a lone surrogate)")
        return text


def rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file. Raises DataError, with file and line, for what cannot be read."""
    for line, raw in lines(path):
        yield row_of(path, line, raw)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, each with its number from 1; of one that is longer than a row may be,
    its beginning, which is longer too. Raises DataError for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(iter(partial(file.readline, _LONGEST_LINE + 1), b""), start=1):
                if raw.strip() not in (b"", b"\xef\xbb\xbf"):
                    yield line, raw
                rest = raw
                while len(rest) > _LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(_LONGEST_LINE + 1)
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, hint="task.path is relative to the working folder") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error


def count_lines(path: Path) -> int:
    """How many lines a file has. Raises DataError for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(some.count(b"\n") for some in iter(partial(file.read, 1 << 20), b"")) + 1
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error


def row_of(path: Path, line: int, raw: bytes) -> Row:
    """The row in a line of a file. Raises DataError, with file and line, where there is none."""
    if len(raw) > _LONGEST_LINE:
        what = f"a line of more than {_LONGEST_LINE >> 20} MB"
        raise DataError(what, where=f"{path}:{line}", hint="one JSON object a line, with a question in it")
    return Row(path, line, _parsed(raw, f"{path}:{line}"))


def _parsed(raw: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=where, hint="save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        hint = "each line holds one whole JSON object; an indented or bracketed .json file is no JSONL"
        raise DataError(f"not JSON: {error.msg} at column {error.colno}", where=where, hint=hint) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise DataError("JSON that is too long or too deep to read", where=where) from error
    if too_deep(row):
        raise DataError("JSON that is too long or too deep to read", where=where)
    if not isinstance(row, dict):
        raise DataError(f"{kind(row)} where a JSON object is needed", where=where, hint="one {...} a line")
    return row


def too_deep(value: Any, levels: int = _DEEPEST) -> bool:
    """Whether lists and objects are nested in more than so many levels: what reads them goes down with them."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(too_deep(item, levels - 1) for item in inside if isinstance(item, dict | list))


def question_of(row: Row, fields: FieldSettings, pattern: str | None) -> Question:
    """The question that a row holds, its facts dealt out. Raises DataError where it holds none."""
    text = row.at(fields.question)
    if not isinstance(text, str) or not text.strip():
        row.refuse(f"{fields.question} holds {kind(text)} where the question's text is needed")
    text = row.whole(text.strip(), fields.question)
    answers = _answers(row, fields.answers, pattern)
    if fields.contexts:
        hands = [_facts(row, path, titles=None) for path in fields.contexts]
    else:
        hands = [_facts(row, fields.context, titles=fields.titles)] if fields.context else []
    facts = [fact for hand in hands for fact in hand]
    needed = _needed(row, fields, facts)
    id = row.text(row.at(fields.id), fields.id) if fields.id else digest(text, answers, [fact.text for fact in facts])
    if not id:
        row.refuse(f"{fields.id} is empty")

    first, second = hands if len(hands) == 2 else deal(facts, needed, random.Random(f"deal/{id}"))
    contexts = tuple(fact.text for fact in first if fact.text), tuple(fact.text for fact in second if fact.text)
    supporting = tuple(fact.text for i, fact in enumerate(facts) if i in needed and fact.text)
    return Question(id, text, answers, contexts, supporting)


def digest(*parts: Any) -> str:
    """An id made of the content."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def _answers(row: Row, path: str, pattern: str | None) -> tuple[str, ...]:
    value = row.at(path)
    if isinstance(value, dict):
        example = f"{path}.{next(iter(value), '')}"
        row.refuse(
            f"{path} holds an object with {', '.join(value)}", f"name the part, such as task.fields.answers={example}"
        )
    texts = [row.text(item, path) if pattern is None else _marked(row, item, path, pattern) for item in _flat(value)]
    answers = tuple(dict.fromkeys(filter(None, texts)))
    if not answers:
        row.refuse(f"{path} holds no answer" + (f" that matches task.answer_pattern {pattern}" if pattern else ""))
    return answers


def _marked(row: Row, value: Any, path: str, pattern: str) -> str:
    """What the pattern takes out of the text as it stands, line ends included; empty where it matches nothing."""
    text = row.whole(value, path) if isinstance(value, str) else row.text(value, path)
    found = _last_match(pattern, text)
    if found is None:
        what = f"task.answer_pattern takes longer than {SECONDS} seconds on {path}, or needs too much memory"
        row.refuse(what, "a pattern without repetition inside repetition, such as (a+)+")
    return " ".join(str(found).split())


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


@dataclass(frozen=True, slots=True)
class Fact:
    """A context item: what the agent reads, empty for an empty item, and what a supporting mark would call it."""

    text: str
    mark: str


def _facts(row: Row, path: str, *, titles: str | None) -> list[Fact]:
    value = row.at(path)
    items = [] if value in (None, "") else value if isinstance(value, list) else [value]
    texts = [row.text(item, path) for item in items]
    if titles is None:
        return [Fact(text, text) for text in texts]
    names = [row.text(item, titles) for item in _flat(row.at(titles))]
    if len(names) != len(texts):
        row.refuse(f"{titles} holds {len(names)} titles for the {len(texts)} items of {path}")
    return [Fact(f"{name}: {text}" if text else "", name) for name, text in zip(names, texts, strict=True)]


def _needed(row: Row, fields: FieldSettings, facts: Sequence[Fact]) -> set[int]:
    """Positions of the facts that the row marks as supporting."""
    if fields.support is None:
        return set()
    marks = [mark for mark in _flat(row.at(fields.support)) if mark is not None]
    if marks and all(isinstance(mark, bool) for mark in marks):
        if len(marks) != len(facts):
            row.refuse(f"{fields.support} marks {len(marks)} items, but there are {len(facts)}")
        return {i for i, mark in enumerate(marks) if mark}
    names = {row.text(mark, fields.support) for mark in marks if isinstance(mark, str)}
    needed = {i for i, fact in enumerate(facts) if fact.mark in names}
    needed |= {mark for mark in marks if isinstance(mark, int) and 0 <= mark < len(facts)}
    if marks and not needed:
        what = f"{fields.support} marks nothing that is in the context: {', '.join(str(mark) for mark in marks[:3])}"
        row.refuse(what, "set task.fields.titles to what the marks name, or task.fields.support=null")
    return needed


def deal(facts: Sequence[Item], needed: set[int], rng: random.Random) -> tuple[list[Item], list[Item]]:
    """The facts as two hands: those needed in turn after a shuffle, the others by coin flips, all in their old
    order."""
    order = sorted(needed)
    rng.shuffle(order)
    first = rng.randrange(2)  # whoever gets the first needed fact has one more when their number is odd
    holder = {position: (first + turn) % 2 for turn, position in enumerate(order)}
    holder |= {position: rng.randrange(2) for position in range(len(facts)) if position not in needed}
    hands: tuple[list[Item], list[Item]] = ([], [])
    for position, fact in enumerate(facts):
        hands[holder[position]].append(fact)
    return hands


def kind(value: Any) -> str:
    """What a value is, as messages call it."""
    if isinstance(value, str):
        return "text" if value.strip() else "empty text"
    kinds = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
