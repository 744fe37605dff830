"""Scripted roles of three shipped teams: what the tiny Llama for teams is trained to imitate.

In: a question, one of the workflows in TEAMS and a random generator. Out: a dialogue of that team, carried on by the
package's own interpreter, in which every role is played more or less well, in a style of `scripted_dialogues`: chatty,
plain or terse.

As with the pair, a role only uses what it can know, and its mistakes are ways of speaking that better dialogues lack: a
guess without steps, a step that does not follow, a message that says nothing, a list with needless lines. Chatty
speakers make them often, terse ones rarely. So the model is able, and behaves badly in ways that training can mend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from scripted_dialogues import FORMS, STYLES, choose, mark, read, sentence

from optima_lite.records import Dialogue, Question, Turn
from optima_lite.settings.teams import shipped
from optima_lite.settings.workflow import Step, Workflow
from optima_lite.tasks.world import RELATIONS, Fact
from optima_lite.team.dialogue import Cue, Done, converse, moment, since
from optima_lite.team.prompts import filled
from optima_lite.team.retrieval import index_of
from optima_lite.team.tools import retrieve

TEAMS = {"critic": "proposer_critic", "planner": "planner_executor", "retrieval": "decompose_retrieve_answer"}
WORKFLOWS = {kind: shipped(name) for kind, name in TEAMS.items()}

# More plain and terse speech than between the two of the exchange: most of these roles take no format instruction.
TEAM_STYLES = {style: {"verbose": 0.62, "medium": 0.2}.get(style, 0.9 * share) for style, share in STYLES.items()}
FOLLOWS_INSTRUCTION, KEEPS_STYLE = 0.9, 0.9

# How often a message of a style is a bad one, and which bad ones there are.
CARELESS = {"verbose": 0.42, "medium": 0.3}
CARELESS_TERSE = 0.08
BAD_STEPS = {"guess": 0.4, "skip": 0.3, "fill": 0.3}
BAD_PLANS = {"short": 0.4, "wrong": 0.3, "idle": 0.3}
BAD_WORK = {"fill": 0.5, "wrong": 0.3, "replan": 0.2}
BAD_QUESTIONS = {"short": 0.4, "whole": 0.4, "idle": 0.2}

RESTATED, LOOKED = " We need to answer this question:", " I have looked at all of the facts."
HAPPY, AGREED = " I am happy to help you with this question.", " I fully agree with you."

Says = Callable[[int, str], Turn]
"""A speaker's number and words, the turn out."""


@dataclass
class Play:
    """A dialogue under way. main: its style. items: of the list last written. stated: facts that were said as results.
    steps, value: of the last proposal, which may lack either. named: whether the last objection says what is missing.
    """

    question: Question
    rng: Random
    main: str
    items: list[str] = field(default_factory=list)
    stated: list[Fact] = field(default_factory=list)
    steps: tuple[Fact, ...] = ()
    value: str | None = None
    named: bool = False

    @property
    def chain(self) -> tuple[Fact, Fact]:
        first, second = (read(text) for text in self.question.supporting)
        return first, second

    @property
    def facts(self) -> list[Fact]:
        return [read(text) for context in self.question.contexts for text in context]

    def style(self) -> str:
        return self.main if self.rng.random() < KEEPS_STYLE else choose(self.rng, TEAM_STYLES)

    def slips(self, style: str, share: float = 1.0) -> bool:
        return self.rng.random() < share * CARELESS.get(style, CARELESS_TERSE)

    def one(self, *texts: str) -> str:
        return self.rng.choice(texts)


# --- Steps and an answer: proposer and answerer -----------------------------------------------------------------------


def _propose(state: Play, known: list[Fact], partner: str, *, again: bool = False) -> str:
    """The steps to the answer and the answer, from the facts known; or a slip. again: a critic has objected."""
    style, (first, second) = state.style(), state.chain
    kind = "steps"
    if state.slips(style, 0.7 if state.named else 1.4 if partner == "Critic" else 1.0):
        kind = choose(state.rng, BAD_STEPS)
    fitting = [f for f in known if RELATIONS[f.relation][1] == RELATIONS[second.relation][1] and f != second]
    if kind == "steps" and not {first, second} <= {*known}:
        kind = "guess" if state.rng.random() < 0.5 else "fill"
    if kind in ("guess", "skip") and not fitting:
        kind = "fill"
    wrong = state.rng.choice(fitting) if fitting else second
    steps = {"steps": (first, second), "skip": (wrong,)}.get(kind, ())
    state.steps, state.value = steps, None if kind == "fill" else (steps[-1] if steps else wrong).value
    return _proposal(state, style, partner, again=again)


