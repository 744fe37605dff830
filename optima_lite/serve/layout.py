"""Who said what: the messages of any chat client as a question, the facts, and the turns of a dialogue. Pure.

Frameworks tell a role of the dialogue in ways of their own: a partner's words come as `user` or as `assistant`, with a
name, with a prefix, or with neither. A role was trained on one layout only. So a client's messages are never rendered:
they are taken apart here, and what comes of them is rendered as in training.

1. Who is named has said it: by `name`, else by a prefix (`Alice:`, `alice said:`), which is taken off.
2. An `assistant` without a name is the role that is asked, unless the last message is one: nobody speaks twice on
   end.
3. Whoever is left has spoken in the order of the team, counted back from the role that is asked.
4. Facts and question are what stands as `Facts:` and `Question:`, wherever; without the latter the first user message
   is the question. Any other system message is the client's own idea of the role, which was not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..settings.workflow import Workflow

_QUESTION = re.compile(r"^[ \t]*(?:[-*•][ \t]+)?Question:[ \t]*", re.MULTILINE)  # chat front ends make lists of lines
_FACT = re.compile(r"^[ \t]*[-*•][ \t]+(.*)$", re.MULTILINE)
_FACTS = re.compile(r"^[ \t]*Facts:[ \t]*$", re.MULTILINE)
_SAID = re.compile(r"^\s*([\w-]+) said:\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message as a client has sent it. role: system, developer, user or assistant. name: whose the client says it
    is."""

    role: str
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a client has told. question: empty where there is none. facts: all that were listed. said: who has said what
    so far, by `Turn.speaker`."""

    question: str
    facts: tuple[str, ...]
    said: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Utterance:
    """Somebody's words. who: None where nothing says it. assistant: whether the client has them as its assistant's."""

    who: int | None
    text: str
    assistant: bool


def question_of(messages: Sequence[ChatMessage]) -> Conversation:
    """What a client wants to know from a whole team: the last user message, because chat front ends send the dialogue
    before it, too; and the facts in it, else those in system messages."""
    latest = next((message.text for message in reversed(messages) if message.role == "user"), "")
    facts, asked = _asked(_without_said(latest))
    system = [one for message in messages if _is_system(message) for one in _asked(message.text)[0]]
    return Conversation(asked if asked is not None else _bare(_without_said(latest)), facts or tuple(system))


def conversation_of(messages: Sequence[ChatMessage], speaker: int, *, workflow: Workflow) -> Conversation:
    """What a client tells a role: the question, the facts that the role holds, and the dialogue so far."""
    question: list[str] = []
    facts: list[str] = []
    words: list[_Utterance] = []
    for message in messages:
        who, text = _named(message, workflow)
        if who is not None:
            words.append(_Utterance(who, text, message.role == "assistant"))
            continue
        if message.role == "assistant":
            words.append(_Utterance(None, text, True))
            continue
        listed, asked = _asked(text)
        facts += listed
        if asked is not None:
            asked, following = _begun(asked, workflow)
            question.append(asked)
            words += following
        elif message.role == "user" and (not question or message.name):  # a person who speaks in between is no role
            question.append(_bare(text))
        elif message.role == "user":
            words.append(_Utterance(None, text, False))
    said = tuple(zip(_speakers(words, speaker, workflow), (one.text for one in words), strict=True))
    return Conversation("\n".join(filter(None, question)), tuple(facts), said)


def numbers_by_name(workflow: Workflow) -> dict[str, int]:
    """Whoever has turns, by the names that a client may have for them, in lower case."""
    names = {name.lower(): k for k, name in enumerate(workflow.names)}
    return {name.lower(): k for k, name in reversed([*enumerate(workflow.voices)])} | names


def _is_system(message: ChatMessage) -> bool:
    return message.role in ("system", "developer")


def _named(message: ChatMessage, workflow: Workflow) -> tuple[int | None, str]:
    """Who is named in a message, and what is said in it."""
    text = message.text.strip()
    if _is_system(message):
        return None, text
    numbers = numbers_by_name(workflow)
    who = numbers.get(message.name.lower())
    names = "|".join(re.escape(name) for name in sorted(numbers, key=len, reverse=True))
    found = re.match(rf"(?:\*\*|\[)?({names})(?:\*\*|\])?(?:\s+said)?\s*:(?:\*\*)?\s*", text, re.IGNORECASE)
    if found and who in (None, numbers[found[1].lower()]):
        return numbers[found[1].lower()], text[found.end() :]
    return who, _without_said(text) if who is None else text


def _without_said(text: str) -> str:
    """Without the `user said:` that some frameworks put before a person's words."""
    found = _SAID.match(text)
    return text[found.end() :] if found else text


def _asked(text: str) -> tuple[tuple[str, ...], str | None]:
    """The facts that a text lists, and the question that it asks; None where it has no `Question:`."""
    found = [*_QUESTION.finditer(text)]
    before, asked = (text[: found[-1].start()], text[found[-1].end() :].strip()) if found else (text, None)
    listed = _FACTS.search(before)
    return tuple(fact.strip() for fact in _FACT.findall(before[listed.end() :])) if listed else (), asked


def _bare(text: str) -> str:
    """A text without the facts that it lists."""
    listed = _FACTS.search(text)
    if listed is None:
        return text.strip()
    rest = [line for line in text[listed.end() :].splitlines() if not _FACT.match(line)]
    return (text[: listed.start()] + "\n".join(rest)).strip()


def _begun(asked: str, workflow: Workflow) -> tuple[str, list[_Utterance]]:
    """A question, and what was said after it in the same message, as in the layout of training."""
    question, *rest = asked.split("\n")
    for k, line in enumerate(rest):
        who = numbers_by_name(workflow).get(line.strip().removesuffix(":").lower()) if line.endswith(":") else None
        if who is not None:
            said = "\n".join(rest[k + 1 :]).strip()
            return "\n".join([question, *rest[:k]]), [_Utterance(who, said, False)]
    return asked, []


def _speakers(words: Sequence[_Utterance], speaker: int, workflow: Workflow) -> list[int]:
    """Who has said all that; see the rules of the module."""
    own = bool(words) and not (words[-1].assistant and words[-1].who is None)
    talking = [workflow.speaker(step) for step in workflow.steps if step.reads is None]
    order = talking if speaker in talking else [workflow.speaker(step) for step in workflow.steps]
    last = len(words) % len(order)
    place = last if order[last] == speaker else order.index(speaker)
    found = []
    for k, one in enumerate(words):
        in_order = order[(place - len(words) + k) % len(order)]
        who = speaker if one.assistant and own else in_order
        found.append(one.who if one.who is not None else who)
    return found
