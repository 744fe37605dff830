"""Pretraining examples of the tiny Llama: token ids, and which of them are to be learned.

In: questions of the bundled world and a random generator. Out: `Example` records, from literal repeats by way of drills
in looking facts up to scripted dialogues of the pair and of teams, exactly in the layout that agents see
(`optima_lite.team.prompts`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import scripted_dialogues as scripted
import scripted_teams
from transformers import PreTrainedTokenizerFast

from optima_lite.records import Question, Turn
from optima_lite.settings.workflow import renamed, told
from optima_lite.tasks.world import ENTITIES, RELATIONS, Fact
from optima_lite.team.dialogue import taken
from optima_lite.team.prompts import FORMATS, Message, brief, view
from optima_lite.team.talks import exchange, solo

SYSTEM = "You are {name}, working with {partner}."
SYSTEM_ALONE = "You work alone. Think step by step."
PAIR = told(exchange(scripted.NAMES, scripted.MAX_TURNS), SYSTEM)
ALONE = told(renamed(solo(), scripted.NAMES[:1]), SYSTEM_ALONE)

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
BOS, END_OF_TEXT, HEADER, HEADER_END, TURN_END, PAD = SPECIAL
MARKS = ("<A>", "</A>", " <A>", " </A>")  # the answer marks, also with the space before them that every word has


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and for each whether the model is to learn to say it."""

    ids: list[int]
    learn: list[bool]


