"""How much of the work of sampling dialogues the prefix cache saves: one command, a table and bench.json.

    python scripts/bench.py [--quick] [--threads 1] [--repetitions 3] [--shapes hotpotqa,gsm8k,tree,ragged,room]

Four ways to sample the same dialogues with a random Llama of about 30 million parameters, interleaved so that a passing
load hits all of them, medians over the repetitions:

naive      the whole conversation through `model.generate` at every turn
uncached   the generator without room for a cache
cached     the generator as it is used
reference  nothing but decoding: as many tokens, at the same batch sizes and context lengths, over transformers' own
           caches, which somebody else has filled already

Every turn has a fixed length, because no end token exists, but in the shape `ragged`, where a turn may end anywhere.
The shape `room` measures no time: it counts the tokens that go through the model with the cache that an 8B has room for
(see room.py). In single precision a token may differ where two lie within rounding of each other; how many dialogues
are the same with the cache as in the naive way is printed, too. Times are CPU seconds of this process (on a GPU:
seconds by the clock), so what else a busy machine does counts little; compare them at one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import room
import torch
import transformers
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
)

from optima_lite.model.generate import Generator
from optima_lite.model.memory import MOST_TOKENS
from optima_lite.model.policy import Policy
from optima_lite.model.prefix_cache import left_pad
from optima_lite.model.sampling import KeyedSampler, Sampling, row_key

VOCABULARY, PAD = 4096, 0
HEADER = (1, 2, 3, 4)  # what a chat template puts before a message
WAYS = ("naive", "uncached", "cached", "reference")


@dataclass(frozen=True)
class Shape:
    """prompt: tokens of each agent's own part. turns, turn: how often they speak, and tokens each time. rollouts: of a
    question, all at once; or, with searches, so many at a time from somewhere in the tree. ends: how many tokens of the
    vocabulary end a turn before that."""

    name: str
    prompt: int
    turns: int
    turn: int
    rollouts: int
    searches: int = 1
    questions: int = 3
    ends: int = 0


SHAPES = (
    Shape("hotpotqa", prompt=600, turns=6, turn=16, rollouts=10),
    Shape("gsm8k", prompt=150, turns=4, turn=64, rollouts=10),
    Shape("tree", prompt=600, turns=6, turn=16, rollouts=3, searches=8),
    Shape("ragged", prompt=150, turns=4, turn=96, rollouts=10, ends=VOCABULARY // 32),
)


@dataclass
class Stopwatch:
    """Adds up the seconds of what runs inside it."""

    cuda: bool
    seconds: float = 0.0
    _started: float = field(default=0.0, repr=False)

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def __enter__(self) -> None:
        self._started = self._now()

    def __exit__(self, *error: object) -> None:
        self.seconds += self._now() - self._started


Speak = Callable[[Sequence[tuple[int, ...]], Sequence[int]], list[tuple[int, ...]]]
"""Prompts and row keys in, as many sampled tokens as a turn has out."""


def make_policy(device: torch.device, *, quick: bool) -> Policy:
    """A random Llama with an adapter, of about 30 million parameters (quick: 2 million), and no token that ends a
    turn."""
    torch.manual_seed(0)
    size = (192, 512, 4, 4) if quick else (512, 1408, 8, 8)
    hidden, intermediate, layers, heads = size
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(LlamaForCausalLM(config).to(device), lora).eval()
    model.get_base_model().generation_config.eos_token_id = None
    tokenizer = SimpleNamespace(pad_token_id=PAD, added_tokens_decoder={PAD: SimpleNamespace(special=True)})
    policy = Policy(model=model, tokenizer=tokenizer, max_length=4096, end_ids=(VOCABULARY,), base="random")
    if device.type == "cpu":  # as `load` does
        policy.mergeable = [module for module in model.modules() if hasattr(module, "lora_A")]
    return policy


def talk(shape: Shape, speak: Speak) -> list[list[tuple[int, ...]]]:
    """The traffic of a shape: two agents with a prompt of their own for each question speak in turn, all rollouts side
    by side; in a tree every search goes on from a turn somewhere in what the searches before it said. Returns the
    dialogues."""
    chance = random.Random(shape.name)
    prompts = [
        [tuple(chance.randrange(5, VOCABULARY) for _ in range(shape.prompt)) for _ in range(2)]
        for _ in range(shape.questions)
    ]
    trees: list[list[list[tuple[int, ...]]]] = [[[]] for _ in range(shape.questions)]  # of each, the dialogues so far
    for search in range(shape.searches):
        dialogues = []
        for question, tree in enumerate(trees):
            origin = chance.choice(tree)
            kept = chance.randrange(max(1, len(origin)))  # at least one turn is new
            dialogues += [(question, k, list(origin[:kept])) for k in range(shape.rollouts)]
        while active := [row for row in dialogues if len(row[2]) < shape.turns]:
            views = [view(prompts[question], turns) for question, _, turns in active]
            keys = [row_key(shape.name, search, question, k, len(turns)) for question, k, turns in active]
            for (_, _, turns), said in zip(active, speak(views, keys), strict=True):
                turns.append(said)
        for question, _, turns in dialogues:
            trees[question].append(turns)
    return [turns for tree in trees for turns in tree[1:]]


def view(prompts: Sequence[tuple[int, ...]], turns: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What the agent whose turn it is has before it: its prompt, and every turn under a header."""
    ids = prompts[len(turns) % 2]
    for turn in turns:
        ids += HEADER + turn
    return ids + HEADER


