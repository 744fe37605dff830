"""What the tiny Llama can do: probes of looking facts up, and dialogues with itself, on held-out questions.

In: a model and the `Writer` of its training texts. Out: plain numbers for the log and the model card. Kept apart from
the package's own evaluation, so that the shipped weights do not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import scripted_dialogues as scripted
import torch
from pretraining_examples import ALONE, PAIR, Writer
from transformers import LlamaForCausalLM

from optima_lite.records import Question, Turn
from optima_lite.tasks import world
from optima_lite.team.prompts import FORMATS, view

MAX_TURN_TOKENS = 56
TEMPERATURE = 0.7
COUNT, EACH_FORMAT = 300, 100  # held-out questions, in all and for each format
_MARKED = re.compile(r"<A>(.*?)</A>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Result:
    """Means over dialogues. score: the last stated answer is right. tokens: sampled, turn ends included.

    agreement: the share that ended with one and the same answer from both; None for an agent alone.
    """

    score: float
    tokens: float
    turns: float
    agreement: float | None


@torch.no_grad()
def probes(model: LlamaForCausalLM, writer: Writer, count: int = 200) -> dict[str, float]:
    """Shares of right names with everything before them given.

    one: an own fact's value, asked by the partner. absent: knowing that one holds no such fact. two: both names of the
    second hop, the first hop heard from the partner.
    """
    rng, right = Random("probes"), {"one": 0, "absent": 0, "two": 0}
    for question in world.questions("held_out", count, seed=99):
        form = scripted.FORMS[style := rng.choice(list(scripted.FORMS))]
        first, second = (scripted.read(text) for text in question.supporting)
        me = 0 if str(second) in question.contexts[0] else 1
        fact, missing = (scripted.read(rng.choice(question.contexts[speaker])) for speaker in (me, 1 - me))
        for kind, heard, said, names in (
            ("one", form.request(*fact[:2]), form.state(fact), [fact.value]),
            ("absent", " ok", form.request(*missing[:2]), []),
            ("two", form.state(first), form.state(second, answer=True), [second.entity, second.value]),
        ):
            turns = [writer.turn(1 - me, heard), writer.turn(me, said)]
            ids = torch.tensor([writer.chat(view(question, turns, me, workflow=PAIR, format=style)).ids])
            said_ids = list(turns[1].ids)
            # For a missing fact: everything that follows the relation, which is where a known value would have stood.
            start = said_ids.index(writer.encode(f" {missing.relation}")[0]) + 1 if not names else 0
            places = [said_ids.index(writer.encode(f" {name}")[0]) for name in names] or range(start, len(said_ids))
            guesses = model(input_ids=ids).logits[0, :-1].argmax(-1)[-len(said_ids) :]
            right[kind] += all(int(guesses[place]) == said_ids[place] for place in places)
    return {kind: hits / count for kind, hits in right.items()}


def pair(
    model: LlamaForCausalLM,
    writer: Writer,
    questions: Sequence[Question],
    *,
    temperature: float,
    format: str | None = None,
) -> tuple[Result, list[list[Turn]]]:
    """The model talks with itself about each question, under one instruction of the pool or none."""
    talks: list[list[Turn]] = [[] for _ in questions]
    over = [False] * len(talks)
    for number in range(PAIR.max_steps):
        speaker = number % 2
        going = [i for i in range(len(talks)) if not over[i]]
        if not going:
            break
        views = [view(questions[i], talks[i], speaker, workflow=PAIR, format=format) for i in going]
        prompts = [writer.chat(messages, open_end=True).ids for messages in views]
        for i, ids in zip(going, _speak(model, writer, prompts, temperature), strict=True):
            text = writer.decode(ids)
            answer = stated(text) if ids[-1] == writer.turn_end else None
            heard = [turn.answer for turn in talks[i] if turn.speaker != speaker and turn.answer is not None]
            talks[i].append(Turn(speaker, tuple(ids), text, answer))
            over[i] = ids[-1] != writer.turn_end or (answer is not None and answer in heard[-1:])
    return _result(writer, questions, talks), talks


def single(model: LlamaForCausalLM, writer: Writer, questions: Sequence[Question], *, temperature: float) -> Result:
    """One agent that holds all facts."""
    views = [view(question, [], 0, workflow=ALONE) for question in questions]
    prompts = [writer.chat(messages, open_end=True).ids for messages in views]
    said = _speak(model, writer, prompts, temperature)
    talks = [[Turn(0, tuple(ids), text := writer.decode(ids), stated(text))] for ids in said]
    return replace(_result(writer, questions, talks), agreement=None)


def stated(message: str) -> str | None:
    """The answer a message marks last, if any."""
    found = _MARKED.findall(message)
    return found[-1].strip() if found else None


def _result(writer: Writer, questions: Sequence[Question], talks: list[list[Turn]]) -> Result:
    right = agreed = 0
    for question, talk in zip(questions, talks, strict=True):
        answers = [turn.answer for turn in talk if turn.answer]
        right += talk[-1].ids[-1] == writer.turn_end and bool(answers) and answers[-1] in question.answers
        agreed += len(talk) > 1 and talk[-1].answer is not None and answers[-2:] == [talk[-1].answer] * 2
    tokens, turns = sum(len(turn.ids) for talk in talks for turn in talk), sum(map(len, talks))
    count = len(questions)
    return Result(right / count, tokens / count, turns / count, agreed / count)


@torch.no_grad()
def _speak(model: LlamaForCausalLM, writer: Writer, prompts: list[list[int]], temperature: float) -> list[list[int]]:
    """One turn for each prompt, turn end included; cut at MAX_TURN_TOKENS. Temperature 0 is greedy."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[writer.pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    out = model.generate(
        input_ids=ids,
        attention_mask=(ids != writer.pad).long(),
        max_new_tokens=MAX_TURN_TOKENS,
        eos_token_id=writer.turn_end,
        pad_token_id=writer.pad,
        **sampling,
    )
    rows = out[:, longest:].tolist()
    return [row[: row.index(writer.turn_end) + 1] if writer.turn_end in row else row for row in rows]


def report(model: LlamaForCausalLM, writer: Writer) -> dict[str, Result]:
    """All the card's dialogues: rows by name. Seeds torch."""
    torch.manual_seed(0)
    questions = world.questions("held_out", COUNT, seed=7)
    rows = {}
    for name, temperature in ((f"sampled at T = {TEMPERATURE}", TEMPERATURE), ("greedy", 0.0)):
        rows[f"pair, {name}"] = pair(model, writer, questions, temperature=temperature)[0]
        rows[f"single agent, {name}"] = single(model, writer, questions, temperature=temperature)
    for format in FORMATS:
        asked = questions[:EACH_FORMAT]
        rows[f"pair, told `{format}`"] = pair(model, writer, asked, temperature=TEMPERATURE, format=format)[0]
    return rows
