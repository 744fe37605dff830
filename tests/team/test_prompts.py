"""Views: each agent sees its own facts, the roles alternate, and the first user turn takes in what came before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import Question, Turn
from optima_lite.settings.workflow import told
from optima_lite.team.prompts import FORMATS, Message, view
from optima_lite.team.talks import exchange, solo

PAIR = told(exchange(("Ada", "Ben"), 6), "You are {name}, with {partner}.")
QUESTION = Question("q", "Who?", ("Tess",), (("Mira mother Tess",), ("Lok boss Mira", "Tess home Oakton")))
TURNS = [Turn(k % 2, (10 + k, 4), f"message {k}") for k in range(4)]


def test_the_first_speaker_starts_from_its_facts() -> None:
    assert view(QUESTION, [], 0, workflow=PAIR) == [
        Message("system", "You are Ada, with Ben."),
        Message("user", "Facts:\n- Mira mother Tess\nQuestion: Who?"),
    ]


def test_the_second_speaker_gets_its_facts_and_the_first_message_in_one_user_turn() -> None:
    assert view(QUESTION, TURNS[:1], 1, workflow=PAIR) == [
        Message("system", "You are Ben, with Ada."),
        Message("user", "Facts:\n- Lok boss Mira\n- Tess home Oakton\nQuestion: Who?\nAda:\n", (TURNS[0],)),
    ]


@given(st.integers(0, 4), st.sampled_from([0, 1]))
def test_own_turns_are_the_assistant_s_and_the_roles_alternate(said: int, speaker: int) -> None:
    messages = view(QUESTION, TURNS[:said], speaker, workflow=PAIR)
    assert [turn for message in messages for turn in message.turns] == TURNS[:said], "every turn, once, in order"
    own = [turn for message in messages if message.role == "assistant" for turn in message.turns]
    assert own == [turn for turn in TURNS[:said] if turn.speaker == speaker]
    roles = [message.role for message in messages]
    assert roles[0] == "system" and roles[1:] == ["user", "assistant", "user", "assistant", "user"][: len(roles) - 1]


def test_no_agent_sees_the_other_s_facts() -> None:
    for speaker, hidden in ((0, "Oakton"), (1, "mother")):
        shown = view(QUESTION, TURNS, speaker, workflow=PAIR)
        assert not any(hidden in message.text for message in shown)


def test_a_single_agent_sees_all_facts() -> None:
    _, user = view(QUESTION, [], 0, workflow=told(solo(), "Think."))
    assert user.text == "Facts:\n- Mira mother Tess\n- Lok boss Mira\n- Tess home Oakton\nQuestion: Who?"


def test_a_question_without_facts_stands_alone() -> None:
    _, user = view(Question("q", "1 + 1?", ("2",), ((), ())), [], 0, workflow=PAIR)
    assert user.text == "Question: 1 + 1?"


def test_a_format_is_asked_for_in_the_system_message() -> None:
    system, *_ = view(QUESTION, [], 0, workflow=PAIR, format="json")
    assert system.text == "You are Ada, with Ben. Write each message as compact JSON."
    with pytest.raises(KeyError):
        view(QUESTION, [], 0, workflow=PAIR, format="no such format")


def test_braces_of_other_texts_survive() -> None:
    (system, _) = view(QUESTION, [], 0, workflow=told(PAIR, '{name}: answer as {"a": {x}} to {partner}'))
    assert system.text == 'Ada: answer as {"a": {x}} to Ben'


def test_the_pool_has_at_least_twelve_formats_that_differ() -> None:
    assert len(FORMATS) >= 12 and len(set(FORMATS.values())) == len(FORMATS)
