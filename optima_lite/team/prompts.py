"""What each agent sees: its role, a dialogue from its side as chat messages, and the pool of format prompts.

Layout: one system message (role and, in iteration 0, a format instruction), one user message (this speaker's facts and
the question), then own turns as `assistant` and everybody else's as `user`. What was said before the speaker's first
turn joins the facts in the first user message, because chat templates want the roles to alternate. Among three agents
two users in a row cannot be helped (the templates of Llama 3 allow it), and each message says whose it is.

In the layout `assistant`, the official code's, the system message holds the facts and the question, too, and everything
that is said is an `assistant` message that begins with its speaker's name; the name is not sampled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..records import CODE_METRICS, Layout, Metric, Question, Turn
from ..settings.workflow import INPUT, QUESTION, Step, Streaming, Workflow
from . import parsing
from .dialogue import listed, since, taken
from .segments import parts
from .streamed import Done, member

# A single agent that may leave sentences behind (AutoForm, arXiv 2402.18439), in our own words; follows its prompt.
AUTOFORM = (
    "Think in whatever form is shortest and still clear for this question: symbols, a table, a list, code, or any "
    "other that suits it better than sentences."
)

# The format-prompt pool of iteration 0 (paper section 3.2): every format carries the same content in another shape, so
# that the reward can find which shapes are short and still understood. Written for this project.
FORMATS = {
    "json": "Write each message as compact JSON.",
    "key_value": "Write each message as key = value pairs.",
    "table": "Write each message as table rows with | between the cells.",
    "bullets": "Write each message as a list of short facts.",
    "triples": "Write each message as (subject, relation, object) triples.",
    "telegraphic": "Write each message as a telegram with as few words as possible.",
    "arrows": "Write each message as a graph with -> arrows.",
    "pseudo_code": "Write each message as pseudo-code.",
    "yaml": "Write each message as YAML lines.",
    "xml": "Write each message as short XML elements.",
    "csv": "Write each message as CSV lines without a header.",
    "symbols": "Write each message with mathematical and logical symbols instead of words.",
    "abbreviated": "Write each message with every common word abbreviated.",
    "form": "Write each message as a form with the fields known, needed and answer.",
}

# What an agent of a stream is told, by how many it hears step by step.
_OF_ONE = (
    " You read the work of another part by part, while it is being written. After each part write your own version of "
    "it, correct what is wrong in it, and say no more."
)
_OF_SEVERAL = (
    " You read the work of others part by part, while it is being written, each part after the name of its author. "
    "Answer with one part of your own, in which you put together what belongs together and correct what is wrong, and "
    "say no more."
)

_MARK = re.compile(r"[ \n]*<A>answer</A>[.,]?[ \n]?")  # with what would stand on a line of its own around a block


def marked(workflow: Workflow, metric: Metric) -> Workflow:
    """The workflow with a task's metric, and with the mark that its answers need: mathematics and programs as every
    model has learned to write them."""
    if metric not in ("math", "numeric", *CODE_METRICS):
        return replace(workflow, metric=metric)

    def put(template: str) -> str:
        if metric in CODE_METRICS:
            return _MARK.sub("\n```python\nanswer\n```\n", template)
        return template.replace("<A>answer</A>", r"\boxed{answer}")

    roles = tuple(replace(role, system=put(role.system)) for role in workflow.roles)
    steps = tuple(replace(step, reads=put(step.reads)) if step.reads else step for step in workflow.steps)
    return replace(workflow, roles=roles, steps=steps, metric=metric)


YES, NO = "Yes", "No"  # what an agent's wake question is answered by


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. Its content is `text`, written by us, followed by the sampled `turns`, spliced in as token
    ids. foreign: whether an `assistant` message was said by another agent."""

    role: str
    text: str = ""
    turns: tuple[Turn, ...] = ()
    foreign: bool = False

    @property
    def own(self) -> bool:
        """Whether the viewer has said it."""
        return self.role == "assistant" and not self.foreign


def view(
    question: Question,
    turns: Sequence[Turn],
    speaker: int,
    *,
    workflow: Workflow,
    format: str | None = None,
    layout: Layout = "alternating",
) -> list[Message]:
    """The dialogue so far as `speaker` sees it; what it says next begins with `opening`.

    format: a name of the pool, whose instruction is added to the system message of a role that takes formats. Raises
    KeyError for a format that is not in the pool.
    """
    names = workflow.voices
    own = _own(turns, speaker, workflow)
    told = instructed(workflow, speaker, format)
    facts = facts_and_question(question, speaker, workflow=workflow)
    if layout == "assistant":
        return [Message("system", f"{told}\n{facts}"), *_all_assistant(turns, own, workflow)]

    messages = [Message("system", told)]
    said = list(zip(turns, own, strict=True))
    if said and names[said[0][0].speaker] != names[speaker]:
        first, _ = said.pop(0)
        messages.append(_foreign("user", f"{facts}\n{names[first.speaker]}:\n", first))
    else:
        messages.append(Message("user", facts))
    for turn, mine in said:
        if names[turn.speaker] == names[speaker]:
            messages.append(Message("assistant", turns=(turn,), foreign=not mine))
        else:
            messages.append(_foreign("user", f"{names[turn.speaker]}:\n" if len(set(names)) > 2 else "", turn))
    return messages


