"""Whatever shape a client gives a dialogue, the role that is asked sees who said what. The bodies in recorded.json are
what programs have sent: LangGraph in three styles, AutoGen with and without prefixes, and others."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from optima_lite.serve.layout import ChatMessage, conversation_of, question_of
from optima_lite.serve.requests import ChatRequest, Refusal
from optima_lite.settings.teams import shipped
from optima_lite.settings.workflow import renamed

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
PAIR = shipped("exchange")
ALICE, BOB = 0, 1
QUESTION, FACTS = "Who teaches Mira?", ("Mira teacher Bemo", "Rolen home Portby")
SYSTEM = ChatMessage("system", "Facts:\n" + "\n".join(f"- {fact}" for fact in FACTS))
TALK = ("first: words", "second words\nof two lines", "third", "fourth")


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_every_recorded_client_is_understood(number: int) -> None:
    asked = ChatRequest.model_validate(RECORDED[number]["body"])
    asked.require_supported()
    whole = json.dumps(RECORDED[number]["body"]["messages"])
    _, _, role = asked.model.partition(":")
    if not role:
        told = question_of(asked.chat)
        assert told.question in whole and "Facts" not in told.question and "Question:" not in told.question
        assert len(told.facts) in (0, 8)
        return
    speaker = {"alice": ALICE, "bob": BOB}[role]
    told = conversation_of(asked.chat, speaker, workflow=PAIR)
    assert told.question.startswith(("What is", "Who is")) and "\n" not in told.question
    assert len(told.facts) == 4 and all(fact in whole for fact in told.facts)
    who = [one for one, _ in told.said]
    assert who == [k % 2 for k in range(len(who))] and len(who) % 2 == speaker, "Alice begins, and they take turns"
    for _, text in told.said:
        assert text and json.dumps(text)[1:-1] in whole and "said:" not in text


def told_to(style: str, speaker: int, turns: int) -> list[ChatMessage]:
    """The same dialogue as one kind of client tells it."""
    messages = [SYSTEM, ChatMessage("user", f"Question: {QUESTION}")]
    for k, text in enumerate(TALK[:turns]):
        own, name = k % 2 == speaker, ("alice", "Bob")[k % 2]
        messages.append(
            {
                "names, all assistants": ChatMessage("assistant", text, name),
                "names, partner as user": ChatMessage("assistant" if own else "user", text, name),
                "own without a name": ChatMessage("assistant", text) if own else ChatMessage("user", text, name),
                "no names, all assistants": ChatMessage("assistant", text),
                "no names, partner as user": ChatMessage("assistant" if own else "user", text),
                "prefixes": ChatMessage("assistant" if own else "user", f"{name}: {text}"),
                "said": ChatMessage("assistant", text) if own else ChatMessage("user", f"{name} said:\n{text}", name),
                "bold prefixes": ChatMessage("user", f"**{name}**: {text}"),
            }[style]
        )
    return messages


STYLES = (
    "names, all assistants",
    "names, partner as user",
    "own without a name",
    "no names, all assistants",
    "no names, partner as user",
    "prefixes",
    "said",
    "bold prefixes",
)


@pytest.mark.parametrize(("style", "turns"), [*product(STYLES, range(5))])
def test_a_dialogue_is_the_same_in_every_shape(style: str, turns: int) -> None:
    speaker = turns % 2
    told = conversation_of(told_to(style, speaker, turns), speaker, workflow=PAIR)
    assert (told.question, told.facts) == (QUESTION, FACTS)
    assert told.said == tuple((k % 2, text) for k, text in enumerate(TALK[:turns]))


def test_who_begins_is_left_to_the_client() -> None:
    messages = [SYSTEM, ChatMessage("user", f"Question: {QUESTION}"), ChatMessage("assistant", "words")]
    assert conversation_of(messages, ALICE, workflow=PAIR).said == ((BOB, "words"),)


def test_three_roles_without_names_are_told_apart_by_their_order() -> None:
    three = renamed(shipped("debate3"), ("Ann", "Ben", "Cid"))
    messages = [ChatMessage("user", QUESTION), *(ChatMessage("assistant", text) for text in TALK)]
    told = conversation_of(messages, 1, workflow=three)
    assert [who for who, _ in told.said] == [0, 1, 2, 0]
    assert [who for who, _ in conversation_of(messages, 2, workflow=three).said] == [1, 2, 0, 1]


def test_what_was_said_may_stand_in_the_first_message_as_in_training() -> None:
    text = f"Facts:\n- {FACTS[0]}\nQuestion: {QUESTION}\nAlice:\nI know\nnothing"
    told = conversation_of([ChatMessage("user", text)], BOB, workflow=PAIR)
    assert (told.question, told.facts, told.said) == (QUESTION, FACTS[:1], ((ALICE, "I know\nnothing"),))


def test_other_system_messages_are_not_heard_and_people_are_no_roles() -> None:
    messages = [
        ChatMessage("system", "You are a helpful AI assistant. Reply with TERMINATE when done."),
        ChatMessage("user", "user said:\nWho?", "user"),
        ChatMessage("assistant", "words"),
        ChatMessage("user", "more words", "Bob"),
        ChatMessage("user", "be quick", "user"),
    ]
    told = conversation_of(messages, ALICE, workflow=PAIR)
    assert (told.question, told.facts, told.said) == ("Who?\nbe quick", (), ((ALICE, "words"), (BOB, "more words")))


def test_a_team_is_asked_the_last_question() -> None:
    history = [
        ChatMessage("user", "Who was it?"),
        ChatMessage("assistant", "Bemo"),
        ChatMessage("user", "And who now?"),
    ]
    assert question_of(history).question == "And who now?"
    assert question_of([SYSTEM, ChatMessage("user", "Who?")]).facts == FACTS
    typed = ChatMessage("user", "Facts:\n\n* one\n• two\n- Question: who?")  # as a front end's editor makes it
    assert question_of([typed]).question == "who?" and question_of([typed]).facts == ("one", "two")
    listed = ChatMessage("user", "Facts:\n- one\n- two\nand so: who?")
    assert question_of([listed]).question == "and so: who?" and question_of([listed]).facts == ("one", "two")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"presence_penalty": 0.5},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"stop": ""},
    ],
)
def test_what_would_silently_not_happen_is_refused(more: dict[str, object]) -> None:
    asked = ChatRequest.model_validate({"model": "optima", "messages": [{"role": "user", "content": "x"}]} | more)
    with pytest.raises(Refusal):
        asked.require_supported()
        asked.chat  # noqa: B018


def test_neutral_values_pass() -> None:
    neutral = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "user": "me"}
    asked = ChatRequest.model_validate({"model": "optima", "messages": [{"role": "user", "content": "x"}]} | neutral)
    asked.require_supported()
