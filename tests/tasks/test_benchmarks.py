"""The benchmarks: every schema is read, dealt out and split in the same way whatever the order of the rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from optima_lite.errors import DataError
from optima_lite.records import Question
from optima_lite.settings.task import CODE_TASKS, TaskSettings
from optima_lite.tasks.answers import exact, extract, f1, installed, math, numeric
from optima_lite.tasks.benchmarks import BENCHMARKS
from optima_lite.tasks.benchmarks import _split_of as split_of
from optima_lite.tasks.jsonl import place
from optima_lite.tasks.questions import questions

Row = dict[str, Any]
SPLITS = ("train", "validation", "held_out")

# Made-up rows in the schemas of the hub; {n} makes each different.

HOTPOT = {
    "id": "h{n}",
    "question": "Which river runs through the town where Mira{n} was born?",
    "answer": "the Lune{n}",
    "type": "bridge",
    "level": "easy",
    "supporting_facts": {"title": ["Mira{n}", "Oakton{n}", "Mira{n}"], "sent_id": [0, 1, 1]},
    "context": {
        "title": ["Glenby{n}", "Mira{n}", "Oakton{n}", "Portham{n}"],
        "sentences": [
            ["Glenby is a town.", " It is small."],
            ["Mira was born in Oakton{n}.", " She paints."],
            ["Oakton is a town.", " The Lune{n} runs through it."],
            ["Portham is a port."],
        ],
    },
}
ROWS: dict[str, Row] = {
    "hotpotqa": HOTPOT,
    "2wikimultihopqa": HOTPOT | {"evidences": [["Mira{n}", "birthplace", "Oakton{n}"]]},
    "triviaqa": {
        "question": "Who wrote the play {n}?",
        "question_id": "tc_{n}",
        "search_results": {
            "description": ["Tess wrote it.", "", "A play in {n} acts.", "Staged in Oakton."],
            "title": ["a", "b", "c", "d"],
            "search_context": ["", "", "", ""],
        },
        "answer": {"value": "Tess Lor", "aliases": ["Tess Lor", "T. Lor", "Tess"], "normalized_aliases": ["tess lor"]},
    },
    "cbt": {
        "sentences": [f"Sentence number {k} of story {{n}} ." for k in range(20)],
        "question": "The king of story {n} lost his XXXXX .",
        "answer": "crown",
        "options": ["apple", "crown", "dog"],
    },
    "gsm8k": {
        "question": "Ada has {n} boxes of 1000 pens. How many pens?",
        "answer": "She has {n} * 1000 = <<{n}*1000={n}000>>{n}000 pens.\n#### {n},000",
    },
    "math": {
        "problem": "What is half of {n}?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "It is $\\boxed{\\frac{{n}}{2}}$.",
    },
    "arc_challenge": {
        "id": "a{n}",
        "question": "What is hotter than {n} suns?",
        "choices": {"text": ["ice", "a star {n}", "a stone"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "mmlu": {
        "question": "Which is true of {n}?",
        "subject": "logic",
        "choices": ["P \u2228 Q", "P & Q", "~P", "none"],
        "answer": 2,
    },
    "humaneval": {
        "task_id": "HumanEval/{n}",
        "prompt": 'import math\n\n\ndef add{n}(a):\n    """Adds {n}.\n    >>> add{n}(1)\n    2\n    """\n',
        "entry_point": "add{n}",
        "canonical_solution": "    return a + {n}\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1 + {n}\n",
    },
    "mbpp": {
        "task_id": "{n}",
        "text": "Write a function to add {n}.",
        "test_list": ["assert add(1) == {n}1", "assert add(2) == {n}2"],
        "test_setup_code": "",
    },
}  # fmt: skip


def made_up(name: str, count: int = 60) -> list[Row]:
    text = json.dumps(ROWS[name])
    return [json.loads(text.replace("{n}", str(n))) for n in range(1, count + 1)]


def settings(name: str, path: Path | None = None, **others: Any) -> TaskSettings:
    metric = "tests" if name in CODE_TASKS else "f1"
    return TaskSettings.model_validate({"name": name, "path": path and str(path), "metric": metric} | others)


def written(folder: Path, rows: list[Row], *, suffix: str = ".jsonl") -> Path:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def every_split(task: TaskSettings) -> dict[str, list[Question]]:
    return {split: questions(task, split, 10_000, seed=0) for split in SPLITS}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_made_up_rows_become_questions(name: str, tmp_path: Path) -> None:
    rows = made_up(name)
    found = every_split(settings(name, written(tmp_path, rows)))
    together = [question for split in found.values() for question in split]
    assert len(together) == len({question.id for question in together}) == len(rows)
    assert all(question.text and question.answers and all(question.answers) for question in together)
    for split, group in found.items():
        assert all(split_of(first_line(name, question), settings(name)) == split for question in group)


def first_line(name: str, question: Question) -> str:
    """What decides about a question's split."""
    if name == "mbpp":
        return str(question.text.split("\n")[2:])
    if name == "humaneval":
        return made_up(name)[int(question.text.split("`")[1].removeprefix("add")) - 1]["prompt"]
    text = question.text.split("\nAnswer with the text")[0]
    return text.removeprefix("Which word fills the gap XXXXX? ") if name == "cbt" else text


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_the_kind_of_file_makes_no_difference(name: str, suffix: str, tmp_path: Path, cache: Path) -> None:
    rows = made_up(name, 40)
    lines = every_split(settings(name, written(tmp_path, rows)))
    assert every_split(settings(name, written(tmp_path, rows, suffix=suffix))) == lines


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_order_of_the_rows_makes_no_difference(name: str, tmp_path: Path) -> None:
    rows = made_up(name)
    before = every_split(settings(name, written(tmp_path, rows)))
    random.Random(1).shuffle(rows)
    assert every_split(settings(name, written(tmp_path, [*rows, rows[0]]))) == before