def generating(generator: Generator, shape: Shape, watch: Stopwatch) -> Speak:
    """Ours: whatever room for a cache the generator has."""
    sampling = Sampling(1.0, 1.0, shape.turn)

    def speak(prompts: Sequence[tuple[int, ...]], keys: Sequence[int]) -> list[tuple[int, ...]]:
        with watch:
            return generator.generate(prompts, sampling=sampling, keys=keys)

    return speak


def naive(policy: Policy, shape: Shape, watch: Stopwatch) -> Speak:
    """What everybody writes first."""

    def speak(prompts: Sequence[tuple[int, ...]], keys: Sequence[int]) -> list[tuple[int, ...]]:
        with watch, policy.speaking() as model, torch.no_grad():
            ids, mask = left_pad(prompts, pad=PAD, device=policy.device)
            return decode(model, shape, keys, policy.end_ids, input_ids=ids, attention_mask=mask)

    return speak


def reference(policy: Policy, shape: Shape, watch: Stopwatch) -> Speak:
    """Decoding alone; the caches are filled, with anything, before the watch runs."""
    layers, heads, width = policy.cache_shape

    def speak(prompts: Sequence[tuple[int, ...]], keys: Sequence[int]) -> list[tuple[int, ...]]:
        ids, mask = left_pad(prompts, pad=PAD, device=policy.device)
        cache, past = DynamicCache(config=policy.model.get_base_model().config), ids.shape[1] - 1
        for layer in range(layers):
            states = torch.randn(len(ids), heads, past, width, device=policy.device, dtype=policy.model.dtype)
            cache.update(states, states.clone(), layer)
        with policy.speaking() as model, torch.no_grad(), watch:
            inputs = {"input_ids": ids[:, -1:], "attention_mask": mask, "past_key_values": cache}
            return decode(model, shape, keys, policy.end_ids, **inputs)

    return speak


class Keyed(LogitsProcessor):
    """Leaves each row the one token that our sampler chooses, so that `model.generate` says the same as we do."""

    def __init__(self, sampler: KeyedSampler, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self.sampler(scores, input_ids.shape[1] - self.start)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def decode(model: Any, shape: Shape, keys: Sequence[int], ends: Sequence[int], **inputs: Any) -> list[tuple[int, ...]]:
    """A turn of every row, by one call of `model.generate`."""
    start = inputs["input_ids"].shape[1]
    how = Sampling(1.0, 1.0, shape.turn)
    sampler = KeyedSampler(
        keys, [0] * len(keys), sampling=how, steps=shape.turn, candidates=VOCABULARY, device=inputs["input_ids"].device
    )
    config = GenerationConfig(
        max_new_tokens=shape.turn,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=PAD,
        suppress_tokens=[PAD],
        use_cache=True,
    )
    output = model.generate(
        generation_config=config, logits_processor=LogitsProcessorList([Keyed(sampler, start)]), **inputs
    )
    rows = output[:, start:].tolist()
    return [tuple(row[: next((k for k, token in enumerate(row) if token in ends), len(row)) + 1]) for row in rows]


def measure(shape: Shape, policy: Policy, *, budget: int, repetitions: int, console: Console) -> dict[str, Any]:
    """A line of the table."""
    policy = replace(policy, end_ids=tuple(range(VOCABULARY - shape.ends, VOCABULARY)) or policy.end_ids)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    counts: dict[str, int] = {}
    said: dict[str, list[Any]] = {}
    for repetition in range(repetitions):
        for way in WAYS:
            watch = Stopwatch(policy.device.type == "cuda")
            if way in ("uncached", "cached"):
                room = 0 if way == "uncached" else 1 << 31
                generator = Generator(policy, max_batch_tokens=budget, max_cache_bytes=room)
                said[way] = talk(shape, generating(generator, shape, watch))
                counts = asdict(generator.counts)  # the last is the cached one's
            else:
                said[way] = talk(shape, (naive if way == "naive" else reference)(policy, shape, watch))
            seconds[way].append(watch.seconds)
        latest = ", ".join(f"{way} {times[-1]:.1f} s" for way, times in seconds.items())
        console.print(f"{shape.name} {repetition + 1} of {repetitions}: {latest}", highlight=False, soft_wrap=True)
    median = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "shape": shape.name,
        **{f"{way}_s": round(value, 3) for way, value in median.items()},
        "naive_over_cached": round(median["naive"] / median["cached"], 3),
        "cached_over_reference": round(median["cached"] / median["reference"], 3),
        "prefilled": counts["computed"],
        "reused": counts["reused"],
        "decoded": counts["sampled"],
        "dialogues": len(said["naive"]),
        "as_naive": sum(one == other for one, other in zip(said["cached"], said["naive"], strict=True)),
    }


