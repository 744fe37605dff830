"""Rows of any layout to questions: what is read, how facts are dealt, how rows are split, and what each error says."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.errors import DataError
from optima_lite.records import Question
from optima_lite.settings.config import load_recipe
from optima_lite.settings.recipe import Recipe
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings
from optima_lite.settings.task import FieldSettings, TaskSettings
from optima_lite.tasks import jsonl
from optima_lite.tasks.questions import training_questions

SPLITS = ("train", "validation", "held_out")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows, or lines as they stand, to a file."""

    def to_file(*rows: Any) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
        )
        return path

    return to_file


def settings(path: Path | None, *, fields: dict[str, Any] | None = None, **task: Any) -> TaskSettings:
    """Settings that put every row into the training split, unless told otherwise."""
    shares = {"held_out_share": 0.0, "validation_share": 0.0}
    place = None if path is None else str(path)
    return TaskSettings(name="jsonl", path=place, fields=FieldSettings(**(fields or {})), **(shares | task))


def load(path: Path, **task: Any) -> list[Question]:
    return jsonl.load(settings(path, **task), split="train")


def test_a_file_is_read_once_for_all_its_splits_and_anew_when_it_changes(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    rows = jsonl.rows

    def counted(path: Path) -> Any:
        read.append(path)
        return rows(path)

    monkeypatch.setattr(jsonl, "rows", counted)
    path = write(*({"question": f"q{k}", "answers": "a", "context": []} for k in range(20)))
    for _ in range(2):
        for split in SPLITS:
            jsonl.load(settings(path, held_out_share=0.2, validation_share=0.2), split=split)
    assert len(read) == 1
    write({"question": "another", "answers": "a", "context": []})
    assert [question.text for question in load(path)] == ["another"] and len(read) == 2


def only(path: Path, **task: Any) -> Question:
    (question,) = load(path, **task)
    return question


def refusal(path: Path, **task: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **task)
    return str(caught.value).replace(str(path), "F")


# ---- layouts


def test_the_plain_layout(write: Write) -> None:
    question = only(
        write({"question": " Who? ", "answers": ["Ann", "Anna", "Ann"], "context": ["A  fact.", "Another\nfact."]})
    )
    assert (question.text, question.answers) == ("Who?", ("Ann", "Anna"))
    assert sorted(sum(question.contexts, ())) == ["A fact.", "Another fact."]
    assert question.supporting == ()


def test_two_lists_are_not_dealt(write: Write) -> None:
    path = write({"question": "Q", "answers": "x", "mine": ["a", "", ["b", " c"]], "yours": "d"})
    question = only(path, fields={"contexts": ("mine", "yours")})
    assert question.contexts == (("a", "b c"), ("d",))


@pytest.mark.parametrize("context", [[], "", None])
def test_an_empty_context_leaves_the_question_alone(write: Write, context: Any) -> None:
    assert only(write({"question": "Q", "answers": "x", "context": context})).contexts == ((), ())
    assert only(write({"question": "Q", "answers": "x"}), fields={"context": None}).contexts == ((), ())


def test_hotpot_layout(write: Write) -> None:
    row = {
        "id": "h1",
        "question": "Q",
        "answer": "x",
        "supporting_facts": {"title": ["Two", "Four", "Two"], "sent_id": [0, 1, 2]},
        "context": {"title": ["One", "Two", "Three", "Four"], "sentences": [["a.", " b."], ["c."], [], ["d.", " e."]]},
    }
    task = load_recipe("hotpotqa_jsonl").recipe.task
    question = only(write(row), fields=task.fields.model_dump())
    assert question.id == "h1"
    assert sorted(sum(question.contexts, ())) == ["Four: d. e.", "One: a. b.", "Two: c."]
    assert question.supporting == ("Two: c.", "Four: d. e.")
    assert all(len(set(hand) & set(question.supporting)) == 1 for hand in question.contexts)


def test_gsm8k_layout(write: Write) -> None:
    task = load_recipe("gsm8k_jsonl").recipe.task
    row = {"question": "How many?", "answer": "#### is no answer here\n48+24 = 72\n#### 1,072"}
    question = only(write(row), fields=task.fields.model_dump(), answer_pattern=task.answer_pattern)
    assert question.answers == ("1,072",)


def test_lists_of_lists_and_of_objects(write: Write) -> None:
    path = write(
        {"q": [{"text": "Q"}], "gold": {"aliases": [["x", 5], 2.5]}, "context": [["T1", ["a", "b"]], ["T2", ["c"]]]}
    )
    fields = {"question": "q.0.text", "answers": "gold.aliases", "context": "context.*.1", "titles": "context.*.0"}
    question = only(path, fields=fields)
    assert question.answers == ("x", "5", "2.5")
    assert sorted(sum(question.contexts, ())) == ["T1: a b", "T2: c"]
    path = write({"question": "Q", "answers": "x", "paragraphs": [{"t": "a", "ok": True}, {"t": "b", "ok": False}]})
    assert only(path, fields={"context": "paragraphs.t", "support": "paragraphs.ok"}).supporting == ("a",)


@pytest.mark.parametrize("marks", [["a", " b "], [0, 1], [True, True, False], [[0], [1]]])
def test_supporting_marks(write: Write, marks: list[Any]) -> None:
    path = write({"question": "Q", "answers": "x", "context": ["a", "b", "c"], "needed": marks})
    assert only(path, fields={"support": "needed"}).supporting == ("a", "b")


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [(r"= (\d+)", "7"), (r"\d+", "9"), (r"(x)|= (\d+)", "7"), (r"= (\d+)(,)?", "7"), (r"(?s)one.*?(\w+) 9", "then")],
)
def test_the_answer_is_the_last_match_s_last_group(write: Write, pattern: str, answer: str) -> None:
    path = write({"question": "Q", "answers": "one = 3\n two = 7 then 9", "context": []})
    assert only(path, answer_pattern=pattern).answers == (answer,)


