"""How many tokens a step sends through the model when the prefix cache has the room that 2 GiB are for an 8B.

A model of one layer stands in for the 8B, because only tokens are counted: two agents with 800 tokens of facts each,
up to four turns of some 16 tokens, which end by themselves, and 10 rollouts of a question.
"""

from __future__ import annotations

import asyncio
import random
import string
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from optima_lite.learn.ranking import ranked
from optima_lite.learn.rollout import Agents, sample
from optima_lite.methods.optima.explore import grow, scale_of
from optima_lite.model.checkpoint import bundled
from optima_lite.model.generate import Generator
from optima_lite.model.memory import MOST_TOKENS
from optima_lite.model.policy import Policy
from optima_lite.model.render import Renderer
from optima_lite.model.sampling import Sampling
from optima_lite.records import Question
from optima_lite.serve.admission import Admission
from optima_lite.serve.company import Company, Task
from optima_lite.serve.engine import Engine, Voice
from optima_lite.serve.requests import ChatRequest
from optima_lite.settings.config import load_recipe
from optima_lite.settings.workflow import told
from optima_lite.stage.cast import Cast
from optima_lite.stage.evaluate import examine
from optima_lite.tasks.answers import Scoring
from optima_lite.team.talks import exchange, solo

ROOM = 16_384  # tokens of Llama 3 8B, of 131,072 bytes each, that 2 GiB hold
PROMPT, TURNS, LONGEST, ROLLOUTS = 800, 4, 48, 10
SAMPLING = Sampling(1.0, 1.0, LONGEST)


def make_policy() -> Policy:
    """One layer, random weights, and the bundled tokenizer, of whose tokens a sixteenth end a turn."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(bundled(), local_files_only=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8192,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=1, target_modules="all-linear")).eval()
    ends = tuple(range(9, len(tokenizer), 16))
    return Policy(model=model, tokenizer=tokenizer, max_length=8192, end_ids=ends, base="random")


def make_cast(policy: Policy, *, room: int, searches: int) -> Cast:
    """Two agents on a generator whose cache holds `room` tokens."""
    layers, heads, width = policy.cache_shape
    token = 2 * layers * heads * width * policy.model.dtype.itemsize
    generator = Generator(policy, max_batch_tokens=MOST_TOKENS, max_cache_bytes=room * token)
    renderer = Renderer(policy.tokenizer, end_ids=policy.end_ids)
    system = "You are {name}, working with {partner}."
    team = Agents(generator, renderer, told(exchange(("Alice", "Bob"), TURNS), system), Scoring("f1"))
    single = Agents(generator, renderer, told(solo(), "You work alone."), Scoring("f1"))
    changes = (f"search.searches={searches}", f"sampling.max_turn_tokens={LONGEST}", "sampling.temperature=1.0")
    return Cast(load_recipe("quickstart", overrides=changes).recipe, policy, team, single, micro_batch=1)


def make_questions(count: int) -> list[Question]:
    """Questions with PROMPT tokens of facts for each agent; a letter is a token of the bundled model."""
    chance = random.Random(0)
    facts = [["".join(chance.choices(string.ascii_lowercase, k=PROMPT)) for _ in range(2)] for _ in range(count)]
    return [
        Question(id=str(k), text="Who?", contexts=((one,), (two,)), answers=("nobody",))
        for k, (one, two) in enumerate(facts)
    ]


def generate(cast: Cast, questions: Sequence[Question]) -> int:
    """Ten rollouts of each question; how many dialogues these are is returned, as by all of these."""
    groups = sample(cast.team, questions, rollouts=ROLLOUTS, sampling=SAMPLING, seed=(0,))
    return sum(len(group.dialogues) for group in groups)


def rank(cast: Cast, questions: Sequence[Question]) -> int:
    """The same, and the base model's reading, which alone is counted."""
    groups = sample(cast.team, questions, rollouts=ROLLOUTS, sampling=SAMPLING, seed=(0,))
    _reset(cast.team.generator)
    ranked(cast.team, groups, settings=cast.recipe.reward)
    return sum(len(group.dialogues) for group in groups)


def search(cast: Cast, questions: Sequence[Question]) -> int:
    """A tree for each question."""
    probe = examine(cast.team, questions[:1], sampling=SAMPLING, seed=0, settings=cast.recipe.reward, advance=_quiet)
    _reset(cast.team.generator)
    trees = grow(cast, questions, scale=scale_of(cast, probe), seed=(0,), advance=_quiet)
    return len(trees) * cast.recipe.search.searches * cast.recipe.search.rollouts


def evaluate(cast: Cast, questions: Sequence[Question]) -> int:
    """One dialogue about each question, and its reward."""
    found = examine(cast.team, questions, sampling=SAMPLING, seed=0, settings=cast.recipe.reward, advance=_quiet)
    return len(found)


def serve(cast: Cast, questions: Sequence[Question], *, admitted: bool = True) -> int:
    """A client for each question, all of them at once, through the engine of `optima-lite serve`. admitted: whether
    they have to wait for room, as they do there."""
    company, engine, admission = Company(cast), Engine(cast.team.generator), Admission(len(questions))

    def task(question: Question) -> Task:
        facts = [list(share) for share in question.contexts]
        messages = [{"role": "user", "content": question.text}]
        body = {"model": "optima", "messages": messages, "seed": int(question.id), "optima": {"facts": facts}}
        return company.task(ChatRequest.model_validate(body))

    async def client(question: Question, pool: ThreadPoolExecutor) -> None:
        asked = task(question)
        async with admission.place(asked.share if admitted else 0.0):
            speak, voice = asked.work.speak, Voice(engine)
            outcome = await asyncio.get_running_loop().run_in_executor(pool, speak, voice, asked.manners[0], print_not)
            company.learn(outcome.said)

    async def all_of_them() -> None:
        with ThreadPoolExecutor(len(questions)) as pool:
            await asyncio.gather(*(client(question, pool) for question in questions))

    engine.start()
    asyncio.run(all_of_them())
    engine.stop()
    engine.join()
    return len(questions)


def print_not(delta: object) -> None:
    """Nobody listens."""


STEPS: dict[str, Callable[[Cast, Sequence[Question]], int]] = {
    step.__name__: step for step in (generate, rank, search, evaluate, serve)
}


def measure(step: str, *, questions: int, quick: bool = False) -> dict[str, Any]:
    """Tokens computed for each dialogue with an 8B's room and with all the room it can use, and their ratio.

    Trees are grown for 16 questions at most, as many as the loop grows at once, by eight searches (quick: two).
    """
    questions, searches = min(questions, 16) if step == "search" else questions, 2 if quick else 8
    policy, asked = make_policy(), make_questions(questions)
    computed = {}
    for room in (ROOM, 1 << 26):
        cast = make_cast(policy, room=room, searches=searches)
        dialogues = STEPS[step](cast, asked)
        computed[room] = cast.team.generator.counts.computed / dialogues
    here, unlimited = computed.values()
    return {
        "step": step,
        "questions": questions,
        "computed_per_dialogue": round(here, 1),
        "unlimited_per_dialogue": round(unlimited, 1),
        "computed_over_unlimited": round(here / unlimited, 3),
    }


def _reset(generator: Generator) -> None:
    """Counts from here on; only tokens of the step itself are meant."""
    generator.counts.computed = generator.counts.reused = generator.counts.sampled = 0


def _quiet(done: int, tokens: int = 0, part: str | None = None) -> None:
    """Nobody is told."""