def machine(policy: Policy, repetitions: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = policy.device.type == "cuda"
    return {
        "processor": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "seconds": "by the clock" if cuda else "of CPU time",
        "repetitions": repetitions,
        "parameters": sum(weight.numel() for weight in policy.model.parameters()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(lines: Sequence[dict[str, Any]]) -> Table:
    """The results for the eye."""
    result = Table(title="seconds, their ratios, and tokens", box=None, padding=(0, 1, 0, 0))
    ratios = ("naive /\ncached", "cached /\nref.")
    for heading in ("shape", "naive", "uncached", "cached", "ref.", *ratios, "prefilled", "reused", "decoded"):
        result.add_column(heading, justify="left" if heading == "shape" else "right")
    for line in lines:
        result.add_row(
            line["shape"],
            *(f"{line[f'{way}_s']:.1f}" for way in WAYS),
            f"{line['naive_over_cached']:.2f}",
            f"{line['cached_over_reference']:.2f}",
            *(f"{line[key]:,}" for key in ("prefilled", "reused", "decoded")),
        )
    return result


def room_table(lines: Sequence[dict[str, Any]]) -> Table:
    """What the shape `room` has counted, for the eye."""
    title = f"tokens computed for each dialogue, with a cache of {room.ROOM:,} tokens"
    result = Table("step", title=title, box=None, padding=(0, 1, 0, 0))
    for heading in ("questions", "computed", "unlimited\nroom", "computed /\nunlimited"):
        result.add_column(heading, justify="right")
    for line in lines:
        numbers = (line["questions"], line["computed_per_dialogue"], line["unlimited_per_dialogue"])
        result.add_row(line["step"], *map(str, numbers), f"{line['computed_over_unlimited']:.3f}")
    return result


def main() -> None:
    """Measures and writes bench.json into the current folder."""
    parser = argparse.ArgumentParser(description="How much work the prefix cache saves.")
    parser.add_argument("--quick", action="store_true", help="a model of 2 million parameters, a single repetition")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repetitions", type=int, help="of every measurement; default: 3, or 1 with --quick")
    names = ",".join([*(shape.name for shape in SHAPES), "room"])
    parser.add_argument("--shapes", default=names, help="names, with commas between")
    parser.add_argument("--questions", type=int, help="of the shape room; default: 40, or 10 with --quick")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    repetitions = arguments.repetitions or (1 if arguments.quick else 3)
    policy = make_policy(torch.device("cuda" if torch.cuda.is_available() else "cpu"), quick=arguments.quick)
    budget, console = MOST_TOKENS, Console()
    chosen = arguments.shapes.split(",")
    wanted = [shape for shape in SHAPES if shape.name in chosen]
    lines = [measure(shape, policy, budget=budget, repetitions=repetitions, console=console) for shape in wanted]
    if lines:
        console.print(table(lines))
    for line in lines:
        told = f"{line['as_naive']} of {line['dialogues']} dialogues are, token for token, those of the naive way"
        console.print(f"{line['shape']}: {told}", highlight=False, soft_wrap=True)
    result: dict[str, Any] = {"machine": machine(policy, repetitions), "shapes": lines}
    if "room" in chosen:
        questions = arguments.questions or (10 if arguments.quick else 40)
        result["room"] = [room.measure(step, questions=questions, quick=arguments.quick) for step in room.STEPS]
        console.print(room_table(result["room"]))
    Path("bench.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print("wrote bench.json")


if __name__ == "__main__":
    main()