def only(name: str, folder: Path, **others: Any) -> Question:
    task = settings(name, written(folder, made_up(name, 1)), held_out_share=0.0, validation_share=0.0, **others)
    (question,) = questions(task, "train", 5, seed=0)
    return question


@pytest.mark.parametrize("name", ["hotpotqa", "2wikimultihopqa"])
def test_the_needed_paragraphs_go_to_different_agents(name: str, tmp_path: Path) -> None:
    question = only(name, tmp_path)
    assert question.supporting == (
        "Mira1: Mira was born in Oakton1. She paints.",
        "Oakton1: Oakton is a town. The Lune1 runs through it.",
    )
    assert sorted(sum(question.contexts, ())) == sorted(
        [*question.supporting, "Glenby1: Glenby is a town. It is small.", "Portham1: Portham is a port."]
    )
    assert all(len(set(hand) & set(question.supporting)) == 1 for hand in question.contexts)


def test_first_sentences_only(tmp_path: Path) -> None:
    question = only("hotpotqa", tmp_path, context="first_sentence")
    assert question.supporting == ("Mira1: Mira was born in Oakton1.", "Oakton1: Oakton is a town.")


def test_the_original_layout_of_pairs_is_read_too(tmp_path: Path) -> None:
    (row,) = made_up("2wikimultihopqa", 1)
    for column in ("context", "supporting_facts"):
        row[column] = [list(pair) for pair in zip(*row[column].values(), strict=True)]
    path = written(tmp_path, [row], suffix=".json")
    task = settings("2wikimultihopqa", path, held_out_share=0.0, validation_share=0.0)
    assert questions(task, "train", 1, seed=0) == [only("2wikimultihopqa", tmp_path)]


def test_snippets_are_dealt_in_turn_and_every_alias_counts(tmp_path: Path) -> None:
    question = only("triviaqa", tmp_path)
    assert sorted(len(hand) for hand in question.contexts) == [1, 2]
    assert question.answers == ("Tess Lor", "T. Lor", "Tess")


