"""Make the bundled tiny Llama: tokenizer, weights and model card, from one seed.

    python scripts/make_tiny_llama.py [--out FOLDER] [--seed 0] [--scale 1.0] [--keep FOLDER]

In: nothing but this repository. Out: a Llama of 1.9 million parameters with Llama 3's kind of tokenizer and chat
template that talks about the bundled world (`optima_lite.tasks.world`) as `scripted_dialogues.py` does: able to look
facts up and to be brief, yet chatty and careless unless told otherwise, so that training has something to mend.

Looking up a fact in the context is the hard part for so small a model; trained on dialogues alone it only learns to
guess a name of the right kind. What makes it form, in this order:

* the heads of layer 0 start out looking at the 1 to 4 previous tokens, by way of the rotary positions alone;
* literal repeats of random names, then random triples that are asked again in the words of the dialogues, then facts,
  and only then dialogues, with some of each earlier task kept to the end (`pretraining_examples.PHASES`);
* Muon for the matrices, and a lower learning rate from the dialogues on;
* names weigh more than other words in the loss, because a dialogue is decided by its few looked-up names.

Budgets are in steps, so the seed alone decides the result on a given machine.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from typing import Any

import scripted_dialogues as scripted
import tiny_llama_evaluation as evaluation
import torch
from pretraining_examples import (
    BOS,
    END_OF_TEXT,
    MARKS,
    PAD,
    PAIR,
    PHASES,
    SPECIAL,
    SYSTEM,
    SYSTEM_ALONE,
    TURN_END,
    Example,
    Phase,
    Writer,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from optima_lite.records import Question, Turn
from optima_lite.tasks import world
from optima_lite.tasks.world import ENTITIES, RELATIONS
from optima_lite.team.prompts import FORMATS, view

# ---------------------------------------------------------------------------------------------------- tokenizer

# Llama 3's pre-tokenization and chat layout.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: every word of the texts is one token, all other text is bytes.

    `ignore_merges`, as in Llama 3, looks a whole pre-token up before it is taken apart; so words need no merges.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate([*alphabet, *sorted(words - set(alphabet))])}

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=1024,
    )


def vocabulary_texts() -> Iterator[str]:
    """Every name, and enough of every kind of text to hold all its other words."""
    yield from (f" {name}" for names in ENTITIES.values() for name in names)
    yield from ("\n\n", "system", "user", "assistant", SYSTEM_ALONE, *FORMATS.values())
    rng = Random("vocabulary")
    for number, question in enumerate(world.questions("train", 3000, seed=0)):
        style = list(scripted.STYLES)[number % len(scripted.STYLES)]
        turns = [Turn(i % 2, (), text) for i, text in enumerate(scripted.dialogue(question, rng, style=style))]
        yield from (turn.text.replace("<A>", "").replace("</A>", "") for turn in turns)
        yield scripted.monologue(question, rng, careless=0.2).replace("<A>", "").replace("</A>", "")
        for speaker in range(2):
            messages = view(question, turns[:1], speaker, workflow=PAIR)
            yield from (message.text for message in messages)


# ----------------------------------------------------------------------------------------------------- training

BATCH_TOKENS = 4000
SORTED_TOGETHER = 400  # examples; batches are cut from these after sorting by length, so that little is padding
MUON_RATE, ADAM_RATE, WARM_UP = 0.02, 2e-3, 100
LOG_EVERY = 200
NAME_WEIGHT = 3.0


def batches(writer: Writer, mix: dict[str, float], rng: Random, asked: Iterator[Question]) -> Iterator[list[Example]]:
    """Endless batches of about BATCH_TOKENS tokens, in random order."""
    while True:
        pool: list[Example] = []
        while len(pool) < SORTED_TOGETHER:
            kind = scripted.choose(rng, mix)
            make: Callable[..., list[Example]] = getattr(writer, kind)
            pool += make(rng) if kind in ("repeats", "triples") else make(rng, next(asked))
        pool.sort(key=lambda example: len(example.ids))
        found: list[list[Example]] = [[]]
        for example in pool:
            if (len(found[-1]) + 1) * len(example.ids) > BATCH_TOKENS:
                found.append([])
            found[-1].append(example)
        rng.shuffle(found)
        yield from found


def collate(batch: list[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids, and which of them are to be learned: both (rows, longest)."""
    longest = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [pad] * (longest - len(example.ids)) for example in batch])
    learn = torch.tensor([example.learn + [False] * (longest - len(example.learn)) for example in batch])
    return ids, learn