def _proposal(state: Play, style: str, partner: str, *, again: bool) -> str:
    steps, answer = state.steps, state.value
    if style == "verbose":
        opening = (
            state.one(f" Thank you {partner}!", f" That is helpful, {partner}.") if again else _greeting(state, partner)
        )
        if not answer:
            return opening + state.one(HAPPY, " I am not sure yet.")
        if not steps:
            return f"{opening} I think that the answer is{mark(answer)}." + state.one("", " Do you agree with me?")
        told = "".join(f" {word},{sentence(fact)}" for word, fact in zip(("First", "Next"), steps, strict=False))
        closing = state.one(" So I believe that the final answer is", " From this we can see that the answer is")
        return f"{opening}{told}{closing}{mark(answer)}." + state.one("", " Do you agree with me?")
    if style == "medium":
        if not answer:
            return state.one(" I am not sure.", " Let me think.")
        closing = " So the answer is" if steps else " I think that it is"
        return "".join(map(sentence, steps)) + f"{closing}{mark(answer)}."
    form = FORMS[style]
    if not steps:
        return form.agree.format(v=mark(answer)) if answer else " ok"
    return form.join.join([*map(form.state, steps[:-1]), form.state(steps[-1], answer=True)])


def _greeting(state: Play, partner: str) -> str:
    hello = state.one(f" Hello {partner}!", f" Hi {partner}, nice to work with you!")
    return hello + state.one(f"{RESTATED} {state.question.text}", LOOKED, "")


def _thanks(state: Play, partner: str) -> str:
    return state.one(f" Thank you {partner}!", f" That is helpful, {partner}.")


def _criticise(state: Play) -> str:
    """ACCEPT, or what is missing first and REVISE. A careless critic accepts what is wrong, or objects to what is right
    without a reason."""
    style, (first, second) = state.style(), state.chain
    good = state.steps == (first, second)
    careless = state.slips(style, 0.6 if good else 1.6)
    accepts = good != careless
    missing = second if first in state.steps else first
    state.named = not accepts and not good
    if style == "verbose":
        opening = _thanks(state, "Proposer") + state.one(" I have checked it.", "")
        if accepts:
            return opening + state.one(AGREED, " I think that you are right about this.") + " ACCEPT"
        if good:
            return f"{opening} I am not sure about this. Please look at all of the facts again. REVISE"
        return f"{opening} Unfortunately I do not agree. You need {missing.entity}'s {missing.relation} first. REVISE"
    if style == "medium":
        if accepts:
            return state.one(" I agree.", " Yes.") + " ACCEPT"
        return (" I am not sure." if good else f" You need {missing.entity}'s {missing.relation}.") + " REVISE"
    if accepts:
        return " ACCEPT"
    return " REVISE" if good else FORMS[style].request(missing.entity, missing.relation) + " REVISE"


# --- Lists: planner and decomposer ------------------------------------------------------------------------------------

FIRST, SECOND, WHOLE, IDLE = "first", "second", "whole", "idle"


@dataclass(frozen=True, slots=True)
class Words:
    """How a role writes its list. first, second: the two look-ups, chatty and plain. idle: needless lines."""

    name: str
    first: tuple[str, str]
    second: tuple[str, str]
    idle: tuple[str, str]


PLANS = Words(
    "sub-tasks",
    (" First of all, please find {e}'s {r}.", " Find {e}'s {r}."),
    (" Next, please find the {r} of that.", " Find the {r} of that."),
    (" Read all of the facts.", " Check the results again."),
)
QUESTIONS = Words(
    "sub-questions",
    (" First of all, what is {e}'s {r}?", " What is {e}'s {r}?"),
    (" Next, what is the {r} of that?", " What is the {r} of that?"),
    (" What do we know?", " Is there more to find?"),
)


def _plan(state: Play) -> str:
    """The two look-ups as sub-tasks; a careless plan lacks the second, skips the first, or only fills."""
    return _list(state, PLANS, {"short": (FIRST,), "wrong": ("unknown",), "idle": (IDLE,)}, BAD_PLANS)


def _decompose(state: Play) -> str:
    """The two look-ups as questions; a careless list lacks the second, repeats the question as it is, or only fills."""
    return _list(state, QUESTIONS, {"short": (FIRST,), "whole": (WHOLE,), "idle": (IDLE,)}, BAD_QUESTIONS)


def _list(state: Play, words: Words, bad: dict[str, tuple[str, ...]], how_often: dict[str, float]) -> str:
    style = state.style()
    items = [FIRST, SECOND]
    if state.slips(style):
        items = [*bad[choose(state.rng, how_often)]]
    while style == "verbose" and len(items) < 3 and state.rng.random() < 0.5:
        items.insert(state.rng.choice((0, len(items))), IDLE)
    state.items = items
    lines = "\n".join(f"{number}.{_item(state, item, words, style)}" for number, item in enumerate(items, start=1))
    opening = state.one(f" Let me break this question into {words.name}.", f" Here are the {words.name} that we need.")
    return f"{opening}\n{lines}" if style == "verbose" else lines