def test_a_story_is_cut_in_half(tmp_path: Path) -> None:
    question = only("cbt", tmp_path)
    assert [hand[0].count("Sentence number") for hand in question.contexts] == [10, 10]
    assert question.contexts[0][0].startswith("Sentence number 0 of") and "number 10 of" in question.contexts[1][0]
    assert question.text == (
        "Which word fills the gap XXXXX? The king of story 1 lost his XXXXX .\n"
        "Answer with the text of one of these choices:\n- apple\n- crown\n- dog"
    )


@pytest.mark.parametrize(
    ("name", "answer"),
    [("gsm8k", "1,000"), ("math", r"\frac{1}{2}"), ("arc_challenge", "a star 1"), ("mmlu", "~P")],
)
def test_questions_without_facts(name: str, answer: str, tmp_path: Path) -> None:
    question = only(name, tmp_path)
    assert (question.answers, question.contexts) == ((answer,), ((), ()))


def test_a_box_without_braces_is_read(tmp_path: Path) -> None:
    row = {"problem": "What is 2 + 3?", "solution": "It is $\\boxed 5$."}
    task = settings("math", written(tmp_path, [row]), held_out_share=0.0, validation_share=0.0)
    assert questions(task, "train", 1, seed=0)[0].answers == ("5",)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hotpotqa", {"context": 3}, "context holds no pairs of title and sentences"),
        ("hotpotqa", {"question": " "}, "question holds empty text where text is needed"),
        ("triviaqa", {"answer": {"value": "", "aliases": []}}, "there is no answer"),
        ("gsm8k", {"answer": "72"}, "answer has no #### before the result"),
        ("math", {"solution": "5"}, "there is no answer"),
        ("arc_challenge", {"answerKey": "D"}, "answerKey 'D' is none of the labels of the choices"),
        ("mmlu", {"answer": 4}, "answer 4 is no position among the 4 choices"),
        ("mmlu", {"choices": None}, "choices holds null where a list is needed"),
        ("humaneval", {"test": ""}, "test holds empty text where text is needed"),
        ("mbpp", {"test_list": []}, "there is no test"),
        ("mbpp", {"test_list": [1]}, "test_list holds something else than programs"),
        ("gsm8k", {"answer": 72}, "answer holds a number where text is needed"),
    ],
)
def test_rows_in_another_layout_are_refused(name: str, change: Row, message: str, tmp_path: Path) -> None:
    good, bad = made_up(name, 2)
    path = written(tmp_path, [good, bad | change])
    with pytest.raises(DataError) as caught:
        questions(settings(name, path, held_out_share=0.0, validation_share=0.0), "train", 2, seed=0)
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, [{"prompt": "?"}])
    with pytest.raises(DataError, match="no field 'question'; the keys there are prompt"):
        questions(settings("gsm8k", path), "train", 1, seed=0)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".json", '[{"question": 1},', "not JSON"),
        (".json", "[]", "the array must hold JSON objects"),
        (".jsonl", "", "the file has no rows"),
        (".parquet", "no parquet", "cannot be read"),
    ],
)
def test_broken_files(suffix: str, content: str, message: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        questions(settings("gsm8k", path), "train", 1, seed=0)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_file_that_is_not_there(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        questions(settings("gsm8k", tmp_path / f"rows{suffix}"), "train", 1, seed=0)


# The hub, played by a function.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `datasets` keeps what it has converted."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, list[Row]]], list[tuple[str, str | None, str]]]:
    """Puts data sets on the hub, by `name/split`; gives the list of what is asked of it."""

    def serve(holds: Mapping[str, list[Row]]) -> list[tuple[str, str | None, str]]:
        asked: list[tuple[str, str | None, str]] = []

        def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
            asked.append((name, config, split))
            if f"{name}/{split}" not in holds:
                raise ConnectionError(f"Couldn't reach '{name}' on the Hub\n(offline)")
            return datasets.Dataset.from_list(holds[f"{name}/{split}"])

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "humaneval"])
def test_the_hub_s_own_splits_are_used(name: str, hub: Any) -> None:
    benchmark, rows = BENCHMARKS[name], made_up(name, 90)
    train, held_out = (f"{benchmark.dataset}/{split}" for split in (benchmark.train, benchmark.held_out))
    holds = {train: rows[:80], held_out: rows[80:]}
    arc = BENCHMARKS["arc_challenge"]
    holds.setdefault(f"{arc.dataset}/{arc.train}", made_up("arc_challenge", 3))
    asked = hub(holds)
    found = every_split(settings(name))
    assert len(found["held_out"]) == 10
    assert all(place(first_line(name, question)) < 0.1 for question in found["validation"])
    assert all(place(first_line(name, question)) >= 0.1 for question in found["train"])
    assert len(found["train"]) + len(found["validation"]) == 80
    assert {(config, split) for dataset, config, split in asked if dataset == benchmark.dataset} == {
        (config, split) for config in benchmark.configs for split in (benchmark.train, benchmark.held_out)
    }