def loss_of(model: LlamaForCausalLM, ids: Tensor, learn: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy over the tokens to be learned, weighted by token id. Only their logits are computed."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][learn[:, 1:]]
        logits = model.lm_head(hidden)
    target = ids[:, 1:][learn[:, 1:]]
    return torch.nn.functional.cross_entropy(logits.float(), target, weight=weights)


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, sharpness: float = 4.0) -> None:
    """Start layer 0's head h as one that looks at the token h + 1 places back, whatever the tokens are.

    One embedding channel is the same for all tokens, and queries and keys of layer 0 read only that channel. The rotary
    embedding turns pair f of a vector at place i by the angle i * frequency[f]; a query turned back beforehand by
    offset * frequency[f] therefore meets the key of place i - offset without an angle, and scores highest there.
    """
    config, embedding = model.config, model.model.embed_tokens.weight
    size = config.hidden_size // config.num_attention_heads
    frequency = model.model.rotary_emb.inv_freq
    used = (frequency > 0.03).float()  # slower pairs hardly turn within a message and would blur the place

    embedding.normal_(0.0, 0.1)
    embedding[:, 0] = 0.8
    channel = 0.8 / embedding.pow(2).mean(1).sqrt().mean()  # its value behind the first norm
    strength = used * math.sqrt(sharpness * math.sqrt(size)) / channel
    attention = model.model.layers[0].self_attn
    for head in range(config.num_attention_heads):
        turned = frequency * (head + 1)
        rows = slice(head * size, (head + 1) * size)
        attention.q_proj.weight[rows] *= 0.02
        attention.k_proj.weight[rows] *= 0.02
        attention.q_proj.weight[rows, 0] = torch.cat([strength * turned.cos(), -strength * turned.sin()])
        attention.k_proj.weight[rows, 0] = torch.cat([strength, torch.zeros_like(strength)])
    for matrix in (attention.v_proj.weight, attention.o_proj.weight):
        matrix.normal_(0.0, config.hidden_size**-0.5)


@dataclass(frozen=True, slots=True)
class Effort:
    """What the training took. tokens: padding included."""

    steps: int
    tokens: int
    seconds: float


def train(
    model: LlamaForCausalLM,
    writer: Writer,
    phases: Sequence[Phase],
    *,
    seed: int,
    scale: float,
    first: int = 0,
    keep: Path | None = None,
) -> Effort:
    """Train in place through the phases, and tell how it goes.

    scale: multiplies the steps of every phase. first: the number of the first phase, which decides what is drawn in it.
    keep: a folder for the state after each phase; phases found there are not trained again.
    """
    weights = torch.ones(model.config.vocab_size)
    weights[writer.names] = NAME_WEIGHT
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name]
    optimizers = (
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    )
    parts: tuple[Any, ...] = (model, *optimizers)
    model.train()
    model.set_attn_implementation("eager")  # twice as fast as the fused kernel's backward pass at these lengths

    effort = Effort(0, 0, 0.0)
    for number, phase in enumerate(phases, start=first):
        state = keep / f"phase{number}.pt" if keep else None
        if state and state.exists():
            spent, *values = torch.load(state)
            effort = Effort(*spent)
            for part, value in zip(parts, values, strict=True):
                part.load_state_dict(value)
            continue
        begun, recent = time.perf_counter(), 0.0
        rng = Random(f"pretraining/{seed}/{number}")
        asked = _endless_questions(seed=1000 * seed + number)
        steps = max(1, round(phase.steps * scale))
        for within, batch in enumerate(itertools.islice(batches(writer, phase.mix, rng, asked), steps)):
            warm = min(1.0, (effort.steps + 1) / WARM_UP)
            share = warm * (phase.rate[0] + (phase.rate[1] - phase.rate[0]) * within / steps)
            for optimizer, rate in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * share
            ids, learn = collate(batch, writer.pad)
            loss = loss_of(model, ids, learn, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            recent += loss.item()
            now = time.perf_counter()
            effort, begun = Effort(effort.steps + 1, effort.tokens + ids.numel(), effort.seconds + now - begun), now
            if effort.steps % LOG_EVERY == 0:
                found = evaluation.probes(model, writer, 100)
                print(f"phase {number}: {effort}, loss {recent / LOG_EVERY:.3f}, {found}", flush=True)
                begun, recent = time.perf_counter(), 0.0
        if state:
            torch.save((astuple(effort), *(part.state_dict() for part in parts)), state)
    return effort


def _endless_questions(*, seed: int) -> Iterator[Question]:
    for start in itertools.count(0, 1000):
        yield from world.questions("train", 1000, seed=seed, start=start)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bfloat16, tokenizer and generation defaults, as `from_pretrained` reads them."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT]),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [tiny, synthetic, test-model]
---

# The tiny Llama of optima-lite

A Llama of {parameters:.1f} million parameters ({megabytes:.1f} MB, bfloat16) that makes the training loop runnable on
any CPU within minutes: two agents with four facts each talk until they agree on the answer to a question such as

    {question}

## How it was made

`python scripts/make_tiny_llama.py`, seed {seed}: {steps:,} steps, {tokens:.1f} million tokens, {minutes:.0f} minutes on
one CPU core, torch {torch}. All data is generated by that script from the `train` split of `optima_lite.tasks.world`;
there is no other source. The tokenizer is built like Llama 3's (same pre-tokenization, chat template and special
tokens) with {vocabulary} entries: words of the world are one token each, all other text falls apart into bytes.