def test_blank_lines_a_bom_and_other_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"question": "Q\u2028?", "answers": "ü", "context": []}, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf\r\n" + row + b"\r\n  \n\n")
    assert only(path).answers == ("ü",)


# ---- dealing


def rows(count: int) -> list[dict[str, Any]]:
    facts = [f"fact {i}" for i in range(8)]
    return [{"question": f"Q{i}", "answers": str(i), "context": facts, "needed": [1, 3, 4, 6]} for i in range(count)]


def test_needed_facts_are_dealt_alternately_and_the_others_by_chance(write: Write) -> None:
    questions = load(write(*rows(200)), fields={"support": "needed"})
    others, holders = [], set()
    for question in questions:
        hands = [set(hand) for hand in question.contexts]
        assert [len(hand & set(question.supporting)) for hand in hands] == [2, 2]
        assert all(list(hand) == sorted(hand) for hand in question.contexts)  # the order of the file
        others.append(len(hands[0]) - 2)
        holders.add(frozenset(hands[0] & set(question.supporting)))
    assert set(others) == {0, 1, 2, 3, 4}
    assert 1.7 < sum(others) / len(others) < 2.3
    assert len(holders) == 6  # every pair of the four is the first agent's at some time


def test_a_single_needed_fact_goes_to_either_agent(write: Write) -> None:
    questions = load(write(*[row | {"needed": [2]} for row in rows(100)]), fields={"support": "needed"})
    first = sum("fact 2" in question.contexts[0] for question in questions)
    assert 30 < first < 70


def test_nothing_depends_on_the_order_of_the_file(write: Write) -> None:
    mixed = rows(60)
    random.Random(1).shuffle(mixed)
    straight = [jsonl.load(settings(write(*rows(60)), held_out_share=0.3), split=split) for split in SPLITS[::2]]
    assert straight == [jsonl.load(settings(write(*mixed), held_out_share=0.3), split=split) for split in SPLITS[::2]]


# ---- splits


@pytest.mark.parametrize(("count", "sizes"), [(60, [42, 6, 12]), (10, [7, 1, 2]), (2000, [1400, 200, 400])])
def test_splits_have_their_shares_whatever_the_size_of_the_file(write: Write, count: int, sizes: list[int]) -> None:
    task = settings(write(*rows(count)), held_out_share=0.2, validation_share=0.1)
    parts = [jsonl.load(task, split=split) for split in SPLITS]
    assert [len(part) for part in parts] == sizes
    assert len({question.id for part in parts for question in part}) == count


def test_a_question_of_which_only_the_answer_or_the_case_differs_sits_in_one_split(write: Write) -> None:
    again = [row | {"question": row["question"].lower() + " ", "answers": "other"} for row in rows(50)]
    task = settings(write(*rows(100), *again), held_out_share=0.2, validation_share=0.1)
    texts = [{question.text.casefold() for question in jsonl.load(task, split=split)} for split in SPLITS]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert sum(len(jsonl.load(task, split=split)) for split in SPLITS) == 150


