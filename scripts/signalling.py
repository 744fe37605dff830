"""The model of the signalling game (examples/signalling): a small random transformer that can say a symbol.

    python scripts/signalling.py OUT [--seed 0] [--spread 0.5]

A Llama of two layers with random weights learns, in seconds, to answer with one of the four symbols and to end its
turn. Which one it says how often is drawn anew for every speaker and everything that it can be told: the form of a
message, and whims instead of a meaning. Played with it as it is, the game comes out right by chance, about a quarter
of the time. With --spread 0 nobody has whims: all say the four equally often. (A model whose answers had nothing to do
with what it reads would first have to learn to look at it.)
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from optima_lite.model.checkpoint import bundled

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "signalling"))
from game import MARKED, SYMBOLS

STEPS, BATCH = 400, 32
SPREAD = 0.5  # of the logits of a whim: its favourite of four symbols is then said four times of ten
SYSTEMS = ("Alice", "Bob", "Solo")
TEMPLATE = (  # as short as a chat can be
    "{{- bos_token }}{%- for message in messages %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
)


def write(out: Path, *, seed: int = 0, spread: float = SPREAD) -> None:
    """Writes the model into the folder `out`, which is made if need be. spread: of the logits of a whim."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(bundled(), local_files_only=True)
    tokenizer.add_tokens([MARKED.format(symbol) for symbol in SYMBOLS])  # a symbol is a token, and an answer
    tokenizer.chat_template = TEMPLATE
    end, pad = tokenizer.convert_tokens_to_ids("<|eot_id|>"), tokenizer.pad_token_id
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": pad}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        initializer_range=0.25,  # large enough for a symbol to reach the last token, and to be said for sure there
        tie_word_embeddings=False,
        **ends,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    whims = {(who, told): [math.exp(draw.gauss(0, spread)) for _ in SYMBOLS] for who in SYSTEMS for told in SYMBOLS}
    for _ in range(STEPS):
        rows = [_row(tokenizer, draw, whims) for _ in range(BATCH)]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        labels = torch.tensor([[*[-100] * (len(row) - 2), *row[-2:], *[-100] * (longest - len(row))] for row in rows])
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _row(tokenizer: Any, draw: random.Random, whims: Mapping[tuple[str, str], Sequence[float]]) -> list[int]:
    """A prompt as the game makes them, and a message of two tokens by the speaker's whims."""
    who, told = draw.choice([*whims])
    (said,) = draw.choices(SYMBOLS, whims[who, told])
    chat = [{"role": "system", "content": who}, {"role": "user", "content": MARKED.format(told)}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return [*prompt, *tokenizer.convert_tokens_to_ids([MARKED.format(said), "<|eot_id|>"])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spread", type=float, default=SPREAD)
    given = parser.parse_args()
    write(given.out, seed=given.seed, spread=given.spread)
    print(f"wrote {given.out}")