def instructed(workflow: Workflow, speaker: int, format: str | None = None) -> str:
    """A role's system prompt, filled in, with the instruction of a format if it takes them, and of steps if messages
    consist of them and are handed on whole. Raises KeyError for a format that is not in the pool."""
    role, name = workflow.roles[speaker], workflow.voices[speaker]
    others = dict.fromkeys(workflow.voices[: len(workflow.roles)])
    partner = " and ".join(one for one in others if one != name)
    instruction = f" {FORMATS[format]}" if format and role.formats else ""
    if workflow.stream and not workflow.streams:
        instruction += in_steps(workflow.stream)
    return role.system.replace("{name}", name).replace("{partner}", partner) + instruction


def how_to_write(workflow: Workflow, senders: int) -> str:
    """What an agent of a stream is told of that, by the number of those that it hears step by step."""
    assert workflow.stream is not None
    return (_OF_SEVERAL if senders > 1 else _OF_ONE) if senders else in_steps(workflow.stream)


def in_steps(how: Streaming) -> str:
    """What an agent is told that writes a whole message in steps; nothing where its sentences are its steps."""
    if how.border == "sentence":
        return ""
    if how.steps is None:
        return f" Write one step of your reasoning after the other, and {how.marker} after each."
    if how.steps == 1:
        return f" Write {how.marker} when you are done."
    return f" Write in {how.steps} parts of about the same length, and {how.marker} after each."


def _own(turns: Sequence[Turn], speaker: int, workflow: Workflow) -> list[bool]:
    """Which turns this speaker has said in answer to the conversation as it stood."""
    if workflow.talks:
        return [turn.speaker == speaker for turn in turns]
    return [turn.speaker == speaker and step.reads is None for step, turn, _ in taken(turns, workflow)]


def _all_assistant(turns: Sequence[Turn], own: Sequence[bool], workflow: Workflow) -> list[Message]:
    messages = []
    for turn, mine in zip(turns, own, strict=True):
        name = opening(workflow, turn.speaker, layout="assistant")
        messages.append(Message("assistant", name, (turn,)) if mine else _foreign("assistant", name, turn))
    return messages


def _foreign(role: str, label: str, turn: Turn) -> Message:
    """A message that another agent, or a tool, has said; what no model has sampled is text."""
    foreign = role == "assistant"
    return Message(role, label, (turn,), foreign) if turn.ids else Message(role, label + turn.text, (), foreign)


def wake_question(
    question: Question, turns: Sequence[Turn], speaker: int, ask: str, *, workflow: Workflow
) -> list[Message]:
    """What the model reads before it says whether an agent is to take part: the agent's own facts and the talk so far,
    as a text, and the question that is to be answered by yes or no."""
    said = [f"{workflow.voices[turn.speaker]}: {turn.text}" for turn in turns]
    state = "\n".join([facts_and_question(question, speaker, workflow=workflow), "", *(said or ["(nothing said yet)"])])
    return [Message("system", f"{ask} Answer {YES} or {NO}."), Message("user", state)]


def opening(workflow: Workflow, speaker: int, *, layout: Layout) -> str:
    """What stands at the beginning of a message before anything is sampled."""
    return f"{workflow.voices[speaker]}:" if layout == "assistant" else ""


def facts_and_question(question: Question, speaker: int, *, workflow: Workflow) -> str:
    """The user text: the facts this speaker holds, a line each, then the question."""
    lines = [f"- {fact}" for fact in held(question, speaker, workflow=workflow)]
    return "\n".join((["Facts:", *lines] if lines else []) + [f"Question: {question.text}"])


def held(question: Question, speaker: int, *, workflow: Workflow) -> tuple[str, ...]:
    """The facts that a role knows: all of them, its own share, or none."""
    match workflow.roles[speaker].facts:
        case "all":
            return sum(question.contexts, ())
        case "share":
            return question.contexts[workflow.share(speaker)]
        case "none":
            return ()


# --- Templates ------------------------------------------------------------------------------------