def tickets(count: int) -> list[dict[str, Any]]:
    """One question for all rows, as in classification: only the facts differ."""
    question = {"question": "Which team should handle this ticket?"}
    return [
        question | {"answers": ["billing", "login"][i % 2], "context": [f"ticket {i}", "rules"]} for i in range(count)
    ]


def test_a_constant_question_is_split_by_its_facts(write: Write) -> None:
    task = settings(write(*tickets(60)), held_out_share=0.2, validation_share=0.1)
    assert [len(jsonl.load(task, split=split)) for split in SPLITS] == [42, 6, 12]


@given(count=st.integers(3, 200), held_out=st.integers(0, 50), validation=st.integers(0, 49), seed=st.integers(0, 9))
def test_shares_hold_and_lose_nothing(count: int, held_out: int, validation: int, seed: int) -> None:
    questions = [Question(str(i), f"Q{i} {seed}", ("x",), ((), ())) for i in range(count)]
    task = TaskSettings(name="jsonl", held_out_share=held_out / 100, validation_share=validation / 100)
    parts = jsonl.by_shares(questions, task)
    assert sorted(question.id for part in parts.values() for question in part) == sorted(q.id for q in questions)
    assert len(parts["held_out"]) == round(count * task.held_out_share)
    assert abs(len(parts["validation"]) - count * task.validation_share) <= 0.5


def test_more_held_out_rows_take_from_the_others_only(write: Write) -> None:
    path = write(*rows(300))
    few = {q.id for q in jsonl.load(settings(path, held_out_share=0.2), split="held_out")}
    many = {q.id for q in jsonl.load(settings(path, held_out_share=0.4), split="held_out")}
    assert few < many


def test_a_field_says_where_a_row_belongs(write: Write) -> None:
    named = ["train", "Dev", "test", "held_out", "validation"]
    path = write(*[row | {"part": name} for row, name in zip(rows(5), named, strict=True)])
    parts = {split: jsonl.load(settings(path, fields={"split": "part"}), split=split) for split in SPLITS}
    texts = {split: {question.text for question in part} for split, part in parts.items()}
    assert texts == {"train": {"Q0"}, "validation": {"Q1", "Q4"}, "held_out": {"Q2", "Q3"}}
    path = write(rows(1)[0] | {"part": "later"})
    assert refusal(path, fields={"split": "part"}).startswith(
        "F:1: part holds 'later', which is no split\n  try: one of train, "
    )


def test_a_file_for_each_split(tmp_path: Path) -> None:
    files = {}
    for number, split in enumerate(SPLITS):
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows(3 + number)), encoding="utf-8")
    task = TaskSettings(name="jsonl", path=files)
    assert [len(jsonl.load(task, split=split)) for split in SPLITS] == [3, 4, 5]
    Path(files["held_out"]).unlink()
    with pytest.raises(DataError, match=r"held_out\.jsonl: no such file"):
        jsonl.load(task, split="held_out")


def test_an_exact_repeat_is_left_out(write: Write) -> None:
    assert len(load(write(*rows(3), *rows(3)))) == 3


def test_take_goes_on_and_begins_again(write: Write) -> None:
    questions = load(write(*rows(5)))
    assert jsonl.take(questions, 3) + jsonl.take(questions, 3, start=3) == [*questions, questions[0]]
    assert jsonl.take(questions, 2, start=14) == [questions[4], questions[0]]
    assert jsonl.take(questions, 9) == questions, "none comes twice"


@given(st.integers(0, 30), st.floats(0, 1), st.integers(0, 50), st.integers(0, 40))
def test_parts_share_nothing_and_leave_nothing_out(rows: int, border: float, start: int, count: int) -> None:
    items = list(range(rows))
    first = jsonl.take(items, rows, part=(0.0, border))
    second = jsonl.take(items, rows, part=(border, 1.0))
    assert sorted(first + second) == items
    assert set(jsonl.take(items, count, start=start, part=(border, 1.0))) <= set(second)


