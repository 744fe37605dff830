"""The paper's eight tasks and two of programming, from the hub or from a file in the same schema, as Questions.

Four tasks share information out, so that neither agent can answer alone: the paragraphs (HotpotQA, 2WikiMultiHopQA) or
snippets (TriviaQA) that the answer needs are dealt to the agents in turn and the others by coin flips; of a story (CBT)
one agent holds the first half and the other the second. The other four are debated: both agents see the whole question.
All that is random hangs on the row's own content, never on its place in the file. The gold answers of the two of
programming (HumanEval, MBPP) are tests; see `code`.

From the hub, training and validation questions come from the data set's own training split, and held-out ones are the
first 1,000 rows of its evaluation split (information tasks) or all of them (the others), as in the paper. A file
(`task.path`), and HumanEval, which has a test split alone, is split by a hash of the question's text, unless it is one
of three. Every split comes in the order of
those hashes.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..records import Question
from ..settings.task import ContextForm, TaskSettings
from . import code, jsonl
from .jsonl import WHOLE, Part, Row
from .mathematics import boxed

FIRST_ROWS = 1000  # of the evaluation split of an information task, as in the paper

_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
_BOX_WITHOUT_BRACES = re.compile(r"\\boxed\s+([^\s$.]+)")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a row says, before any of it is dealt out: a Question without an id.

    hands: the facts of each agent where the row itself decides, else None. facts: those to be dealt; needed: positions
    among them.
    """

    text: str
    answers: tuple[str, ...]
    facts: tuple[str, ...] = ()
    needed: frozenset[int] = frozenset()
    hands: tuple[tuple[str, ...], tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a task's rows are and how one is read.

    configs: of the data set, read one after the other. key: the columns that tell one question from another; the first
    is its text, which decides the order. rows: how many of the evaluation split count, None for all.
    """

    dataset: str
    configs: tuple[str | None, ...]
    train: str
    held_out: str
    key: tuple[str, ...]
    rows: int | None
    read: Callable[[Row, ContextForm], Parts]


def questions(settings: TaskSettings, split: str, count: int, *, start: int = 0, part: Part = WHOLE) -> list[Question]:
    """`count` questions of a part of a split (train, validation, held_out) from number `start` on, or all if there are
    fewer.

    Raises DataError for a data set that can be neither downloaded nor found in the cache, and for a file or row that
    cannot be read.
    """
    benchmark = BENCHMARKS[settings.name]
    if settings.path is None:
        where = Path(benchmark.dataset)
        rows = _downloaded(benchmark, benchmark.held_out if split == "held_out" else benchmark.train)
    else:
        where = jsonl.file_of(settings, split)
        rows = _from_file(where, jsonl.stamp(where))
    keys = _keys(where, rows, benchmark)
    first: dict[str, int] = {}  # an exact repeat of a question is left out
    for i in _numbers(keys, split, settings):
        first.setdefault(json.dumps(keys[i]), i)
    if not first:
        hint = "use a larger file, or change task.held_out_share and task.validation_share"
        raise DataError(f"none of the {len(keys)} rows falls into the {split} split", where=where, hint=hint)
    order = [i for _, i in sorted(first.items(), key=lambda item: (jsonl.place(str(keys[item[1]][0])), item[0]))]
    chosen = jsonl.take(order, count, start=start, part=part)
    return [question(Row(where, i + 1, rows[i]), settings) for i in chosen]


def question(row: Row, settings: TaskSettings) -> Question:
    """The Question of one row. Raises DataError, with the row's number, where the row has another layout."""
    parts = BENCHMARKS[settings.name].read(row, settings.context)
    texts = (parts.text, *parts.answers, *parts.facts, *(parts.hands or ()))
    row.whole(json.dumps(texts, ensure_ascii=False), "the row")
    id = jsonl.digest(*texts)
    hands = parts.hands or jsonl.deal(parts.facts, set(parts.needed), random.Random(f"deal/{id}"))
    supporting = tuple(parts.facts[i] for i in sorted(parts.needed))
    return Question(id, parts.text, parts.answers, (tuple(hands[0]), tuple(hands[1])), supporting)


def _numbers(keys: Sequence[tuple[Any, ...]], split: str, settings: TaskSettings) -> Sequence[int]:
    """Which rows belong to a split; of the hub's, those of the held-out split are not among the others anyway."""
    texts = [str(key[0]) for key in keys]
    if isinstance(settings.path, Mapping):
        return range(len(texts))
    benchmark = BENCHMARKS[settings.name]
    if settings.path is not None or benchmark.train == benchmark.held_out:
        return [i for i, text in enumerate(texts) if _split_of(text, settings) == split]
    if split == "held_out":
        return range(len(texts))[: benchmark.rows]
    known = _questions_of_arc() if settings.name == "mmlu" else set()
    chosen = [(jsonl.place(text) < settings.validation_share) == (split == "validation") for text in texts]
    return [i for i, text in enumerate(texts) if chosen[i] and text not in known]


def _split_of(text: str, settings: TaskSettings) -> str:
    """The split of a row of a file, by a hash of its text; case and spacing do not count."""
    where = jsonl.place(text)
    if where < settings.held_out_share:
        return "held_out"
    return "validation" if where < settings.held_out_share + settings.validation_share else "train"


def _questions_of_arc() -> set[str]:
    """MMLU's training questions were gathered from other tests, ARC among them; the paper takes those out."""
    arc = BENCHMARKS["arc_challenge"]
    return {str(key[0]) for key in _keys(Path(arc.dataset), _downloaded(arc, arc.train), arc)}


def _downloaded(benchmark: Benchmark, split: str) -> Any:
    """A split as a `datasets.Dataset`, from the hub or from the cache of an earlier download."""
    datasets = _datasets()
    try:
        parts = [datasets.load_dataset(benchmark.dataset, config, split=split) for config in benchmark.configs]
    except (OSError, ValueError) as error:
        what = f"the split {split} can be neither downloaded nor found in the cache: {' '.join(str(error).split())}"
        hint = "go online once, so that it stays in the cache; or give a file in the same schema with task.path=FILE"
        raise DataError(what, where=benchmark.dataset, hint=hint) from error
    return datasets.concatenate_datasets(parts)


def _datasets() -> Any:
    """The library, imported late because it is slow, and without progress bars and retries that would cut into ours."""
    import datasets
    from huggingface_hub import logging as hub_logging

    datasets.disable_progress_bars()
    hub_logging.set_verbosity_error()
    return datasets


@lru_cache(maxsize=3)  # as many files as there are splits: each is read once, however often it is asked for
def _from_file(path: Path, _stamp: jsonl.Stamp) -> Any:
    """The rows of a JSONL, JSON (one array) or parquet file."""
    if path.suffix == ".parquet" and os.path.isfile(path):
        return _parquet(path)
    if path.suffix == ".json" and os.path.isfile(path) and path.read_bytes()[:64].lstrip()[:1] == b"[":
        return _array(path)
    found = [row.values for row in jsonl.rows(path)]
    if not found:
        raise DataError("the file has no rows", where=path)
    return found


def _parquet(path: Path) -> Any:
    datasets = _datasets()
    try:
        return datasets.load_dataset("parquet", data_files=str(path), split="train")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {' '.join(str(error).split())}", where=path) from error


def _array(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    if jsonl.too_deep(found):
        raise DataError("JSON that is too deep to read", where=path)
    if not found or not all(isinstance(row, dict) for row in found):
        raise DataError("the array must hold JSON objects, one for each row", where=path)
    return list(found)


def _keys(where: Path, rows: Any, benchmark: Benchmark) -> list[tuple[Any, ...]]:
    """The key columns of every row; of a data set only these are read."""
    narrow = rows
    if hasattr(rows, "select_columns") and set(benchmark.key) <= set(rows.column_names):
        narrow = rows.select_columns(list(benchmark.key)).to_list()
    return [tuple(Row(where, i + 1, values).at(column) for column in benchmark.key) for i, values in enumerate(narrow)]


def _hops(row: Row, context: ContextForm) -> Parts:
    """HotpotQA and 2WikiMultiHopQA, in the hub's layout (columns of titles and of sentences) or the original one
    (pairs)."""
    titled = _pairs(row, "context", ("title", "sentences"))
    needed = {title for title, _ in _pairs(row, "supporting_facts", ("title", "sent_id"))}
    facts = []
    for title, sentences in titled:
        kept = sentences[:1] if context == "first_sentence" else sentences
        facts.append(f"{title}: {row.text(kept, 'context')}")
    positions = frozenset(i for i, (title, _) in enumerate(titled) if title in needed)
    return Parts(_text(row, "question"), _answers(row, row.at("answer")), tuple(facts), positions)


def _pairs(row: Row, column: str, names: tuple[str, str]) -> list[tuple[str, Any]]:
    value = row.at(column)
    if isinstance(value, Mapping):
        columns = [_list(row, f"{column}.{name}") for name in names]
        value = list(zip(*columns, strict=True)) if len(columns[0]) == len(columns[1]) else None
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        row.refuse(f"{column} holds no pairs of {names[0]} and {names[1]}")
    return [(row.text(title, column), other) for title, other in value]


def _trivia(row: Row, context: ContextForm) -> Parts:
    """TriviaQA: the search engine's snippets are the facts, and every alias is an answer."""
    found = (row.text(item, "search_results") for item in _list(row, "search_results.description"))
    snippets = tuple(filter(None, found))
    names = [row.at("answer.value"), *_list(row, "answer.aliases")]
    return Parts(_text(row, "question"), _answers(row, names), snippets, frozenset(range(len(snippets))))


def _story(row: Row, context: ContextForm) -> Parts:
    """CBT: twenty sentences, and a sentence with a gap."""
    sentences = [row.text(sentence, "sentences") for sentence in _list(row, "sentences")]
    half = len(sentences) // 2
    hands = (" ".join(sentences[:half]),), (" ".join(sentences[half:]),)
    text = _with_choices(row, f"Which word fills the gap XXXXX? {_text(row, 'question')}", _list(row, "options"))
    return Parts(text, _answers(row, row.at("answer")), hands=hands)


def _worked(row: Row, context: ContextForm) -> Parts:
    """GSM8K: a worked solution that ends in `#### 72`."""
    _, mark, answer = _text(row, "answer").rpartition("####")
    if not mark:
        row.refuse("answer has no #### before the result")
    return Parts(_text(row, "question"), _answers(row, answer))


def _boxed(row: Row, context: ContextForm) -> Parts:
    r"""MATH: a worked solution whose last \boxed{} holds the result; a few old ones have \boxed 5 without braces."""
    solution = _text(row, "solution")
    found = boxed(solution)
    bare = _BOX_WITHOUT_BRACES.findall(solution)
    return Parts(_text(row, "problem"), _answers(row, found[1] if found else bare[-1:]))


def _labelled(row: Row, context: ContextForm) -> Parts:
    """ARC: the answer is the text of the right choice."""
    choices, labels, right = _list(row, "choices.text"), _list(row, "choices.label"), row.at("answerKey")
    if right not in labels or len(labels) != len(choices):
        row.refuse(f"answerKey {right!r} is none of the labels of the choices")
    text = _with_choices(row, _text(row, "question"), choices)
    return Parts(text, _answers(row, choices[labels.index(right)]))


def _numbered(row: Row, context: ContextForm) -> Parts:
    """MMLU: the answer is the text of the right choice."""
    choices, right = _list(row, "choices"), row.at("answer")
    if not isinstance(right, int) or not 0 <= right < len(choices):
        row.refuse(f"answer {right!r} is no position among the {len(choices)} choices")
    return Parts(_with_choices(row, _text(row, "question"), choices), _answers(row, choices[right]))


def _function(row: Row, context: ContextForm) -> Parts:
    """HumanEval: the head of a function with its docstring, and checks of it."""
    return Parts(*code.humaneval(_text(row, "prompt"), _text(row, "entry_point"), _text(row, "test")))


def _described(row: Row, context: ContextForm) -> Parts:
    """MBPP, in its first layout (`text`, `test_setup_code`) or the sanitised one (`prompt`, `test_imports`)."""
    sanitised = "text" not in row.values
    setup = _programs(row, "test_imports") if sanitised else [str(row.values.get("test_setup_code") or "")]
    tests = _programs(row, "test_list")
    if not tests:
        row.refuse("there is no test")
    return Parts(*code.mbpp(_text(row, "prompt" if sanitised else "text"), tests, "\n".join(setup)))


def _text(row: Row, column: str) -> str:
    value = row.at(column)
    if not isinstance(value, str) or not value.strip():
        row.refuse(f"{column} holds {jsonl.kind(value)} where text is needed")
    return str(value).strip()


def _programs(row: Row, column: str) -> list[str]:
    """Texts whose lines and spaces matter."""
    values = _list(row, column)
    if not all(isinstance(value, str) for value in values):
        row.refuse(f"{column} holds something else than programs")
    return values


def _list(row: Row, column: str) -> list[Any]:
    value = row.at(column)
    if not isinstance(value, list):
        row.refuse(f"{column} holds {jsonl.kind(value)} where a list is needed")
    return list(value)


def _answers(row: Row, values: Any) -> tuple[str, ...]:
    texts = (row.text(value, "the answer") for value in (values if isinstance(values, list) else [values]))
    answers = tuple(dict.fromkeys(filter(None, texts)))
    if not answers:
        row.refuse("there is no answer")
    return answers


def _with_choices(row: Row, text: str, choices: Sequence[Any]) -> str:
    lines = [f"- {row.text(choice, 'the choices')}" for choice in choices]
    return "\n".join([text, "Answer with the text of one of these choices:", *lines])


BENCHMARKS: dict[str, Benchmark] = {
    "hotpotqa": Benchmark(
        "hotpotqa/hotpot_qa", ("distractor",), "train", "validation", ("question",), FIRST_ROWS, _hops
    ),
    "2wikimultihopqa": Benchmark(
        "framolfese/2WikiMultihopQA", (None,), "train", "validation", ("question",), FIRST_ROWS, _hops
    ),
    "triviaqa": Benchmark("mandarjoshi/trivia_qa", ("rc",), "train", "validation", ("question",), FIRST_ROWS, _trivia),
    "cbt": Benchmark("cam-cst/cbt", ("CN",), "train", "test", ("question", "answer"), FIRST_ROWS, _story),
    "gsm8k": Benchmark("openai/gsm8k", ("main",), "train", "test", ("question",), None, _worked),
    "math": Benchmark("EleutherAI/hendrycks_math", _SUBJECTS, "train", "test", ("problem",), None, _boxed),
    "arc_challenge": Benchmark(
        "allenai/ai2_arc", ("ARC-Challenge",), "train", "test", ("question", "choices"), None, _labelled
    ),
    "mmlu": Benchmark("cais/mmlu", ("all",), "auxiliary_train", "test", ("question", "choices"), None, _numbered),
    "humaneval": Benchmark("openai/openai_humaneval", (None,), "test", "test", ("prompt",), None, _function),
    "mbpp": Benchmark("google-research-datasets/mbpp", ("full",), "train", "test", ("test_list",), None, _described),
}
