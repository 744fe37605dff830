"""A team of three, written in a recipe: two witnesses who hold the facts, and a judge who knows none of them.

    python examples/team_of_three.py [KEY=VALUE ...]

The bundled model was made for a talk of two and hardly knows what a judge is for: this shows how a team is written,
trained and asked, not what it is worth. docs/teams.md has the grammar.
"""

from __future__ import annotations

import sys
from pathlib import Path

import optima_lite

RECIPE = """\
model: {name: tiny}
task: {name: world}
team:
  name: hearing
  roles:
    Ann: {system: "You are {name}. Say which of your facts matter.", facts: share}
    Ben: {system: "You are {name}. Say which of your facts matter.", facts: share}
    Cy: {system: "You are {name}. Answer as <A>answer</A>.", facts: none}
  steps:
    first: {speaker: Ann, reads: "{facts}\\n{question}", then: second}
    second: {speaker: Ben, reads: "{facts}\\n{question}\\n{first}", then: judge}
    judge: {speaker: Cy, reads: "{question}\\n{first}\\n{second}", then: end}
  answer: judge
sampling: {rollouts: 4, max_turn_tokens: 40}
reward: {readability: capped}
selection: {min_reward: -9}
training: {iterations: 1, questions: 20, learning_rate: 2e-3}
evaluation: {questions: 20, validation_questions: 10, stop_if_none_right: false}
"""


def main(settings: list[str]) -> None:
    """Writes the recipe, trains, asks, and grows a tree."""
    Path("hearing.yaml").write_text(RECIPE, encoding="utf-8")
    optima_lite.train("hearing.yaml", overrides=settings, run="runs/example-team")

    team = optima_lite.load("runs/example-team")
    print(f"{', '.join(team.roles)}; the facts are held by {' and '.join(team.holders)}")
    facts = {"Ann": ["Mira mother Tess"], "Ben": ["Tess teacher Bera"]}
    found = team.ask("Who is the teacher of Mira's mother?", facts, sample=True, seed=1)
    for turn in found.turns:
        print(f"  {turn.role} ({turn.tokens} tokens): {turn.text}")
    print(f"answer: {found.answer}, {found.tokens} tokens")

    (tree,) = optima_lite.search("runs/example-team", 1)
    print(f"a tree of {len(tree.nodes) - 1} messages, {tree.sampled} tokens sampled")


if __name__ == "__main__":
    main(sys.argv[1:])
