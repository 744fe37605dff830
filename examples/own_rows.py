"""Rows of your own: a JSONL file and a recipe for it, checked, trained on, and asked with facts by the agents' names.

    python examples/own_rows.py [KEY=VALUE ...]

The bundled model knows no words but those of its own world, so these rows are made of them. With your rows:
write your file in the place of `write_rows`, and name a model that can read in the recipe.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import optima_lite
from optima_lite.tasks import world

RECIPE = """\
model: {name: tiny}
task: {name: jsonl, path: example_rows.jsonl, fields: {contexts: [alice, bob]}}
prompts:
  system: You are {name}, working with {partner}.
  solo_system: You work alone. Think step by step.
sampling: {rollouts: 4, temperature: 0.8, max_turn_tokens: 56}
reward: {readability: capped}
selection: {min_reward: 1.2}
training: {iterations: 1, questions: 40, learning_rate: 2e-3}
evaluation: {questions: 40, validation_questions: 20}
"""


def main(settings: list[str]) -> None:
    """Writes rows and recipe, trains, asks."""
    write_rows(Path("example_rows.jsonl"), 200)
    Path("example_rows.yaml").write_text(RECIPE, encoding="utf-8")
    summary = optima_lite.train("example_rows.yaml", overrides=settings, run="runs/example-rows")
    for row in summary["evaluations"]:
        print(f"{row['name']} {row['decoding']}: score {row['score']:.3f}, {row['tokens']:.1f} tokens a dialogue")

    team = optima_lite.load("runs/example-rows")
    (question,) = world.questions("held_out", 1, seed=0)
    alice, bob = question.contexts
    found = team.ask(question.text, {"Alice": alice, "Bob": bob})
    print(f"\n{question.text}\n  answer: {found.answer}, right: {question.answers[0]}, {found.tokens} tokens")


def write_rows(path: Path, count: int) -> None:
    """A row a line: a question, its answers, and what each agent knows."""
    with path.open("w", encoding="utf-8") as file:
        for question in world.questions("train", count, seed=0):
            alice, bob = question.contexts
            row = {"question": question.text, "answers": question.answers, "alice": alice, "bob": bob}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
