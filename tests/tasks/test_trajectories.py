"""Rows of messages in the two layouts: what is read of them, and why a row cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optima_lite.settings.task import FieldSettings, TaskSettings
from optima_lite.tasks.trajectories import Trajectory, Unfit, trajectories

ROLES = {"Alice": "Alice", "Bob": "Bob", "human": "Alice", "gpt": "Bob", "system": "nobody", "asker": "question"}
GIVEN = {"question": "Who?", "answer": "Tess", "contexts": [["a b c"], ["d e f"]]}


def messages(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in said]


def read(path: Path, *rows: Any, task: TaskSettings | None = None) -> list[Trajectory | Unfit]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = path / "talks.jsonl"
    path.write_bytes(b"\n".join(lines))
    return [*trajectories(path, ROLES, task or TaskSettings(name="world"))]


def test_both_layouts_say_the_same(tmp_path: Path) -> None:
    openai = {**GIVEN, "messages": messages(("system", "Be brief."), ("Alice", "a b"), ("bob", "<A> Tess </A>"))}
    parts = {"role": "assistant", "name": "Bob", "content": [{"type": "text", "text": "<A> Tess </A>"}]}
    named = {**GIVEN, "messages": [{"role": "user", "name": "Alice", "content": "a b"}, parts]}
    turns = [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "<A> Tess </A>"}]
    sharegpt = {**GIVEN, "conversations": turns}
    found = read(tmp_path, openai, named, sharegpt)
    for line, one in enumerate(found, start=1):
        assert isinstance(one, Trajectory), one
        assert one.said == (("Alice", "a b"), ("Bob", "<A> Tess </A>")) and one.line == line and one.dealt
        assert (one.question.text, one.question.answers) == ("Who?", ("Tess",))
        assert one.question.contexts == (("a b c",), ("d e f",))
    assert [one.unread for one in found if isinstance(one, Trajectory)] == [1, 0, 0]


def test_a_question_may_be_what_somebody_asks_and_facts_one_list(tmp_path: Path) -> None:
    row = {"answers": ["4", "four"], "facts": ["a", "b"], "messages": messages(("asker", "2 + 2?"), ("Bob", "4"))}
    (found,) = read(tmp_path, row)
    assert isinstance(found, Trajectory)
    assert (found.question.text, found.question.answers, found.dealt) == ("2 + 2?", ("4", "four"), False)
    assert sorted(sum(found.question.contexts, ())) == ["a", "b"] and found.said == (("Bob", "4"),)


def test_a_recipe_s_own_fields_come_first(tmp_path: Path) -> None:
    fields = FieldSettings(question="task.ask", answers="gold", contexts=("his", "hers"))
    task = TaskSettings(name="jsonl", path="x.jsonl", fields=fields, answer_pattern="#### (.*)")
    row = {
        "task": {"ask": "How many?"},
        "gold": "so #### 7",
        "his": ["x"],
        "hers": "y",
        "messages": messages(("Bob", "7")),
    }
    found, other = read(tmp_path, row, {**row, "gold": "seven"}, task=task)
    assert isinstance(found, Trajectory)
    assert (found.question.text, found.question.answers) == ("How many?", ("7",))
    assert found.question.contexts == (("x",), ("y",))
    assert isinstance(other, Unfit) and other.why == "no answer" and "matches task.answer_pattern" in other.what


@pytest.mark.parametrize(
    ("row", "why", "what"),
    [
        (b'{"messages": [', "not JSON", "Expecting value at column 15"),
        (b"\xff\xfe", "not JSON", "not UTF-8 text"),
        ([1], "not JSON", "a list where a JSON object is needed"),
        (GIVEN, "no messages", "has neither messages nor conversations; its keys are question, answer, contexts"),
        ({**GIVEN, "messages": []}, "empty", "messages holds a list, and no messages"),
        ({**GIVEN, "messages": "hello"}, "no messages", "messages holds text, and no messages"),
        ({**GIVEN, "messages": [{"role": "Bob"}]}, "no messages", "message 1 is not an object with the texts role"),
        ({**GIVEN, "messages": messages(("Bob", "a"), ("Carol", "b"))}, "unknown role", "message 2 is by Carol, who"),
        ({**GIVEN, "messages": messages(("Bob", " \n"))}, "empty", "message 1 is empty"),
        ({**GIVEN, "messages": messages(("system", "Be brief."))}, "empty", "nobody of the team says anything"),
        ({"question": "Who?", "messages": messages(("Bob", "a"))}, "no answer", "no field answers, and without it"),
        ({"answer": "a", "messages": messages(("Bob", "a"))}, "no question", "no field question"),
        ({**GIVEN, "answer": {"a": 1}, "messages": messages(("Bob", "a"))}, "no answer", "answer holds an object"),
        (b'{"messages": [{"role": "Bob", "content": "\\ud83d"}]}', "not text", "holds half of a character"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_its_line(tmp_path: Path, row: Any, why: str, what: str) -> None:
    good = {**GIVEN, "messages": messages(("Bob", "a"))}
    before, found, after = read(tmp_path, good, row, good)
    assert isinstance(found, Unfit) and isinstance(before, Trajectory) and isinstance(after, Trajectory)
    assert (found.line, found.why) == (2, why)
    assert what in found.what


def test_a_mark_of_the_byte_order_empty_lines_and_a_line_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optima_lite.tasks.jsonl._LONGEST_LINE", 2_000)
    good = json.dumps({**GIVEN, "messages": messages(("Bob", "a"))}).encode()
    endless = b'{"question": "' + b"x" * 5_000 + b'"}'
    found = read(tmp_path, b"\xef\xbb\xbf" + good, b"", endless, good)
    assert [(one.line, isinstance(one, Trajectory)) for one in found] == [(1, True), (3, False), (4, True)]
    assert isinstance(found[1], Unfit) and found[1].why == "not JSON" and "a line of more than" in found[1].what


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["Alice", "human", "asker"]),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "name", "content", "value", "type", "text"]), inside, max_size=3
        )
    ),
    max_leaves=6,
)
_KEYS = st.sampled_from(["messages", "conversations", "question", "answer", "answers", "context", "contexts", "facts"])


@settings(max_examples=30)
@given(rows=st.lists(st.dictionaries(_KEYS, _ODD, max_size=6), max_size=4))
def test_whatever_a_row_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = [*trajectories(path, ROLES, TaskSettings(name="world"))]
    assert [one.line for one in found] == [*range(1, len(rows) + 1)]