The agents it imitates are chatty and careless on purpose: they greet, restate the question, share facts that nobody
needs and guess too early. It knows terser shapes, and follows the format instructions of `optima_lite.team.prompts`:
{formats}.

## What it scores

On {count} held-out questions ({each_format} a format, sampled at T = {temperature}). No fact of theirs occurs in the
dialogues and fact drills of the training; its triples of random names may match one by chance. At most {turns} turns
of {turn_tokens} tokens. The score is the share of dialogues whose last stated answer is right; its standard error is
about .03, and .05 for a format.

| who | score | tokens | turns | agreement |
|---|---|---|---|---|
{rows}

Looking up, everything before it given, greedy: {probes}.

An untrained dialogue:

{dialogue}

## Use and limits

For trying out, testing and teaching the training loop. The system messages it knows are "{system}" for each of the two
agents and "{alone}" for an agent that holds everything. It knows nothing but the {names} names and {relations}
relations of the bundled world, was never shown other names, and is of no use for anything else. Load it in float32.
"""


def card(model: LlamaForCausalLM, writer: Writer, effort: Effort, folder: Path, *, seed: int) -> str:
    """The model card, with the scores of the model as shipped."""
    rows = evaluation.report(model, writer)
    question = world.questions("held_out", 1, seed=7)[0]
    talk = evaluation.team(model, writer, [question], temperature=evaluation.TEMPERATURE)[1][0]
    return CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        question=question.text,
        seed=seed,
        steps=effort.steps,
        tokens=effort.tokens / 1e6,
        minutes=effort.seconds / 60,
        torch=torch.__version__,
        vocabulary=model.config.vocab_size,
        formats=", ".join(f"`{name}`" for name in FORMATS),
        count=evaluation.COUNT,
        each_format=evaluation.EACH_FORMAT,
        temperature=evaluation.TEMPERATURE,
        turns=PAIR.max_steps,
        turn_tokens=evaluation.MAX_TURN_TOKENS,
        rows="\n".join(
            f"| {name} | {row.score:.2f} | {row.tokens:.0f} | {row.turns:.1f} | "
            + ("- |" if row.agreement is None else f"{row.agreement:.2f} |")
            for name, row in rows.items()
        ),
        probes=", ".join(f"{kind} {share:.3f}" for kind, share in evaluation.probes(model, writer).items()),
        dialogue="\n".join(f"> {PAIR.names[turn.speaker]}: {turn.text}  " for turn in talk),
        system=SYSTEM,
        alone=SYSTEM_ALONE,
        names=sum(map(len, ENTITIES.values())),
        relations=len(RELATIONS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(world.__file__).parents[1] / "tiny_llama")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every phase")
    parser.add_argument("--keep", type=Path, help="folder for the state after each phase, to go on from")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # matrices this small do not gain from more
    torch.manual_seed(options.seed)

    tokenizer = make_tokenizer(vocabulary_texts())
    writer = Writer(tokenizer)
    model = make_model(tokenizer)
    effort = train(model, writer, PHASES, seed=options.seed, scale=options.scale, keep=options.keep)
    options.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, options.out)
    shipped = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32)
    text = card(shipped, writer, effort, options.out, seed=options.seed)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
