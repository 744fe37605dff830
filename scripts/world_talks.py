"""Right and terse talks about the bundled world's training questions, as trajectories for `optima-lite import`.

    python scripts/world_talks.py --questions 100 > talks.jsonl
    optima-lite import talks.jsonl --recipe quickstart --licence Apache-2.0 --source scripts/world_talks.py
    optima-lite train quickstart teacher.demonstrations=talks.demonstrations.jsonl

The script that the bundled model was pretrained to imitate speaks here as if it never made a mistake: about each
question it talks until the answer is right, in one of a few terse styles.
"""

from __future__ import annotations

import argparse
import json
from random import Random

from scripted_dialogues import NAMES, dialogue, mark

from optima_lite.records import Question
from optima_lite.tasks.world import questions

STYLES = ("telegraphic", "key_value", "arrows", "triples")


def right(question: Question, rng: Random) -> list[str]:
    """A talk that ends with the right answer, said twice."""
    wanted = mark(question.answers[0])
    while True:
        said = dialogue(question, rng, style=rng.choice(STYLES))
        if len(said) < 5 and all(wanted in text for text in said[-2:]):
            return said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--start", type=int, default=0, help="the number of the first question")
    parser.add_argument("--seed", type=int, default=0, help="of the run whose training questions they are")
    wanted = parser.parse_args()
    for question in questions("train", wanted.questions, seed=wanted.seed, start=wanted.start):
        said = right(question, Random(question.id))
        messages = [
            {"role": ("user", "assistant")[k % 2], "name": NAMES[k % 2], "content": text} for k, text in enumerate(said)
        ]
        about = {"question": question.text, "answers": question.answers, "contexts": question.contexts}
        print(json.dumps({**about, "messages": messages}, ensure_ascii=False))


if __name__ == "__main__":
    main()