def test_a_data_set_of_one_split_is_cut_as_a_file_is(hub: Any, tmp_path: Path) -> None:
    """As large as HumanEval: no row is in two splits, and the shares decide."""
    rows = made_up("humaneval", 164)
    hub({"openai/openai_humaneval/test": rows})
    shares = {"held_out_share": 0.4, "validation_share": 0.2}
    found = every_split(settings("humaneval", **shares))
    assert found == every_split(settings("humaneval", written(tmp_path, rows), **shares))
    assert sum(map(len, found.values())) == 164
    assert 45 < len(found["held_out"]) < 85 and 15 < len(found["validation"]) < 50


def test_the_lines_of_a_program_stay(tmp_path: Path) -> None:
    (row,) = made_up("mbpp", 1)
    sanitised = {"task_id": 1, "prompt": "Do it.", "test_imports": ["import math"], "test_list": ["if f():\n    f(1)"]}
    whole = {"held_out_share": 0.0, "validation_share": 0.0}
    (found,) = questions(settings("mbpp", written(tmp_path, [sanitised]), **whole), "train", 1, seed=0)
    assert found.answers == ("import math\n# the solution\nif f():\n    f(1)",)
    assert only("mbpp", tmp_path).answers == tuple(f"# the solution\n{test}" for test in row["test_list"])
    assert (
        only("humaneval", tmp_path)
        .answers[0]
        .endswith("def check(candidate):\n    assert candidate(1) == 1 + 1\ncheck(add1)")
    )


def test_held_out_questions_are_the_first_thousand_rows(hub: Any) -> None:
    benchmark, rows = BENCHMARKS["cbt"], made_up("cbt", 1100)
    hub({f"{benchmark.dataset}/test": rows})
    found = questions(settings("cbt"), "held_out", 5000, seed=0)
    assert {int(question.contexts[0][0].split()[5]) for question in found} == set(range(1, 1001))


def test_questions_of_arc_are_not_trained_on_as_mmlu(hub: Any) -> None:
    mmlu, arc = made_up("mmlu", 30), made_up("arc_challenge", 1)
    arc[0]["question"] = mmlu[4]["question"]
    hub({"cais/mmlu/auxiliary_train": mmlu, "allenai/ai2_arc/train": arc})
    task = settings("mmlu")
    found = questions(task, "train", 99, seed=0) + questions(task, "validation", 99, seed=0)
    assert len(found) == 29
    assert not any(question.text.startswith(mmlu[4]["question"]) for question in found)


def test_without_network_and_cache_it_says_what_to_do(hub: Any) -> None:
    from huggingface_hub import logging

    hub({})
    logging.set_verbosity_warning()
    with pytest.raises(DataError) as caught:
        questions(settings("gsm8k"), "train", 1, seed=0)
    assert str(caught.value) == (
        "openai/gsm8k: the split train can be neither downloaded nor found in the cache: Couldn't reach 'openai/gsm8k' "
        "on the Hub (offline)\n"
        "  try: go online once, so that it stays in the cache; or give a file in the same schema with task.path=FILE"
    )
    assert logging.get_verbosity() == logging.ERROR, "the hub's client would list its retries"


