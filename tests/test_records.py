"""Records enter and leave the run folder unchanged, and what they derive from their fields is right."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import (
    Demonstration,
    Dialogue,
    Ending,
    EvalRow,
    Question,
    Reward,
    Rollouts,
    Turn,
    decode,
    from_json,
    to_json,
)

texts = st.text(st.characters(codec="utf-8"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
hands = st.lists(texts, max_size=3).map(tuple)
questions = st.builds(
    Question,
    id=texts,
    text=texts,
    answers=st.lists(texts, min_size=1, max_size=3).map(tuple),
    contexts=st.tuples(hands, hands),
    supporting=hands,
)
turns = st.builds(
    Turn,
    speaker=st.integers(0, 1),
    ids=st.lists(st.integers(0, 2**31), max_size=5).map(tuple),
    text=texts,
    answer=st.none() | texts,
    finished=st.booleans(),
)
dialogues = st.builds(
    Dialogue,
    question=texts,
    rollout=st.integers(0, 9),
    turns=st.lists(turns, max_size=4).map(tuple),
    ending=st.none() | st.sampled_from(Ending),
    format=st.none() | texts,
)
rewards = st.builds(Reward, *[numbers] * 6)
rows = st.builds(
    EvalRow, texts, texts, st.integers(1, 9), *[numbers] * 8, st.none() | numbers, numbers, st.none() | numbers
)


@given(
    st.one_of(
        questions,
        dialogues,
        rows,
        st.builds(Demonstration, questions, dialogues, rewards),
        st.builds(
            Rollouts, questions, st.lists(dialogues, max_size=2).map(tuple), st.lists(rewards, max_size=2).map(tuple)
        ),
    )
)
def test_a_record_survives_json(record: Any) -> None:
    back = from_json(type(record), json.loads(json.dumps(to_json(record))))
    assert back == record
    assert hash(back) == hash(record), "lists became tuples again"
    assert decode(type(record), json.dumps(to_json(record)).encode()) == record


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({}, "question"),
        (None, "null"),
        ({"question": "q"}, "rollout"),
        ({"question": "q", "rollout": 0, "turns": 3}, r"\$\.turns"),
        ({"question": "q", "rollout": 0, "turns": [{"speaker": 0, "ids": [1, "2"], "text": ""}]}, r"\.ids\[1\]"),
        ({"question": 1, "rollout": 0}, r"\$\.question"),
        ({"question": "q", "rollout": "0"}, r"\$\.rollout"),
        ({"question": "q", "rollout": True}, r"\$\.rollout"),
        ({"question": "q", "rollout": 0, "ending": "left"}, "left"),
    ],
)
def test_what_is_no_record_is_told(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        from_json(Dialogue, value)
    with pytest.raises(ValueError, match=told):
        decode(Dialogue, json.dumps(value).encode())


@pytest.mark.parametrize("line", [b"", b"{", b'{"question":"q","rollout":0}{}', b'{"question":"\xff","rollout":0}'])
def test_a_damaged_line_is_told(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(Dialogue, line)


def test_lines_that_only_json_of_python_writes_are_read() -> None:
    assert decode(Dialogue, b'{"question":"\\ud83d","rollout":0}\n') == Dialogue("\ud83d", 0)
    reward = decode(Reward, b'{"total":NaN,"task":1,"token_share":0,"readability":0,"worst_loss":Infinity}')
    assert math.isnan(reward.total) and math.isinf(reward.worst_loss)


def test_records_of_earlier_versions_are_read() -> None:
    """Fields that came later have a default, and those that were always there are still asked for."""
    row = EvalRow("untrained", "greedy", 4, 0.5, 0.4, 0.6, 10.0, 9.0, 11.0, 3.0, 0.5, 20.0, 2.0)
    old = {name: value for name, value in to_json(row).items() if name not in ("flexible_score", "undecided")}
    assert from_json(EvalRow, old) == row and row.flexible_score is None
    old = to_json(Reward(0.5, 1.0, 0.5, 0.0, 2.0))
    del old["undecided"]
    assert from_json(Reward, old) == Reward(0.5, 1.0, 0.5, 0.0, 2.0)
    del old["worst_loss"]
    with pytest.raises(ValueError, match="worst_loss"):
        from_json(Reward, old)


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dialogue("q", 0).rollout = 1  # type: ignore[misc]


def test_tokens_are_sampled_ids_over_all_turns() -> None:
    assert Dialogue("q", 0, (Turn(0, (1, 2, 3), "a b"), Turn(1, (4,), "c"))).tokens == 4


@pytest.mark.parametrize(
    ("stated", "ending", "answer"),
    [
        (("x", None), Ending.MAX_TURNS, "x"),
        (("x", "y"), Ending.MAX_TURNS, "y"),
        ((None, None), Ending.MAX_TURNS, None),
        (("x", "x"), Ending.AGREED, "x"),
        (("x", None), Ending.TRUNCATED, None),
    ],
)
def test_the_answer_is_the_one_stated_last(stated: tuple[str | None, ...], ending: Ending, answer: str | None) -> None:
    said = tuple(Turn(k % 2, (k,), "", answer=text) for k, text in enumerate(stated))
    assert Dialogue("q", 0, said, ending).answer == answer