def brief(
    question: Question,
    done: Done,
    step: Step,
    *,
    workflow: Workflow,
    format: str | None = None,
) -> list[Message]:
    """What the speaker of a step with a template is told. done: the steps taken before."""
    speaker = workflow.speaker(step)
    given = {"question": question.text, "facts": listing(held(question, speaker, workflow=workflow))}
    if workflow.stream:
        done = tuple((one, replace(turn, text=_handed_on(one, turn.text, workflow.stream))) for one, turn in done)
    return [
        Message("system", instructed(workflow, speaker, format)),
        Message("user", filled(step, done, given=given)),
    ]


def _handed_on(step: Step, text: str, how: Streaming) -> str:
    """A message without the marks between its steps, and with those steps alone that a probe lets pass."""
    if step.tool or step.parse != "text":
        return text
    begin, end = how.passed if how.passed and not step.inputs else (0, None)
    return "\n".join(parts(text, how)[begin:end])


def listing(facts: Sequence[str]) -> str:
    """Facts as a template has them, a line each."""
    return "\n".join(f"- {fact}" for fact in facts) or "(none)"


def filled(step: Step, done: Done, *, given: Mapping[str, str]) -> str:
    """A step's template with its inputs put in. given: those that no step writes. Raises KeyError for one that nobody
    has written."""
    written = [(one.writes, parsing.value(one, turn.text)) for one, turn in done]
    latest = {**given, **dict(written)}

    def put(found: re.Match[str]) -> str:
        name, part = found.groups()
        if part == "all":
            return parsing.numbered([text for key, text in written if key == name]) or "(none)"
        if part == "item":
            items = listed(done, name) or [latest[name]]
            return items[min(since(done, step, name), len(items) - 1)]
        return latest[name]

    assert step.reads is not None
    return INPUT.sub(put, step.reads)


def sights(
    question: Question, workflow: Workflow, *, layout: Layout = "alternating"
) -> Iterator[tuple[str, list[Message]]]:
    """Who reads what before anything is said: the conversation once for each role in it, then every template, in which
    the inputs that steps write stay open."""
    talking = dict.fromkeys(step.speaker for step in workflow.steps if step.reads is None)
    for name in sorted(talking, key=workflow.names.index):
        yield name, view(question, (), workflow.names.index(name), workflow=workflow, layout=layout)
    for step in workflow.steps:
        if step.reads is not None and not step.tool:
            facts = listing(held(question, workflow.speaker(step), workflow=workflow))
            told = step.reads.replace("{question}", question.text).replace("{facts}", facts)
            system = instructed(workflow, workflow.speaker(step))
            if workflow.streams:
                others = [one for one in workflow.steps if one is not step]
                system += how_to_write(workflow, len(member(step, others).hears))
            yield f"{step.speaker}, at step {step.name},", [Message("system", system), Message("user", told)]


# --- The longest that can be read -----------------------------------------------------------------


def longest_talks(workflow: Workflow) -> list[tuple[int, list[int]]]:
    """For each role that reads the conversation who speaks in one of full length that it reads to its end."""
    steps = [step for step in workflow.steps if step.reads is None]
    if not steps:
        return []
    speakers = [workflow.speaker(steps[k % len(steps)]) for k in range(workflow.max_steps)]
    in_turn = not workflow.auctioned and all(
        way.to in ((), (following.name,))
        for step, following in zip(workflow.steps, (*workflow.steps[1:], workflow.steps[0]), strict=True)
        for way in step.ways
    )
    last = {speaker: speakers if in_turn else [*speakers[:-1], speaker] for speaker in map(workflow.speaker, steps)}
    return sorted(last.items())


def longest_brief(bare: Question, step: Step, *, workflow: Workflow) -> tuple[list[Message], int, int]:
    """What the speaker of a step with a template is told, inputs left out; of how many messages these are at most, and
    how many shares of the facts are read in them. bare: the question without facts."""
    assert step.reads is not None
    messages = shares = 0
    for name, part in INPUT.findall(step.reads):
        if name == "facts":
            shares += {"all": len(bare.contexts), "share": 1, "none": 0}[workflow.roles[workflow.speaker(step)].facts]
        elif name != "question":
            writers = [one for one in workflow.steps if one.writes == name]
            times = workflow.max_steps if part == "all" else 1
            own = [one.speaker == "retrieve" and one.index == QUESTION for one in writers]  # else as long as a message
            shares += len(bare.contexts) * times if any(own) else 0
            messages += times if not all(own) else 0
    given = dict.fromkeys((name for name, _ in INPUT.findall(step.reads)), "") | {"question": bare.text}
    told = Message("system", instructed(workflow, workflow.speaker(step)))
    return [told, Message("user", filled(step, (), given=given))], messages, shares
