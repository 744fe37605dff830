"""What each agent sees: its role, a dialogue from its side as chat messages, and the pool of format prompts.

Layout: one system message (role and, in iteration 0, a format instruction), one user message (this speaker's facts and
the question), then own turns as `assistant` and everybody else's as `user`. What was said before the speaker's first
turn joins the facts in the first user message, because chat templates want the roles to alternate. Among three agents
two users in a row cannot be helped (the templates of Llama 3 allow it), and each message says whose it is.

In the layout `assistant`, the official code's, the system message holds the facts and the question, too, and everything
that is said is an `assistant` message that begins with its speaker's name; the name is not sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import InteractionProtocol, Layout, Metric, Question, Turn

EXCHANGE_SYSTEM = (
    "You are {name}. You and {partner} answer a question together; each of you holds only a part of the information. "
    "Tell {partner} what matters, ask for what you miss, and be concise. When you know the final answer, write it as "
    "<A>answer</A>. The talk is over when you both give the same answer."
)
# A debate (paper section 3): one agent solves, the other criticises without solving; three solve together.
SOLVER_SYSTEM = (
    "You are {name}. Solve the question step by step, and be concise; {partner} checks what you write. Give your "
    "answer as <A>answer</A>. If {partner} finds a mistake, correct it; if not, give the same answer again."
)
CRITIC_SYSTEM = (
    "You are {name}. {partner} solves the question. Check the reasoning: name the first mistake and why it is one, or "
    "say that there is none. Be concise, and do not give the answer yourself."
)
DEBATER_SYSTEM = (
    "You are {name}. You and {partner} solve the question together and speak in turn. Say what you think, correct what "
    "is wrong in what was said before, and be concise. Give your answer as <A>answer</A>. The talk is over when an "
    "answer is given a second time."
)
# A single agent that may leave sentences behind (AutoForm, arXiv 2402.18439), in our own words; follows its prompt.
AUTOFORM = (
    "Think in whatever form is shortest and still clear for this question: symbols, a table, a list, code, or any "
    "other that suits it better than sentences."
)
SOLO_SYSTEM = "Answer the question. Think step by step, then write the final answer as <A>answer</A>."

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


def systems(protocol: InteractionProtocol) -> tuple[str, ...]:
    """The built-in system prompt of each role, as templates for `view`, with the mark that the task's answers need."""
    if protocol.name == "exchange":
        templates = [EXCHANGE_SYSTEM] * len(protocol.roles)
    elif protocol.name == "solo":
        templates = [SOLO_SYSTEM]
    elif len(protocol.roles) == 2:
        templates = [SOLVER_SYSTEM, CRITIC_SYSTEM]
    else:
        templates = [DEBATER_SYSTEM] * len(protocol.roles)
    return tuple(marked(template, protocol.metric) for template in templates)


def marked(template: str, metric: Metric) -> str:
    """A system prompt with the mark that the task's answers need: mathematics as every model has learned to write
    it."""
    return template.replace("<A>answer</A>", r"\boxed{answer}") if metric in ("math", "numeric") else template


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
    protocol: InteractionProtocol,
    system: str | tuple[str, ...],
    format: str | None = None,
    layout: Layout = "alternating",
) -> list[Message]:
    """The dialogue so far as `speaker` sees it; what it says next begins with `opening`.

    system: a template with the fields {name} and {partner}, for all roles or one for each. format: a name of the pool,
    whose instruction is added to the system message; a critic gets none (paper, appendix). Raises KeyError for a
    format that is not in the pool.
    """
    name, partner = protocol.roles[speaker], " and ".join(r for r in protocol.roles if r != protocol.roles[speaker])
    template = system if isinstance(system, str) else system[speaker]
    instruction = f" {FORMATS[format]}" if format and not _criticises(protocol, speaker) else ""
    told = template.replace("{name}", name).replace("{partner}", partner) + instruction
    facts = facts_and_question(question, speaker, split=protocol.split)
    if layout == "assistant":
        return [Message("system", f"{told}\n{facts}"), *_all_assistant(turns, speaker, protocol)]

    messages = [Message("system", told)]
    said = list(turns)
    if said and said[0].speaker != speaker:
        first = said.pop(0)
        messages.append(Message("user", f"{facts}\n{protocol.roles[first.speaker]}:\n", (first,)))
    else:
        messages.append(Message("user", facts))
    for turn in said:
        if turn.speaker == speaker:
            messages.append(Message("assistant", turns=(turn,)))
        else:
            label = f"{protocol.roles[turn.speaker]}:\n" if len(protocol.roles) > 2 else ""
            messages.append(Message("user", label, (turn,)))
    return messages


def _all_assistant(turns: Sequence[Turn], speaker: int, protocol: InteractionProtocol) -> list[Message]:
    names = [opening(protocol, turn.speaker, layout="assistant") for turn in turns]
    return [
        Message("assistant", name, (turn,), foreign=turn.speaker != speaker)
        for name, turn in zip(names, turns, strict=True)
    ]


def opening(protocol: InteractionProtocol, speaker: int, *, layout: Layout) -> str:
    """What stands at the beginning of a message before anything is sampled."""
    return f"{protocol.roles[speaker]}:" if layout == "assistant" else ""


def _criticises(protocol: InteractionProtocol, speaker: int) -> bool:
    return protocol.name == "debate" and len(protocol.roles) == 2 and speaker == 1


def facts_and_question(question: Question, speaker: int, *, split: bool) -> str:
    """The user text: the facts this speaker holds (all of them where nothing is split), a line each, then the
    question."""
    facts = question.contexts[speaker] if split else sum(question.contexts, ())
    lines = [f"- {fact}" for fact in facts]
    return "\n".join((["Facts:", *lines] if lines else []) + [f"Question: {question.text}"])