class Writer:
    """Writes training examples as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.bos, self.turn_end, self.pad = (tokenizer.get_vocab()[token] for token in (BOS, TURN_END, PAD))
        self._symbols = [*itertools.chain.from_iterable(ENTITIES.values()), *RELATIONS]
        self.names = [self.encode(f" {symbol}")[0] for symbol in self._symbols]

    def encode(self, text: str) -> list[int]:
        """Ids of a text that starts and ends where tokens do, without <|begin_of_text|>."""
        if text not in self._cache:
            if len(self._cache) > 100_000:
                self._cache.clear()
            self._cache[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._cache[text]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def turn(self, speaker: int, text: str) -> Turn:
        return Turn(speaker, (*self.encode(text), self.turn_end), text)

    def chat(self, messages: list[Message], *, open_end: bool = False) -> Example:
        """A view as ids; assistant turns are to be learned. open_end: stop where the assistant is to speak next."""
        ids, learn = [self.bos], [False]

        def add(part: list[int], learned: bool = False) -> None:
            ids.extend(part)
            learn.extend([learned] * len(part))

        for message in messages:
            said = [*self.encode(message.text)] if message.text else []
            for turn in message.turns:
                said += turn.ids[:-1]
            add(self.encode(f"{HEADER}{message.role}{HEADER_END}\n\n"))
            add([*said, self.turn_end], learned=message.role == "assistant")
        if open_end:
            add(self.encode(f"{HEADER}assistant{HEADER_END}\n\n"))
        return Example(ids, learn)

    def repeats(self, rng: Random) -> list[Example]:
        """A row of random names three times over: the plainest reason to look back."""
        row = [rng.choice(self.names) for _ in range(rng.randint(6, 20))]
        return [Example([self.bos, *row * 3], [False] * (len(row) + 2) + [True] * (2 * len(row) - 1))]

    def triples(self, rng: Random) -> list[Example]:
        """Random triples of names, asked again: nothing but the first name tells which value is meant."""
        firsts = rng.sample(self._symbols, rng.randint(2, 6))
        facts = [Fact(first, rng.choice(self._symbols), rng.choice(self._symbols)) for first in firsts]
        return [self._asked_again(facts, [], rng)]

    def facts(self, rng: Random, question: Question) -> list[Example]:
        """A question's facts, stated again and asked for where they are missing; then the chain of the answer."""
        known = [scripted.read(text) for context in question.contexts for text in context]
        rng.shuffle(known)
        example = self._asked_again(known[: rng.choice((4, 5, 6))], known[-2:], rng)
        if rng.random() < 0.5:
            return [example]
        hops = [scripted.read(text) for text in question.supporting]
        form = rng.choice(list(scripted.FORMS.values()))
        told = self.encode("\n".join(["Facts:", *(f"- {fact}" for fact in known), f"Question: {question.text}\n"]))
        chain = self.encode(form.state(hops[0]) + form.join + form.state(hops[1], answer=True) + "\n")
        return [Example([self.bos, *told, *chain], [False] * (1 + len(told)) + [True] * len(chain))]

    def telegrams(self, rng: Random, question: Question) -> list[Example]:
        """A question's facts asked again in the shortest shape, where no sign between relation and value gives time."""
        known = [scripted.read(text) for context in question.contexts for text in context]
        rng.shuffle(known)
        return [self._asked_again(known[:6], known[6:], rng, forms=("telegraphic",))]

    def _asked_again(
        self, known: list[Fact], unknown: list[Fact], rng: Random, *, forms: Sequence[str] = tuple(scripted.FORMS)
    ) -> Example:
        ids = [self.bos, *self.encode("Facts:\n" + "".join(f"- {fact}\n" for fact in known))]
        learn = [False] * len(ids)
        for fact in rng.sample(known + unknown, len(known + unknown)):
            form = scripted.FORMS[rng.choice(forms)]
            stated = form.state(fact, answer=rng.random() < 0.3) if rng.random() < 0.7 else scripted.sentence(fact)
            said = self.encode((stated if fact in known else form.request(*fact[:2])) + "\n")
            relation = self.encode(f" {fact.relation}")[0]
            key_end = said.index(relation, said.index(self.encode(f" {fact.entity}")[0]) + 1)
            ids += said
            learn += [place > key_end for place in range(len(said))]
        return Example(ids, learn)

    def interview(self, rng: Random, question: Question) -> list[Example]:
        """A partner asks for one fact after the other, in all kinds of styles."""
        turns: list[Turn] = []
        me = rng.randrange(2)
        format = rng.choice(list(FORMATS)) if rng.random() < 0.7 else None
        for text in rng.sample(question.contexts[me], 3):
            fact = scripted.read(text)
            style = format or rng.choice(list(scripted.STYLES))
            ask, share = scripted.Act("ask", key=fact[:2]), scripted.Act("share", (fact,))
            for speaker, act in ((1 - me, ask), (me, share)):
                partner = scripted.NAMES[1 - speaker]
                text = scripted.say(act, style, rng, partner=partner, question=question.text)
                turns.append(self.turn(speaker, text))
        return [self.chat(view(question, turns, me, workflow=PAIR, format=format))]

    def dialogue(self, rng: Random, question: Question) -> list[Example]:
        """A scripted dialogue from both sides, half of the time under an instruction of the format pool."""
        format = rng.choice(list(FORMATS)) if rng.random() < 0.5 else None
        turns = [self.turn(i % 2, text) for i, text in enumerate(scripted.dialogue(question, rng, format=format))]
        views = []
        for speaker in range(min(2, len(turns))):
            last = max(i for i, turn in enumerate(turns) if turn.speaker == speaker)
            views.append(view(question, turns[: last + 1], speaker, workflow=PAIR, format=format))
        return [self.chat(messages) for messages in views]

    def monologue(self, rng: Random, question: Question, *, careless: float = 0.2) -> list[Example]:
        """One agent with all facts."""
        turn = self.turn(0, scripted.monologue(question, rng, careless=careless))
        return [self.chat(view(question, [turn], 0, workflow=ALONE))]

    def careless_monologue(self, rng: Random, question: Question) -> list[Example]:
        """What the agent alone is to end up as: no more careful than the two."""
        return self.monologue(rng, question, careless=0.33)

    def critic(self, rng: Random, question: Question) -> list[Example]:
        """Proposer and critic, half of the time under an instruction of the format pool."""
        return self._team("critic", rng, question, format=rng.choice(list(FORMATS)) if rng.random() < 0.5 else None)

    def planner(self, rng: Random, question: Question) -> list[Example]:
        """Planner, executor and composer."""
        return self._team("planner", rng, question)

    def retrieval(self, rng: Random, question: Question) -> list[Example]:
        """Decomposer, the facts that its questions find, and answerer."""
        return self._team("retrieval", rng, question)

    def _team(self, kind: str, rng: Random, question: Question, *, format: str | None = None) -> list[Example]:
        """A scripted dialogue of a team: the conversation from each side, and every message after its template."""
        workflow = scripted_teams.WORKFLOWS[kind]
        turns = scripted_teams.play(question, rng, workflow=workflow, says=self._said, format=format).turns
        steps = taken(turns, workflow)
        last = {turn.speaker: number for number, (step, turn, _) in enumerate(steps) if step.reads is None}
        talks = [
            view(question, turns[: number + 1], speaker, workflow=workflow, format=format)
            for speaker, number in last.items()
        ]
        briefs = [
            [*brief(question, done, step, workflow=workflow), Message("assistant", turns=(turn,))]
            for step, turn, done in steps
            if step.reads is not None and not step.tool
        ]
        return [self.chat(messages) for messages in talks + briefs]

    def _said(self, speaker: int, text: str) -> Turn:
        """A turn whose text is as templates have it: without the space that it begins with."""
        return replace(self.turn(speaker, text), text=text.strip())


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: its steps, its learning rate against the peak at its two ends, and its mix of examples."""

    steps: int
    rate: tuple[float, float]
    mix: dict[str, float]


PHASES = (
    Phase(100, (1.0, 1.0), {"repeats": 1.0}),
    Phase(500, (1.0, 1.0), {"triples": 0.85, "repeats": 0.15}),
    Phase(300, (1.0, 1.0), {"triples": 0.4, "facts": 0.6}),
    Phase(700, (0.5, 0.45), {"triples": 0.1, "facts": 0.35, "interview": 0.1, "dialogue": 0.38, "monologue": 0.07}),
    Phase(1500, (0.45, 0.25), {"triples": 0.05, "facts": 0.2, "interview": 0.1, "dialogue": 0.55, "monologue": 0.1}),
    Phase(1500, (0.25, 0.005), {"triples": 0.02, "facts": 0.13, "interview": 0.1, "dialogue": 0.65, "monologue": 0.1}),
    Phase(
        1500,
        (0.15, 0.002),
        {"telegrams": 0.15, "facts": 0.15, "interview": 0.1, "dialogue": 0.48, "careless_monologue": 0.12},
    ),
)

# What the model for teams learns on top of that, from its weights. The roles that write lists take longest.
TEAM_PHASES = (
    Phase(
        600,
        (0.2, 0.002),
        {
            "telegrams": 0.1,
            "facts": 0.12,
            "interview": 0.06,
            "dialogue": 0.2,
            "careless_monologue": 0.06,
            "critic": 0.18,
            "planner": 0.13,
            "retrieval": 0.15,
        },
    ),
    Phase(
        450,
        (0.4, 0.002),
        {
            "telegrams": 0.06,
            "facts": 0.06,
            "dialogue": 0.14,
            "careless_monologue": 0.04,
            "critic": 0.16,
            "planner": 0.24,
            "retrieval": 0.3,
        },
    ),
)
