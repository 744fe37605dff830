"""The model of the signalling game (examples/signalling): a small random transformer that can say a symbol.

    python scripts/signalling.py OUT [--seed 0]

A Llama of two layers with random weights learns, in seconds, to answer any prompt with one of the four symbols drawn at
random and to end its turn: the form of a message, and nothing of what it could mean. Played with it as it is, the game
comes out right by chance, a quarter of the time.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from optima_lite.model.checkpoint import bundled

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "signalling"))
from game import MARKED, SYMBOLS

STEPS, BATCH = 200, 32
SYSTEMS = ("Alice", "Bob", "Solo")
TEMPLATE = (  # as short as a chat can be
    "{{- bos_token }}{%- for message in messages %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
)


def write(out: Path, *, seed: int = 0) -> None:
    """Writes the model into the folder `out`, which is made if need be."""
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
        initializer_range=0.125,  # of default weights hardly anything of a symbol would reach the last token
        tie_word_embeddings=False,
        **ends,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        rows = [_row(tokenizer, draw) for _ in range(BATCH)]
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


def _row(tokenizer: Any, draw: random.Random) -> list[int]:
    """A prompt as the game makes them, and a message of two tokens that has nothing to do with it."""
    shown, said = (MARKED.format(draw.choice(SYMBOLS)) for _ in range(2))
    chat = [{"role": "system", "content": draw.choice(SYSTEMS)}, {"role": "user", "content": shown}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return [*prompt, *tokenizer.convert_tokens_to_ids([said, "<|eot_id|>"])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, seed=given.seed)
    print(f"wrote {given.out}")
