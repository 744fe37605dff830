"""The official code's text functions, compared with recorded inputs and outputs of the original."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from optima_lite.tasks import official

KINDS = (
    "extract_qa", "extract_math", "math_gold", "math_normalize", "math_equiv", "f1", "reward_task", "message_loss",
    "clean_penalty", "sft_rows",
)  # fmt: skip
TOKENIZERS: dict[str, Callable[[str], Sequence[str]]] = {
    "whitespace": str.split,
    "regex_word_punct": re.compile(r"\w+|[^\w\s]").findall,
    "char": list,
}

# Records that are meant to differ, by id, each with its reason.
DELIBERATE: dict[str, str] = {}


@cache
def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "parity.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def close(value: Any) -> Any:
    """The value, with floats compared to six digits: losses were recorded in float32."""
    if isinstance(value, dict):
        return {key: close(item) for key, item in value.items()}
    if isinstance(value, list):
        return [close(item) for item in value]
    return pytest.approx(value, rel=1e-6) if isinstance(value, float) else value


def task_score(kind: str, prediction: str | None, gold: Any, tokenize: Callable[[str], Sequence[str]]) -> float:
    """As the official trainer scores an answer: anything that goes wrong is 0."""
    if prediction is None:
        return 0.0
    if kind == "f1-score":
        return official.f1(prediction, gold if isinstance(gold, list) else [gold], tokenize=tokenize)
    if kind == "math":
        return float(official.math_equiv(prediction.lower().strip(), str(gold).lower().strip()))
    return 0.0 if isinstance(gold, list) else official.exact_match(prediction, gold)  # its bug with lists of aliases


def equiv(one: str, other: str) -> bool | dict[str, str]:
    """What the official code makes of two formulas, in the records' form: some make the parser fail in other ways."""
    try:
        return official.math_equiv(one, other)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RecursionError, ZeroDivisionError) as error:
        return {"exception": type(error).__name__}


def reproduced(kind: str, given: Any) -> Any:
    """What our function makes of a record's input, in the record's own form."""
    if kind in ("extract_qa", "extract_math", "math_normalize"):
        return getattr(official, kind)(given)
    if kind == "math_gold":
        return official.extract_math(given)
    if kind == "f1":
        golds = given["gold"] if isinstance(given["gold"], list) else [given["gold"]]
        return {
            name: official.f1(given["prediction"], golds, tokenize=tokenize) for name, tokenize in TOKENIZERS.items()
        }
    if kind == "math_equiv":
        one, other = given["x1"], given["x2"]
        normalized = [official.math_normalize(one), official.math_normalize(other)]
        folded = [one.lower().strip(), other.lower().strip()]
        scored = equiv(*folded)
        return {
            "is_equiv": equiv(one, other),
            "normalized": normalized,
            "train_reward_score": int(scored is True),
            "eval_score": int(scored if isinstance(scored, bool) else folded[0] == folded[1]),
            "is_equiv_after_normalize_and_lower": equiv(*(text.lower() for text in normalized)),
        }
    if kind == "reward_task":
        return reward_task(given)
    if kind == "message_loss":
        return official.message_loss(given["logits"], given["input_ids"], pad=given["pad_token_id"])
    if kind == "clean_penalty":
        return 1.0 + official.clean_penalty(given)  # recorded from a reward of 1
    first, second = official.sft_rows(
        given["conversation"],
        contexts=(given["context_first"], ["ctxB5"]),
        question="q",
        template="You are $name\n$information",
    )
    assert [text for _, text in first[1:]] == [text for _, text in second[1:]] == given["conversation"]
    return {
        "roles_A": [role for role, _ in first],
        "information_line_A": first[0][1].splitlines()[1:],
        "information_line_B": second[0][1].splitlines()[1:],
        "system_begins_A": first[0][1].splitlines()[0],
        "system_begins_B": second[0][1].splitlines()[0],
    }


def reward_task(given: dict[str, Any]) -> list[dict[str, float]]:
    dialogues = [
        official.SampledDialogue(
            tuple(result["conversation"]),
            tuple(result["losses"]),
            result["token_count"],
            task_score(given["score_type"], result["final_answer"], result["answer"], TOKENIZERS[given["tokenizer"]]),
        )
        for result in given["results"]
    ]
    rewards = official.reward_task(dialogues, token_weight=-given["lambda1"], readability_weight=given["lambda2"])
    return [
        {"reward": r.total, "correct_score": r.task, "token_score": r.token_term, "ppl_score": r.readability_term}
        for r in rewards
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_reproduced(kind: str, real_data: Path) -> None:
    if kind == "math_equiv" and not find_spec("antlr4"):
        pytest.skip("the extra `math` is not installed")
    seen: Counter[str] = Counter()
    wrong = []
    for record in records(real_data):
        if record["kind"] != kind or record["id"] in DELIBERATE:
            continue
        seen["all"] += 1
        expected = record["expected"]
        if isinstance(expected, dict) and "exception" in expected:
            with pytest.raises((ValueError, TypeError, AttributeError, ZeroDivisionError)):
                reproduced(kind, record["input"])
        elif (found := reproduced(kind, record["input"])) != close(expected):
            wrong.append(f"{record['id']}: {record['input']!r}: {found!r}, not {expected!r}")
    print(f"{kind}: {seen['all'] - len(wrong)} of {seen['all']}")
    assert seen["all"]
    assert not wrong, "\n".join(wrong)


def test_deliberate_differences_are_of_records_that_exist(real_data: Path) -> None:
    assert DELIBERATE.keys() <= {record["id"] for record in records(real_data)}


# What the description says and no record above may show.


def test_units_are_cut_out_of_words() -> None:
    assert official.math_normalize("\\left(1\\right)") == "\\le(1\\right)"


def test_a_task_whose_dialogues_were_all_cut_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        official.reward_task(
            [official.SampledDialogue(("large",), (1.0,), 100, 1.0)], token_weight=0.6, readability_weight=1
        )


def test_the_longest_dialogue_that_was_not_cut_is_the_measure() -> None:
    cut = official.SampledDialogue(("a", "large"), (1.0, 2.0), 900, 0.0)
    whole = official.SampledDialogue(("a", "b"), (1.0, 2.0), 100, 1.0)
    rewards = official.reward_task([cut, whole], token_weight=0.6, readability_weight=1)
    assert [(r.token_term, r.readability_term) for r in rewards] == [(-1.0, 0.5), (-0.6, 0.5)]


def test_a_loss_of_zero_is_no_token() -> None:
    sure, unsure = [0.0, -1e9], [0.0, 0.0]
    logits = [[unsure] * 4 + [sure, unsure, unsure]]
    assert official.message_loss(logits, [[1, 1, 1, 1, 1, 0, 0]], pad=9) == [pytest.approx(0.6931471805599453)]
