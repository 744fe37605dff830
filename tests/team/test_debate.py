"""Debates: who is told what, who sees what, when it ends; and how the task decides what counts as the same answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import Dialogue, Ending, Metric, Question, Turn
from optima_lite.settings.workflow import Workflow, told
from optima_lite.team.dialogue import extend
from optima_lite.team.prompts import Message, opening, view
from optima_lite.team.talks import debate, exchange, solo

QUESTION = Question("q", "1 + 1?", ("2",), ((), ()))
PAIR, THREE = debate(("Ann", "Ben"), 6), debate(("Ann", "Ben", "Cy"), 9)


def said(workflow: Workflow, count: int) -> list[Turn]:
    return [Turn(k % len(workflow.roles), (10 + k, 4), f"message {k}") for k in range(count)]


def talk(workflow: Workflow, *stated: str | None) -> Dialogue:
    dialogue = Dialogue("q", 0)
    for k, answer in enumerate(stated):
        assert dialogue.ending is None, f"it ended after {k} turns"
        dialogue = extend(dialogue, Turn(k % len(workflow.roles), (7, 0), "", answer), workflow=workflow)
    return dialogue


def test_a_solver_who_stays_with_its_answer_ends_the_debate() -> None:
    assert talk(PAIR, "2", None, "2").ending is Ending.AGREED
    assert talk(PAIR, "3", None, "2", None, "2").ending is Ending.AGREED
    assert talk(PAIR, "3", None, "2", None, "3", None).ending is Ending.MAX_TURNS


def test_three_agree_when_two_in_a_row_do() -> None:
    assert talk(THREE, "2", "3", "3").ending is Ending.AGREED
    assert talk(THREE, "2", "3", "2").ending is None


@pytest.mark.parametrize(
    ("metric", "one", "other", "same"),
    [
        ("f1", "The Alps", "alps.", True),
        ("exact", "x + 1", "x = 1", False),
        ("math", r"\dfrac12", r"\frac{1}{2}", True),
        ("math", "x+1", "x-1", False),
        ("math", r"5\text{ cm}", "5", True),
    ],
)
def test_the_metric_decides_what_the_same_answer_is(metric: Metric, one: str, other: str, same: bool) -> None:
    for workflow in (debate(("A", "B"), 6, metric=metric), exchange(("A", "B"), 6, metric=metric)):
        assert (talk(workflow, one, other).ending is Ending.AGREED) == same


def test_solver_and_critic_are_told_different_things() -> None:
    solver, critic = (view(QUESTION, [], k, workflow=PAIR)[0].text for k in (0, 1))
    assert solver.startswith("You are Ann. Solve") and "<A>answer</A>" in solver and "Ben checks" in solver
    assert critic.startswith("You are Ben. Ann solves") and "<A>" not in critic


@pytest.mark.parametrize("metric", ["math", "numeric"])
def test_mathematics_is_answered_in_a_box(metric: Metric) -> None:
    for workflow in (debate(("A", "B"), 6, metric=metric), debate(tuple("ABC"), 6, metric=metric), solo(metric=metric)):
        systems = [role.system for role in workflow.roles]
        assert r"\boxed{answer}" in systems[0] and not any("<A>" in text for text in systems)


def test_only_the_solver_is_given_a_format() -> None:
    read = [view(QUESTION, [], k, workflow=told(PAIR, "You are {name}."), format="json")[0].text for k in (0, 1)]
    assert read == ["You are Ann. Write each message as compact JSON.", "You are Ben."]
    for k in range(3):
        assert "JSON" in view(QUESTION, [], k, workflow=told(THREE, "You are {name}."), format="json")[0].text


def test_a_critic_sees_the_question_and_what_the_solver_said() -> None:
    turns = said(PAIR, 3)
    assert view(QUESTION, turns, 1, workflow=told(PAIR, ("solve", "check")))[1:] == [
        Message("user", "Question: 1 + 1?\nAnn:\n", (turns[0],)),
        Message("assistant", turns=(turns[1],)),
        Message("user", turns=(turns[2],)),
    ]


def test_among_three_every_message_says_whose_it_is() -> None:
    turns = said(THREE, 5)
    assert view(QUESTION, turns, 2, workflow=told(THREE, "{name} with {partner}")) == [
        Message("system", "Cy with Ann and Ben"),
        Message("user", "Question: 1 + 1?\nAnn:\n", (turns[0],)),
        Message("user", "Ben:\n", (turns[1],)),
        Message("assistant", turns=(turns[2],)),
        Message("user", "Ann:\n", (turns[3],)),
        Message("user", "Ben:\n", (turns[4],)),
    ]


@given(st.integers(0, 9), st.integers(0, 2))
def test_every_turn_is_seen_once_and_in_order(count: int, speaker: int) -> None:
    turns = said(THREE, count)
    messages = view(QUESTION, turns, speaker, workflow=told(THREE, "x"))
    assert [turn for message in messages for turn in message.turns] == turns
    own = [turn for message in messages if message.role == "assistant" for turn in message.turns]
    assert own == [turn for turn in turns if turn.speaker == speaker]


def test_in_a_debate_everyone_sees_all_facts() -> None:
    question = Question("q", "Who?", ("Tess",), (("Mira mother Tess",), ("Tess home Oakton",)))
    for workflow, speaker in ((PAIR, 0), (PAIR, 1), (THREE, 2)):
        assert view(question, [], speaker, workflow=told(workflow, "x"))[1].text == (
            "Facts:\n- Mira mother Tess\n- Tess home Oakton\nQuestion: Who?"
        )


def test_where_all_are_assistants_every_message_begins_with_a_name() -> None:
    """The official layout: facts and question are in the system message, and only own messages are one's own."""
    turns = said(PAIR, 2)
    messages = view(QUESTION, turns, 1, workflow=told(PAIR, "You are {name}."), format="json", layout="assistant")
    assert messages == [
        Message("system", "You are Ben.\nQuestion: 1 + 1?"),
        Message("assistant", "Ann:", (turns[0],), foreign=True),
        Message("assistant", "Ben:", (turns[1],)),
    ]
    assert [message.own for message in messages] == [False, False, True]
    assert opening(PAIR, 0, layout="assistant") == "Ann:" and opening(PAIR, 0, layout="alternating") == ""
