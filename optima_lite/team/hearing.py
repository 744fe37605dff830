"""What an agent reads while others are still speaking: its template with what it has heard so far, then what arrives.

All that was there before stays as it is and stands first, so a later message costs only what is new. Own messages are
spliced in as they were sampled; what others said is text, as in every template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..records import Question, Turn
from ..settings.workflow import Step, Workflow
from .prompts import Message, facts_and_question, filled, held, how_to_write, instructed, listing
from .stream import Heard
from .stream import Message as Said
from .streamed import Done, Standing, member

NOTHING_YET = "(nothing yet)"
_HEADERS = 16  # tokens around a message and its answer


def overheard(
    question: Question,
    now: Standing,
    step: Step,
    *,
    workflow: Workflow,
    format: str | None = None,
    following: bool = False,
) -> list[Message]:
    """All that the speaker of a step has read and said in it. following: what its next message answers stands last, if
    a new message comes next."""
    messages = list(now.stream.messages(step.name))
    if following and now.stream.open(step.name) is None:
        messages.append(Said(now.stream.takes(step.name)))
    hears = now.stream.member(step.name).hears
    seen = [
        Message("system", instructed(workflow, workflow.speaker(step), format) + how_to_write(workflow, len(hears)))
    ]
    for number, message in enumerate(messages):
        turns = tuple(turn for k in message.steps if (turn := now.turns[k]).ids)
        if message.steps and not turns:
            break  # there was no room for a word of it
        arrived = _by_sender(message.heard, step, now)
        text = "\n".join(arrived.values()) if number else _begun(question, arrived, step, now, workflow)
        seen += [Message("user", text), *([Message("assistant", turns=turns)] if turns else [])]
    return seen


def around(step: Step, workflow: Workflow, *, length: Callable[[str], int]) -> int:
    """The most tokens that stand around what the speaker of a step hears: headers, and the names of the senders before
    every message, and what it is told of all that; none where nothing streams. length: of a text, in tokens."""
    how = workflow.stream
    if how is None or not workflow.streams:
        return 0
    hears = member(step, [one for one in workflow.steps if one is not step]).hears
    labels = [f"{name}:\n{NOTHING_YET}\n" for name in hears] if len(hears) > 1 else []
    most = how.most + len(workflow.steps) if how.merge == "drain" else how.at_most
    messages = min(how.at_most, most) if hears else 1
    return messages * (sum(map(length, labels)) + _HEADERS) + length(how_to_write(workflow, len(hears)))


def _by_sender(heard: Sequence[Heard], step: Step, now: Standing) -> dict[str, str]:
    """What has arrived from each sender, who is named where there are several."""
    texts: dict[str, list[str]] = {}
    for one in heard:
        texts.setdefault(one.sender, []).append(one.text)
    named = len(now.stream.member(step.name).hears) > 1
    return {
        sender: f"{_name(sender, now)}:\n{said}" if named else said
        for sender, said in ((sender, "\n".join(lines)) for sender, lines in texts.items())
    }


def _name(sender: str, now: Standing) -> str:
    """The name of who speaks at a step, or of the step where that is not clear."""
    speakers = [step.speaker for step in now.steps]
    speaker = now.step(sender).speaker
    return speaker if speakers.count(speaker) == 1 else sender


def _begun(question: Question, arrived: dict[str, str], step: Step, now: Standing, workflow: Workflow) -> str:
    """The first thing that the speaker of a step is told."""
    speaker = workflow.speaker(step)
    member = now.stream.member(step.name)
    if step.reads is None:
        whole = [f"{_name(name, now)}:\n{now.stream.whole(name)}" for name in member.awaits]
        return "\n".join([facts_and_question(question, speaker, workflow=workflow), *whole, *arrived.values()])
    given = {"question": question.text, "facts": listing(held(question, speaker, workflow=workflow))}
    return filled(step, inputs(step, now, workflow, arrived), given=given)


def inputs(step: Step, now: Standing, workflow: Workflow, arrived: Mapping[str, str] = {}) -> Done:
    """What the template of a step is filled with. arrived: the texts of those that it hears step by step."""
    member, latest = now.stream.member(step.name), {name for name, part in step.inputs if part != "all"}
    done = []
    for one in now.steps:
        said = now.stream.whole(one.name) if one.name in member.awaits else arrived.get(one.name)
        if said is None and one.name in member.hears and one.writes in latest:
            said = NOTHING_YET
        if said is not None:
            done.append((one, Turn(workflow.speaker(one), (), said)))
    return tuple(done)