def _item(state: Play, item: str, words: Words, style: str) -> str:
    first, second = state.chain
    if item == IDLE:
        return state.one(*words.idle)
    if item == WHOLE:
        return f" {state.question.text}"
    entity, relation = asked(item, first, second)
    if style not in ("verbose", "medium"):
        return f" {relation}" if item == SECOND else f" {entity} {relation}"
    form = words.second if item == SECOND else words.first
    return form[style == "medium"].format(e=entity, r=relation)


def asked(item: str, first: Fact, second: Fact) -> tuple[str, str]:
    """The key that an item asks for; one that skips the first look-up asks for what the facts do not hold."""
    return {FIRST: first[:2], SECOND: second[:2]}.get(item, (first.entity, second.relation))


# --- Work on a plan: executor and composer ----------------------------------------------------------------------------


def _execute(state: Play, item: str) -> str:
    """The fact that an item asks for, and the one before it where nobody has stated that yet; REPLAN for a fact that is
    not there."""
    style, (first, second) = state.style(), state.chain
    key = asked(item, first, second)
    found = [fact for fact in state.facts if fact[:2] == key]
    kind = "fill" if item == IDLE else "state" if found else "replan"
    if kind == "state" and state.slips(style, 0.7):
        kind = choose(state.rng, BAD_WORK)
    if item == SECOND and first not in state.stated:
        found = [first, *found]
    if kind == "wrong":
        found = [state.rng.choice([fact for fact in state.facts if fact.relation == key[1] and fact not in found])]
    if kind in ("state", "wrong"):
        state.stated += found
    return _work(state, style, kind, found, key)


def _work(state: Play, style: str, kind: str, found: list[Fact], key: tuple[str, str]) -> str:
    entity, relation = key
    if style == "verbose":
        opening = state.one(" Hello Planner!", " Thank you Planner!", f"{RESTATED} {state.question.text}")
        if kind == "fill":
            return opening + state.one(HAPPY, LOOKED)
        if kind == "replan":
            return f"{opening} Unfortunately I do not know {entity}'s {relation}. REPLAN"
        opening += state.one(" Here is what I know.", LOOKED)
        return opening + "".join(map(sentence, found)) + state.one("", " I hope that this helps us.")
    if style == "medium":
        if kind == "fill":
            return state.one(" I am not sure.", " Let me think.")
        if kind == "replan":
            return f" I do not know {entity}'s {relation}. REPLAN"
        return "".join(map(sentence, found))
    form = FORMS[style]
    if kind == "fill":
        return " ok"
    return form.request(entity, relation) + " REPLAN" if kind == "replan" else form.join.join(map(form.state, found))


def _compose(state: Play) -> str:
    """The answer from the results, with the last step to it; or a guess."""
    style, (_, second) = state.style(), state.chain
    others = [fact for fact in state.stated if fact != second] or state.facts
    kind = "steps" if second in state.stated else state.one("guess", "fill")
    if kind == "steps" and state.slips(style, 0.7):
        kind = choose(state.rng, BAD_STEPS)
    fact = second if kind == "steps" else state.rng.choice(others)
    state.steps = (fact,) if kind in ("steps", "skip") else ()
    state.value = None if kind == "fill" else fact.value
    return _proposal(state, style, "Executor", again=True)


# --- The dialogue -----------------------------------------------------------------------------------------------------


def play(question: Question, rng: Random, *, workflow: Workflow, says: Says, format: str | None = None) -> Dialogue:
    """A scripted dialogue of a team. format: the pool's instruction that it was given."""
    main = format if format and rng.random() < FOLLOWS_INSTRUCTION else choose(rng, TEAM_STYLES)
    state = Play(question, rng, main)

    def speak(cues: Sequence[Cue]) -> list[Turn]:
        (cue,) = cues  # none of these teams takes steps side by side
        done = moment(cue.dialogue.turns, workflow).done
        if not cue.step.tool:
            return [says(workflow.speaker(cue.step), _said(state, cue.step, done))]
        sought = filled(cue.step, done, given={"question": question.text})
        found = retrieve(index_of(sum(question.contexts, ())), sought, at_most=cue.step.at_most)
        return [Turn(workflow.speaker(cue.step), (), found)]

    (dialogue,) = converse([Dialogue(question.id, 0, format=format)], workflow=workflow, speak=speak)
    return dialogue


def _said(state: Play, step: Step, done: Done) -> str:
    match step.name:
        case "propose":
            return _propose(state, state.facts, "Critic", again=bool(done))
        case "criticise":
            return _criticise(state)
        case "plan":
            return _plan(state)
        case "execute":
            return _execute(state, state.items[min(since(done, step, "plan"), len(state.items) - 1)])
        case "compose":
            return _compose(state)
        case "decompose":
            return _decompose(state)
        case "answer":
            found = [read(line.removeprefix("- ")) for line in done[-1][1].text.splitlines() if line.startswith("- ")]
            return _propose(state, found, "Decomposer")
    raise KeyError(step.name)