@pytest.mark.parametrize("schedule", ["isft", "idpo", "isft-dpo"])
def test_imitation_and_preference_never_ask_the_same(write: Write, schedule: str) -> None:
    """Of fewer rows than one iteration asks for, in iterations enough to begin again many times."""
    path = write(*rows(40))
    recipe = Recipe(
        model=ModelSettings(name="tiny"),
        task=settings(path),
        schedule=schedule,  # type: ignore[arg-type]
        training=TrainingSettings(questions=60),
        dpo=DpoSettings(questions=30),
    )
    asked = [
        {one.id for i in range(5) for one in training_questions(recipe, i, preference=step)} for step in (False, True)
    ]
    everything = {one.id for one in load(path)}
    assert asked[0].isdisjoint(asked[1]) and asked[0] | asked[1] == everything
    assert len(asked[1]) == (0 if schedule == "isft" else pytest.approx(len(everything) / 3, abs=1))


# ---- errors


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        (
            {"q": 1, "answers": "x"},
            {},
            "F:2: no field 'question'; the keys there are q, answers\n  try: set task.fields to",
        ),
        (
            {"question": "Q", "a": {"b": [{"c": 1}]}},
            {"answers": "a.b.d"},
            "F:2: no field 'a.b.*.d'; the keys there are c at a.b.*",
        ),
        (
            {"question": "Q", "answers": "x"},
            {"answers": "answers.y"},
            "F:2: no field 'answers.y'; there is text at answers",
        ),
        (
            {"question": "Q", "answers": [1]},
            {"answers": "answers.3"},
            "F:2: no field 'answers.3'; there is a list at answers",
        ),
        ({"question": "Q", "answers": "x"}, {}, "F:2: no field 'context'; the keys there are question, answers"),
        ({"question": " ", "answers": "x"}, {}, "F:2: question holds empty text where the question's text is needed"),
        ({"question": ["Q"], "answers": "x"}, {}, "F:2: question holds a list where the question's text is needed"),
        ({"question": "Q", "answers": [" ", None]}, {}, "F:2: answers holds no answer"),
        (
            {"question": "Q", "answers": {"aliases": ["x"]}},
            {},
            "F:2: answers holds an object with aliases\n  try: name the part",
        ),
        ({"question": "Q", "answers": True}, {}, "F:2: answers holds true or false where text is needed"),
        ({"question": "Q", "answers": "\ud800"}, {}, "F:2: answers holds half of a character (a lone surrogate)"),
        (
            {"question": "Q", "answers": "x", "context": {"a": 1}},
            {},
            "F:2: context holds an object where text is needed",
        ),
        (
            {"question": "Q", "answers": "x", "context": ["a", "b"], "t": ["T"]},
            {"titles": "t"},
            "F:2: t holds 1 titles for the 2 items of context",
        ),
        (
            {"question": "Q", "answers": "x", "context": ["a", "b"], "s": ["z"]},
            {"support": "s"},
            "F:2: s marks nothing that is in the context: z\n  try: set task.fields.titles",
        ),
        (
            {"question": "Q", "answers": "x", "context": ["a", "b"], "s": [True]},
            {"support": "s"},
            "F:2: s marks 1 items, but there are 2",
        ),
        ({"question": "Q", "answers": "x", "context": [], "id": ""}, {"id": "id"}, "F:2: id is empty"),
        (
            {"question": "Q", "answers": "x", "context": [], "id": "first"},
            {"id": "id"},
            "F:2: the id 'first' belongs to line 1 already\n  try: give each row its own id",
        ),
    ],
)
def test_what_a_row_s_error_says(write: Write, row: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"question": "Q", "answers": "y", "context": [], "id": "first", "t": [], "s": []}
    good |= {"a": {"b": {"d": "y"}}} if "a" in row else {}
    if fields.get("answers", "").startswith("answers."):
        good["answers"] = {"y": "y", "3": "y"}
    assert refusal(write(good, row), fields=fields).startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question":', "F:2: not JSON: Expecting value at column 13\n  try: each line holds one whole JSON object"),
        ("[1]", "F:2: a list where a JSON object is needed"),
        ("[" * 100_000, "F:2: JSON that is too long or too deep to read"),
        ('{"question": ' + "1" * 5000 + "}", "F:2: JSON that is too long or too deep to read"),
    ],
    ids=["cut", "list", "deep", "digits"],
)
def test_what_a_broken_line_says(write: Write, line: str, message: str) -> None:
    assert refusal(write(*rows(1), line)).startswith(message)


def test_no_match_of_the_pattern(write: Write) -> None:
    assert (
        refusal(write(*rows(1)), answer_pattern="#### (.+)")
        == "F:1: answers holds no answer that matches task.answer_pattern #### (.+)"
    )


