"""Make the bundled tiny Llama for teams, from the weights of the bundled tiny Llama.

    python scripts/make_tiny_teams.py [--out FOLDER] [--seed 0] [--scale 1.0]

In: nothing but this repository. Out: a model of the same shape, which knows the roles of three shipped teams besides
the pair and the single agent (`scripted_teams.py`): able to play each, yet chatty and careless, so that training has
something to mend. Its tokenizer has the words of those roles, too; words of the first model keep their embeddings.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random

import scripted_teams
import torch
from make_tiny_llama import make_tokenizer, save, train, vocabulary_texts
from pretraining_examples import PHASES, TEAM_PHASES, Writer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from optima_lite.records import Turn
from optima_lite.tasks import world
from optima_lite.team.dialogue import taken
from optima_lite.team.prompts import FORMATS, brief, view

PACKAGE = Path(world.__file__).parents[1]


def team_texts() -> Iterator[str]:
    """Enough of what the teams read and say to hold all their words."""
    rng = Random("team vocabulary")
    formats = itertools.cycle([None, *FORMATS])
    for workflow in scripted_teams.WORKFLOWS.values():
        for question in world.questions("train", 2000, seed=1):
            said: list[str] = []

            def says(speaker: int, text: str, said: list[str] = said) -> Turn:
                said.append(text.replace("<A>", "").replace("</A>", ""))
                return Turn(speaker, (), said[-1].strip())

            dialogue = scripted_teams.play(question, rng, workflow=workflow, says=says, format=next(formats))
            yield from said
            for step, turn, done in taken(dialogue.turns, workflow):
                if step.reads is None:
                    told = view(question, (), turn.speaker, workflow=workflow)
                else:
                    told = [] if step.tool else brief(question, done, step, workflow=workflow)
                yield from (message.text for message in told)


def widened(first: LlamaForCausalLM, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The first model with embeddings for the new tokenizer: known tokens keep theirs, others begin near the mean."""
    before = first.model.embed_tokens.weight.detach().clone()
    known, ids = old.get_vocab(), new.get_vocab()
    first.resize_token_embeddings(len(new), mean_resizing=False)
    with torch.no_grad():
        rows = before.mean(0) + 0.5 * before.std(0) * torch.randn(len(new), before.shape[1])
        for token, number in ids.items():
            if token in known:
                rows[number] = before[known[token]]
        first.model.embed_tokens.weight.copy_(rows)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(first.config, name, getattr(new, name))
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PACKAGE / "tiny_teams")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every phase")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)

    first = PACKAGE / "tiny_llama"
    old = PreTrainedTokenizerFast.from_pretrained(first)
    tokenizer = make_tokenizer(itertools.chain(vocabulary_texts(), team_texts()))
    model = widened(LlamaForCausalLM.from_pretrained(first, dtype=torch.float32), old, tokenizer)
    writer = Writer(tokenizer)
    effort = train(model, writer, TEAM_PHASES, seed=options.seed, scale=options.scale, first=len(PHASES))
    options.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, options.out)
    print(effort)


if __name__ == "__main__":
    main()
