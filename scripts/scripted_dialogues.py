"""Scripted talk about questions of the bundled world: what the tiny Llama is pretrained to imitate.

In: a question and a random generator. Out: the messages of two agents who solve it more or less well, in a style:
chatty (`verbose`), plain sentences (`medium`) or one of the format pool's shapes. A policy first chooses an `Act`
(share, ask, answer, agree, fill), then a style puts it into words; so every style carries the same content.

The policy only uses what the speaker can know. Chatty speakers waste turns, share facts that nobody needs and guess
too early; terse ones rarely do. That is the point of the base model: it is able, and it behaves badly in ways that
training on its better dialogues can mend.

Entity names always follow a space, so that each stays one token; messages therefore start with one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from optima_lite.records import Question
from optima_lite.tasks.world import RELATIONS, Fact
from optima_lite.team.prompts import FORMATS

MAX_TURNS = 6
NAMES = ("Alice", "Bob")


@dataclass(frozen=True, slots=True)
class Form:
    """A terse shape. Fields are filled with names that bring their leading space; {v} may be a marked answer.

    A question for a value looks like the statement up to the place of the value: a speaker only finds out there whether
    it knows the value.
    """

    fact: str
    ask: str
    agree: str
    join: str = ";"

    def state(self, fact: Fact, *, answer: bool = False) -> str:
        value = mark(fact.value) if answer else f" {fact.value}"
        return self.fact.format(e=f" {fact.entity}", r=f" {fact.relation}", v=value)

    def request(self, entity: str, relation: str) -> str:
        return self.ask.format(e=f" {entity}", r=f" {relation}")


# One per name of the format pool, all with the order entity, relation, value.
FORMS = {
    "json": Form('{{"{e}{r}":"{v}"}}', '{{"{e}{r}":"?"}}', '{{" answer":"{v}"}}', "\n"),
    "key_value": Form("{e}{r} ={v}", "{e}{r} = ?", " answer ={v}"),
    "table": Form("{e} |{r} |{v}", "{e} |{r} | ?", " answer |{v}", "\n"),
    "bullets": Form("-{e}'s{r}:{v}", "-{e}'s{r}: ?", "- answer:{v}", "\n"),
    "triples": Form(" ({e},{r},{v})", " ({e},{r}, ?)", " ( answer,{v})"),
    "telegraphic": Form("{e}{r}{v}", "{e}{r}?", "{v}"),
    "arrows": Form("{e} ->{r} ->{v}", "{e} ->{r} -> ?", " ->{v}"),
    "pseudo_code": Form(" let{e}{r} :={v}", " let{e}{r} := ?", " return{v}", "\n"),
    "yaml": Form("{e}{r}:{v}", "{e}{r}: ?", " answer:{v}", "\n"),
    "xml": Form(" <{e}{r}>{v} </>", " <{e}{r}> ? </>", " < answer>{v} </>", "\n"),
    "csv": Form("{e},{r},{v}", "{e},{r}, ?", " answer,{v}", "\n"),
    "symbols": Form("{e} ∘{r} ≡{v}", "{e} ∘{r} ≡ ?", " ⇒{v}"),
    "abbreviated": Form(" abt{e}{r} eq{v}", " abt{e}{r} eq?", " ok ans{v}"),
    "form": Form(" field:{e}{r}:{v}", " field:{e}{r}: needed", " answer:{v}", "\n"),
}
assert FORMS.keys() == FORMATS.keys()

# Without an instruction: how often which style is spoken. The shortest shapes stand for most of the terse tenth.
STYLES = {"verbose": 0.75, "medium": 0.15, **{name: 0.06 / 14 for name in FORMS}}
for _name in ("telegraphic", "key_value", "json", "yaml"):
    STYLES[_name] += 0.01
FOLLOWS_INSTRUCTION = 0.9
KEEPS_STYLE = 0.96  # of the messages, within a dialogue

# How often an act is a bad one, and which bad acts there are.
CARELESS = {"verbose": 0.50, "medium": 0.40}
CARELESS_TERSE = 0.12
BAD_ACTS = {"fill": 0.45, "irrelevant": 0.35, "guess": 0.20}


@dataclass(frozen=True, slots=True)
class Act:
    """What a message does. share: tell `facts`. ask: for the value of `key`. answer: with the last fact's value.

    agree: repeat `value`. fill: say nothing.
    """

    kind: str
    facts: tuple[Fact, ...] = ()
    key: tuple[str, str] = ("", "")
    value: str = ""


@dataclass
class Talk:
    """A dialogue under way, with what each of the two agents holds, has heard, has said and has stated as answer."""

    first: Fact
    second: Fact
    hands: tuple[list[Fact], list[Fact]]
    heard: tuple[set[Fact], set[Fact]] = field(default_factory=lambda: (set(), set()))
    stated: list[str | None] = field(default_factory=lambda: [None, None])
    asked: tuple[str, str] = ("", "")  # by the last message

    @classmethod
    def about(cls, question: Question) -> Talk:
        first, second = (read(text) for text in question.supporting)
        return cls(first, second, ([read(t) for t in question.contexts[0]], [read(t) for t in question.contexts[1]]))

    def act(self, speaker: int, rng: Random, careless: float) -> Act:
        """What `speaker` does next; a bad act with probability `careless`."""
        partner = 1 - speaker
        known = {*self.hands[speaker], *self.heard[speaker]}
        answerable = {self.first, self.second} <= known
        proposal = self.stated[partner]
        if proposal is not None:
            doubts = answerable and proposal != self.second.value
            if rng.random() < (0.5 if doubts else 0.95):
                return Act("agree", value=proposal)
        if rng.random() < careless:
            return self._bad(speaker, rng)
        if answerable:
            return Act("answer", (self.first, self.second))
        return self._good(speaker, rng)

    def _good(self, speaker: int, rng: Random) -> Act:
        asked = [fact for fact in self.hands[speaker] if fact[:2] == self.asked]
        if asked:
            return Act("share", tuple(asked))
        if self.first in self.hands[speaker]:
            if self.first in self.heard[1 - speaker] and rng.random() < 0.5:
                return Act("ask", key=(self.second.entity, self.second.relation))
            return Act("share", (self.first,))
        return Act("ask", key=(self.first.entity, self.first.relation))

    def _bad(self, speaker: int, rng: Random) -> Act:
        kind = choose(rng, BAD_ACTS)
        if kind == "fill":
            return Act("fill")
        needed = {self.first, self.second}
        if kind == "irrelevant":
            return Act("share", (rng.choice([fact for fact in self.hands[speaker] if fact not in needed]),))
        known = [*self.hands[speaker], *sorted(self.heard[speaker])]
        fitting = [f for f in known if RELATIONS[f.relation][1] == RELATIONS[self.second.relation][1]]
        return Act("answer", (rng.choice(fitting),)) if fitting else Act("fill")

    def note(self, speaker: int, act: Act) -> None:
        """The act has been said: everyone knows what it shared, asked and stated."""
        self.heard[1 - speaker].update(act.facts if act.kind == "share" else ())
        self.asked = act.key
        if act.kind in ("answer", "agree"):
            self.stated[speaker] = act.value or act.facts[-1].value


def dialogue(question: Question, rng: Random, *, format: str | None = None, style: str | None = None) -> list[str]:
    """The messages of a scripted dialogue, the first agent's first. format: the pool's instruction both were given."""
    talk, messages = Talk.about(question), list[str]()
    main = style or (format if format and rng.random() < FOLLOWS_INSTRUCTION else choose(rng, STYLES))
    for turn in range(MAX_TURNS):
        speaker = turn % 2
        style = main if rng.random() < KEEPS_STYLE else choose(rng, STYLES)
        act = talk.act(speaker, rng, CARELESS.get(style, CARELESS_TERSE))
        if act.kind == "share" and style in CARELESS and rng.random() < (0.5 if style == "verbose" else 0.25):
            act = Act("share", tuple(talk.hands[speaker]))
        messages.append(say(act, style, rng, partner=NAMES[1 - speaker], question=question.text))
        talk.note(speaker, act)
        if talk.stated[0] is not None and talk.stated[0] == talk.stated[1] and act.kind in ("answer", "agree"):
            break
    return messages


def monologue(question: Question, rng: Random, *, careless: float) -> str:
    """One agent that holds all facts and thinks aloud; `careless` is how often it marks a value of the wrong fact."""
    first, second = (read(text) for text in question.supporting)
    answer = second
    if rng.random() < careless:
        facts = [read(text) for context in question.contexts for text in context]
        answer = rng.choice([fact for fact in facts if fact.relation == second.relation and fact != second])
    opening = rng.choice((" Let me think about this step by step.", " I will look at all of the facts first."))
    return (
        f"{opening} The question is: {question.text} First,{sentence(first)} Next,{sentence(second)}"
        f" So the final answer is{mark(answer.value)}."
    )


def say(act: Act, style: str, rng: Random, *, partner: str, question: str) -> str:
    """The message that performs `act` in `style`."""
    if style == "verbose":
        return _say_verbosely(act, rng, partner, question)
    if style == "medium":
        return _say_plainly(act, rng)
    form = FORMS[style]
    if act.kind == "share":
        return form.join.join(form.state(fact) for fact in act.facts)
    if act.kind == "ask":
        return form.request(*act.key)
    if act.kind == "answer":
        return form.state(act.facts[-1], answer=True)
    return form.agree.format(v=mark(act.value)) if act.kind == "agree" else " ok"


def _say_plainly(act: Act, rng: Random) -> str:
    if act.kind == "share":
        return rng.choice(("", " I know that")) + "".join(sentence(fact) for fact in act.facts)
    if act.kind == "ask":
        entity, relation = act.key
        return rng.choice((" What is", " Do you know")) + f" {entity}'s {relation}?"
    if act.kind == "answer":
        last = act.facts[-1]
        return rng.choice((" So", " Then")) + f" {last.entity}'s {last.relation} is{mark(last.value)}."
    if act.kind == "agree":
        return rng.choice((" I agree, the answer is", " Yes, the answer is")) + f"{mark(act.value)}."
    return rng.choice((" I am not sure.", " Let me think."))


def _say_verbosely(act: Act, rng: Random, partner: str, question: str) -> str:
    greeting = rng.choice((f" Hello {partner}!", f" Hi {partner}, nice to work with you!"))
    thanks = rng.choice((f" Thank you {partner}!", f" That is helpful, {partner}."))
    restated = f" We need to answer this question: {question}"
    if act.kind == "share":
        opening = rng.choice((greeting, thanks)) + rng.choice(
            (" Here is what I know.", " Let me tell you what I know.")
        )
        closing = rng.choice((" Please tell me what you know.", " I hope that this helps us."))
        return opening + "".join(sentence(fact) for fact in act.facts) + closing
    if act.kind == "ask":
        entity, relation = act.key
        opening = greeting + rng.choice((restated, " I have looked at all of my facts.", ""))
        return opening + f" Unfortunately I do not know {entity}'s {relation}. Could you please tell me?"
    if act.kind == "answer":
        facts = "".join(sentence(fact) for fact in act.facts)
        opening = rng.choice((" So I believe that the final answer is", " From this we can see that the answer is"))
        return thanks + facts + opening + f"{mark(act.facts[-1].value)}." + rng.choice(("", " Do you agree with me?"))
    if act.kind == "agree":
        verdicts = (" I have checked it and I fully agree with you.", " I think that you are right about this.")
        return thanks + rng.choice(verdicts) + f" The final answer is{mark(act.value)}."
    offer = " I am happy to help you with this question."
    return greeting + rng.choice((f"{restated} Let us work on it together.", offer))


def sentence(fact: Fact) -> str:
    return f" {fact.entity}'s {fact.relation} is {fact.value}."


def mark(answer: str) -> str:
    return f" <A> {answer} </A>"


def read(text: str) -> Fact:
    """The fact of a context line."""
    return Fact(*text.split())


def choose(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