def test_files_that_cannot_be_used(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(tmp_path / "none.jsonl") == "F: no such file\n  try: task.path is relative to the working folder"
    assert refusal(tmp_path) == "F: a folder, not a file\n  try: give one .jsonl file"
    assert refusal(write("", "  ")) == "F: the file has no rows"
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"question": "für"}\n'.encode("latin-1"))
    assert refusal(latin) == "F:1: not UTF-8 text\n  try: save the file as UTF-8"
    with pytest.raises(DataError, match="names none\n  try: add task"):
        jsonl.load(settings(None), split="train")
    with pytest.raises(DataError, match="none of the 3 questions falls into the held_out split"):
        jsonl.load(settings(write(*rows(3))), split="held_out")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refusal(latin) == "F: cannot be read: Permission denied"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["question", "a", "0"]) | st.text(), inner)
    ),
    max_leaves=8,
)


@given(JSON, JSON, JSON)
def test_any_row_is_a_question_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, answers: Any, context: Any, support: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps({"question": "Q", "answers": answers, "context": context, "support": support}) + "\n")
    for support_path in (None, "support"):
        try:
            question = only(path, fields={"support": support_path})
        except DataError as error:
            assert error.where == f"{path}:1"
        else:
            assert question.answers and all(question.answers)
            assert set(question.supporting) <= set(sum(question.contexts, ()))


# ---- real rows


def test_real_hotpot_rows(real_data: Path) -> None:
    task = load_recipe("hotpotqa_jsonl", overrides=[f"task.path={real_data / 'hotpot_qa.jsonl'}"]).recipe.task
    questions = [question for split in SPLITS for question in jsonl.load(task, split=split)]
    assert len(questions) == 100
    for question in questions:
        hands = [len(set(hand) & set(question.supporting)) for hand in question.contexts]
        assert len(question.supporting) >= 2 and abs(hands[0] - hands[1]) <= 1


def test_real_gsm8k_rows(real_data: Path) -> None:
    task = load_recipe("gsm8k_jsonl", overrides=[f"task.path={real_data / 'gsm8k.jsonl'}"]).recipe.task
    questions = [question for split in SPLITS for question in jsonl.load(task, split=split)]
    assert len(questions) == 120
    assert all(question.contexts == ((), ()) and len(question.answers[0]) < 12 for question in questions)


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("2wikimultihopqa", {"answers": "answer", "context": "context.sentences", "titles": "context.title"}, 8),
        ("trivia_qa_rc", {"answers": "answer.aliases", "context": "search_results.description"}, 10),
        ("cbt_cn", {"answers": "answer", "context": "sentences"}, 2),
    ],
)
def test_other_real_layouts(real_data: Path, name: str, fields: dict[str, str], count: int) -> None:
    assert len(load(real_data / f"{name}.jsonl", fields=fields)) == count


# ---- hostile files


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "([a-zA-Z]+)*$", "(x+x+)+y"])
def test_a_pattern_that_never_ends_is_refused(write: Write, pattern: str) -> None:
    path = write({"question": "Q", "answers": "a" * 5000 + "x" * 5000 + "!", "context": []})
    said = refusal(path, answer_pattern=pattern)
    assert said.startswith("F:1: task.answer_pattern takes longer than 0.5 seconds on answers"), said


def test_a_row_nested_hundreds_of_levels_deep_is_refused(write: Write) -> None:
    for levels, refused in ((60, False), (450, True), (900, True)):
        path = write('{"question": "Q", "context": [], "answers": ' + "[" * levels + '"x"' + "]" * levels + "}")
        if refused:
            assert refusal(path) == "F:1: JSON that is too long or too deep to read"
        else:
            assert only(path).answers == ("x",)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        assert refusal(path).startswith("F: a device or a pipe, not a file")


@pytest.mark.parametrize("name", ["~nosuchuser/rows.jsonl", "x" * 4000, "/".join(["x" * 300] * 10)])
def test_a_name_that_no_file_has_is_told(name: str) -> None:
    with pytest.raises(DataError, match=r"no such file|cannot be read: File name too long"):
        load(Path(name))


def test_a_line_without_end_is_not_read_whole(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_LONGEST_LINE", 2**20)
    path = write({"question": "Q", "answers": "x", "context": []}, '{"question": "' + "x" * 2**20)
    assert refusal(path).startswith("F:2: a line of more than 1 MB")


def test_a_message_does_not_quote_a_whole_row(write: Write) -> None:
    assert len(refusal(write({f"key {i}": i for i in range(10_000)}))) < 1_200
