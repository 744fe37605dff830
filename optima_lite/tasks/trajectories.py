"""Dialogues that others have held, from a JSONL file: a row of messages, in OpenAI's layout or in ShareGPT's.

    {"messages": [{"role": "user", "name": "Alice", "content": "..."}, ...], "question": "...", "answer": "..."}
    {"conversations": [{"from": "human", "value": "..."}, ...], "question": "...", "answer": "..."}

The question, its facts and its gold answers are beside the messages: by the paths of the recipe's `task.fields` where
its rows come from a file, else, and where a row lacks those, as `question`, `answers` or `answer`, and `contexts` (the
facts of the first agent and of the second), `context` or `facts` (one list). Nothing here knows a team: who says a
message is looked up in what was given, and everything that does not fit is refused by row, as `Unfit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..records import Question
from ..settings.task import FieldSettings, TaskSettings
from .jsonl import Row, kind, lines, question_of, row_of

AS_QUESTION, LEFT_OUT = "question", "nobody"  # what a role of a file may stand for, beside a role of the team
Roles = Mapping[str, str]
"""Who says the messages of a role of the file, or of a name that stands in it: somebody of the team, or the above."""

# The layouts: where the messages are, and where in one of them is who said what.
_LAYOUTS = {"messages": ("role", "content"), "conversations": ("from", "value")}


class Unfit(DataError):
    """A row that cannot be used. line: its number from 1; 0 where it is not known. why: in two words, to be counted."""

    def __init__(self, why: str, what: str, *, line: int = 0) -> None:
        super().__init__(what)
        self.why, self.line = why, line


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a row holds. said: each message, with who says it. unread: messages that nobody says, such as system
    prompts. dealt: whether the row tells who holds which facts."""

    line: int
    question: Question
    said: tuple[tuple[str, str], ...]
    unread: int
    dealt: bool


def trajectories(path: Path, roles: Roles, task: TaskSettings) -> Iterator[Trajectory | Unfit]:
    """Every row of a file, or why it cannot be used. Raises DataError for a file that cannot be read."""
    for line, raw in lines(path):
        try:
            yield _trajectory(_row(path, line, raw), roles, task)
        except Unfit as unfit:
            unfit.line = line
            yield unfit


def _row(path: Path, line: int, raw: bytes) -> Row:
    try:
        return row_of(path, line, raw)
    except DataError as error:
        raise Unfit("not JSON", error.what.removeprefix("not JSON: ")) from error


def _trajectory(row: Row, roles: Roles, task: TaskSettings) -> Trajectory:
    said: list[tuple[str, str]] = []
    asked: list[str] = []
    messages = _messages(row)
    for number, (names, text) in enumerate(messages, start=1):
        who = _who(number, names, roles)
        if not text.strip():
            raise Unfit("empty", f"message {number} is empty")
        if who == AS_QUESTION:
            asked.append(text)
        elif who != LEFT_OUT:
            said.append((who, text))
    if not said:
        raise Unfit("empty", "nobody of the team says anything")
    fields, pattern = _fields(row, task)
    question = _question(row, asked, fields, pattern)
    unread = len(messages) - len(said) - len(asked)
    return Trajectory(row.line, question, tuple(said), unread, dealt=fields.contexts is not None)


def _messages(row: Row) -> list[tuple[tuple[str, ...], str]]:
    """Each message, with what its speaker is called: by name, where it has one, then by role."""
    layout = next((key for key in _LAYOUTS if key in row.values), None)
    if layout is None:
        raise Unfit("no messages", f"has neither {' nor '.join(_LAYOUTS)}; its keys are {', '.join(row.values)[:300]}")
    found = row.values[layout]
    if not isinstance(found, list) or not found:
        raise Unfit("empty" if found == [] else "no messages", f"{layout} holds {kind(found)}, and no messages")
    return [_message(row, number, one, *_LAYOUTS[layout]) for number, one in enumerate(found, start=1)]


def _message(row: Row, number: int, found: Any, role: str, content: str) -> tuple[tuple[str, ...], str]:
    names = [found.get(key) for key in ("name", role)] if isinstance(found, dict) else []
    text = _text(found.get(content)) if isinstance(found, dict) else None
    if not isinstance(text, str) or not any(isinstance(name, str) for name in names):
        raise Unfit("no messages", f"message {number} is not an object with the texts {role} and {content}")
    try:
        whole = row.whole(text, f"message {number}")
    except DataError as error:
        raise Unfit("not text", error.what) from error
    return tuple(name for name in names if isinstance(name, str) and name), whole


def _text(content: Any) -> Any:
    """OpenAI's content may be a list of parts; those of text, where there are no others, are one text."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _who(number: int, names: tuple[str, ...], roles: Roles) -> str:
    folded = {name.casefold(): who for name, who in roles.items()}
    for name in names:
        if name.casefold() in folded:
            return folded[name.casefold()]
    called = " or ".join(name[:100] for name in names)
    raise Unfit("unknown role", f"message {number} is by {called}, who has no part in the team")


def _question(row: Row, asked: list[str], fields: FieldSettings, pattern: str | None) -> Question:
    """The question of a row; its text may be what somebody asked in the messages."""
    if asked and fields.question not in row.values:
        row = Row(row.path, row.line, {**row.values, fields.question: "\n".join(asked).strip()})
    for key, why in ((fields.question, "no question"), (fields.answers, "no answer")):
        if key.split(".")[0] not in row.values or row.values[key.split(".")[0]] in (None, "", []):
            raise Unfit(why, f"no field {key}, and without it there is no score")
    try:
        return question_of(row, fields, pattern)
    except DataError as error:
        why = "no answer" if error.what.startswith(fields.answers) else "no question"
        raise Unfit(why, error.what) from error


def _fields(row: Row, task: TaskSettings) -> tuple[FieldSettings, str | None]:
    """Where the row keeps its question: as the recipe says, if it does, and the row has that."""
    own = task.fields if task.name == "jsonl" else FieldSettings()

    def first(*paths: str | None) -> str | None:
        return next((path for path in paths if path and path.split(".")[0] in row.values), None)

    contexts = own.contexts if own.contexts and first(*own.contexts) else None
    if contexts is None and isinstance(row.values.get("contexts"), list) and len(row.values["contexts"]) == 2:
        contexts = ("contexts.0", "contexts.1")
    context = None if contexts else first(own.context, "context", "facts")
    titles = own.titles if context == own.context and first(own.titles) else None
    support = own.support if first(own.support) else None
    answers = first(own.answers, "answers", "answer") or own.answers
    changed = {"answers": answers, "context": context, "contexts": contexts, "titles": titles, "support": support}
    pattern = task.answer_pattern if task.name == "jsonl" and answers == own.answers else None
    return own.model_copy(update={**changed, "id": None, "split": None}), pattern
