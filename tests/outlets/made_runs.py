"""Run folders without a model: of any size, of four roles, and with texts that would harm a careless page.

`python tests/outlets/made_runs.py FOLDER --dialogues 10000 --words 180 --facts 700` writes a large one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optima_lite.records import (
    Demonstration,
    Dialogue,
    Ending,
    EvalRow,
    Node,
    PreferencePair,
    Question,
    Reward,
    Rollouts,
    Tree,
    Turn,
)
from optima_lite.runs.store import Run
from optima_lite.settings import strict_yaml
from optima_lite.settings.teams import shipped_teams

PAIR = {
    "seed": 4,
    "model": {"name": "tiny"},
    "task": {"name": "world"},
    "protocol": {"name": "exchange", "roles": ["Ann", "Ben"]},
}
FOUR = PAIR | {"team": {"name": "chain", **strict_yaml.load(shipped_teams()["chain"].read_text("utf-8")).value}}
HOSTILE = (
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=document.title='run'>",
    "\u202eturned round\u202c and \u2066held\u2069",
    "bell \x07, escape \x1b[31m, nothing \x00, end",
    "half a character \ud800, and \udc00",
    "]]> --> ${title} $script {{x}} \u2028 \u2029",
    "word " * 20_000,
    "x" * 100_000,
)
_DRAW = random.Random(0)
POOL = ["".join(_DRAW.choices("abcdefghijklm", k=_DRAW.randint(2, 9))) for _ in range(4000)]
ENDINGS = (Ending.AGREED, Ending.AGREED, Ending.MAX_TURNS, Ending.TRUNCATED)


def question(number: int, facts: int = 4) -> Question:
    """facts: words on either side."""
    sides = [tuple(f"fact {number} {side} {words(k, 7)}" for k in range(max(1, facts // 20))) for side in "ab"]
    return Question(
        f"q{number}", f"What is the home of Mira {number}?", ("Portham",), (sides[0], sides[1]), sides[0][:1]
    )


def words(seed: object, count: int) -> str:
    """Always the same for a seed."""
    return " ".join(random.Random(str(seed)).choices(POOL, k=count))


def dialogue(
    about: Question, rollout: int, texts: Sequence[str], *, roles: int = 2, fmt: str | None = None
) -> Dialogue:
    turns = tuple(
        Turn(k % roles, tuple(range(len(text.split()[:300]) + 1)), text, "Portham" if k else None)
        for k, text in enumerate(texts)
    )
    return Dialogue(about.id, rollout, turns, ENDINGS[rollout % 4], fmt)


def reward(task: float) -> Reward:
    return Reward(task - 0.2, task, 0.5, 0.25, 2.0)


def rollouts(about: Question, *, samples: int, length: int, seed: object = 0, roles: int = 2) -> Rollouts:
    talks = [
        dialogue(about, k, [words((seed, about.id, k, m), length // 4) for m in range(4)], roles=roles)
        for k in range(samples)
    ]
    return Rollouts(about, tuple(talks), tuple(reward((int(about.id[1:]) + k) % 3 / 2) for k in range(samples)))


def evaluation(name: str, decoding: str, *, score: float, tokens: float, questions: int) -> EvalRow:
    bounds = {
        "score_low": score - 0.05,
        "score_high": score + 0.05,
        "tokens_low": tokens - 4,
        "tokens_high": tokens + 4,
    }
    return EvalRow(
        name,
        decoding,
        questions,
        score=score,
        tokens=tokens,
        **bounds,
        turns=4.0,
        agreement=0.5,
        tokens_per_correct=tokens / score,
        readability_loss=2.0,
    )


def evaluate(run: Run, name: str, found: list[Rollouts], *, score: float, tokens: float) -> None:
    """Store an evaluation, sampled."""
    stage = f"evaluation/{name}_sampled"
    run.append(stage, found)
    plain = name if name == "untrained" or name == "single_agent" else f"iteration_{int(name[10:])}"
    run.write_json(f"{stage}.json", evaluation(plain, "sampled", score=score, tokens=tokens, questions=len(found)))


def tree(about: Question, nodes: int) -> Tree:
    """Two messages after each one, worth less the later they came."""
    table = [Node(None, None, nodes, reward(1.0))]
    for k in range(1, nodes):
        table.append(Node((k - 1) // 2, Turn(k % 2, (1, k), f"message {k}"), 1, reward(1 - k / nodes)))
    return Tree(about, tuple(table), (0, 1), 50 * nodes)


def pair(grown: Tree) -> PreferencePair:
    """The first two messages of a tree."""
    first, second = grown.nodes[1], grown.nodes[2]
    assert first.turn and second.turn and first.reward and second.reward
    return PreferencePair(grown.question, (), first.turn, second.turn, first.reward, second.reward, 3, 2)


def make(
    folder: Path,
    recipe: dict[str, Any] = PAIR,
    *,
    held_out: int = 6,
    training: int = 4,
    samples: int = 3,
    length: int = 12,
    facts: int = 20,
    trees: int = 2,
    nodes: int = 7,
    hostile: bool = False,
) -> Path:
    """A run of one iteration with both kinds of steps: held-out questions before and after, and training ones."""
    roles = len(recipe["team"]["roles"]) if "team" in recipe else 2
    manifest = {
        "recipe": recipe | {"training": {"iterations": 1}},
        "recipe_name": "made",
        "variants": [],
        "versions": {},
    }
    with Run.open(folder, manifest) as run:
        asked = [question(k, facts) for k in range(held_out)]
        for name, score, tokens in (("untrained", 0.4, 90.0), ("iteration_00", 0.8, 20.0)):
            found = [rollouts(one, samples=1, length=length, seed=name, roles=roles) for one in asked]
            if hostile:
                found += [_harmful(k, text) for k, text in enumerate(HOSTILE)]
            evaluate(run, name, found, score=score, tokens=tokens)
        seen = [question(10_000 + k, facts) for k in range(training)]
        groups = [rollouts(one, samples=samples, length=length, roles=roles) for one in seen]
        run.append("iteration_00/2_rewards", groups)
        chosen = [Demonstration(one.question, one.dialogues[0], one.rewards[0]) for one in groups]
        run.append("iteration_00/3_demonstrations", chosen)
        grown = [tree(one, nodes) for one in seen[:trees]]
        run.append("iteration_00/6_trees", grown)
        run.append("iteration_00/7_pairs", [pair(one) for one in grown])
    return folder


def _harmful(number: int, text: str) -> Rollouts:
    about = Question(f"h{number}", text, (text,), ((text,), ()))
    return Rollouts(about, (dialogue(about, 0, [text, text]),), (reward(0.0),))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, value in (("dialogues", 10_000), ("words", 180), ("facts", 700), ("trees", 300)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    held_out = min(400, given.dialogues // 10)
    rest = max(1, (given.dialogues - 2 * held_out) // 8)
    make(
        given.folder,
        held_out=held_out,
        training=rest,
        samples=8,
        length=given.words,
        facts=given.facts,
        trees=given.trees,
        nodes=40,
    )