def test_iterations_go_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    task = settings("gsm8k", written(tmp_path, made_up("gsm8k", 10)), held_out_share=0.0, validation_share=0.0)
    first, second = (questions(task, "train", 6, seed=0, start=start) for start in (0, 6))
    assert {question.id for question in first + second} == {q.id for q in questions(task, "train", 10, seed=0)}
    assert second[4:] == first[:2]


# Real rows.

REAL = {
    "hotpotqa": ("hotpot_qa.jsonl", 100),
    "2wikimultihopqa": ("2wikimultihopqa.jsonl", 8),
    "triviaqa": ("trivia_qa_rc.jsonl", 10),
    "cbt": ("cbt_cn.jsonl", 2),
    "gsm8k": ("gsm8k.jsonl", 120),
    "math": ("math.jsonl", 140),
    "arc_challenge": ("arc_challenge.jsonl", 120),
    "mmlu": ("mmlu.jsonl", 114),
}


@pytest.mark.parametrize("name", REAL)
def test_real_rows_become_questions(name: str, real_data: Path) -> None:
    file, count = REAL[name]
    task = settings(name, real_data / file, held_out_share=0.0, validation_share=0.0)
    found = questions(task, "train", 1000, seed=0)
    assert len(found) == len({question.id for question in found}) == count
    if name == "math" and not installed("math"):
        pytest.skip("the rows are read; comparing their answers needs the extra `math`")
    metric = {"gsm8k": numeric, "math": math, "arc_challenge": exact, "mmlu": exact}.get(name, f1)
    for question in found:
        mark = "\\boxed{%s}" if name in ("gsm8k", "math") else "<A>%s</A>"
        said = extract(f"So it is {mark % question.answers[0]}.")
        assert said and metric(said, question.answers) == 1, question
    if name in ("hotpotqa", "2wikimultihopqa"):
        for question in found:
            held = [len(set(hand) & set(question.supporting)) for hand in question.contexts]
            assert len(question.supporting) >= 2 and max(held) - min(held) <= 1


def test_other_parts_of_cbt_and_the_original_layout_of_2wiki(real_data: Path) -> None:
    for name, file, count in (
        ("cbt", "cbt_other_configs.jsonl", 8),
        ("2wikimultihopqa", "2wikimultihopqa_original.json", 8),
    ):
        task = settings(name, real_data / file, held_out_share=0.0, validation_share=0.0)
        assert len(questions(task, "train", 1000, seed=0)) == count


@pytest.mark.parametrize("name", ["arc_challenge", "mmlu"])
def test_only_the_right_choice_is_right(name: str, real_data: Path) -> None:
    file, _ = REAL[name]
    twins = 0
    for line in (real_data / file).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        choices = row["choices"]["text"] if name == "arc_challenge" else row["choices"]
        twins += sum(exact(one, [other]) == 1 for i, one in enumerate(choices) for other in choices[:i])
    assert twins == {"arc_challenge": 0, "mmlu": 1}[name]  # one question has both II and ii to choose from


@pytest.mark.parametrize("name", BENCHMARKS)
def test_half_of_a_character_in_any_column_is_refused(name: str, tmp_path: Path) -> None:
    (row,) = made_up(name, 1)
    for column in BENCHMARKS[name].key:
        broken = row | {column: ["\ud800"] if isinstance(row[column], list) else "\ud800"}
        path = written(tmp_path, [broken])
        with pytest.raises(DataError):
            questions(settings(name, path, held_out_share=0.0, validation_share=0.0), "train", 1, seed=0)


def test_an_array_nested_hundreds_of_levels_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[" * 450 + "]" * 450)
    with pytest.raises(DataError, match="too deep to read"):
        questions(settings("gsm8k", path), "train", 1, seed=0)
