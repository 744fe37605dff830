"""Compact tree search over dialogue turns (paper section 3.4): where do dialogues part, and which way is better?

Each search step chooses a node, rolls several dialogues out from it and backs their rewards up to the root. The trees
of many questions grow together: all their dialogues take their next turn in one call of `speak`, and one call of
`score` a step rewards them. Knows no model; a question's tree does not depend on the others grown with it, provided
that `speak` and `score` treat every row alike whatever is beside it.

Changed against the official code: a message that merges into its sibling is replaced by it, so that one text has one
value; only a sibling that gives the same answer can take its place, because two near texts may differ in nothing but
the answer; a dialogue that starts within the tree remembers the answers given before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rapidfuzz.distance import Levenshtein

from ..records import Dialogue, Question, Reward, Tree, Turn
from ..settings.config import SearchSettings
from ..settings.workflow import Workflow
from ..tasks.answers import agree
from .dialogue import decided, extend
from .tree import ROOT, add, back_up, children, turns

Speak = Callable[[Sequence[tuple[Question, Dialogue]]], Sequence[Turn]]
"""Unfinished dialogues in, the next turn of each out, in the same order. A rollout's number is unique in its tree."""

Score = Callable[[Sequence[tuple[Question, Dialogue]]], Sequence[Reward]]
"""Finished dialogues in, those of a question side by side; their rewards out, in the same order.

It decides what a dialogue without agreement is worth; its answer scores 0 in the official code's search.
"""


@dataclass(frozen=True, slots=True)
class _Rollout:
    """A dialogue being rolled out. tree: index among the trees. node: where in the tree it stands."""

    tree: int
    node: int
    dialogue: Dialogue


def search(
    questions: Sequence[Question],
    *,
    workflow: Workflow,
    speak: Speak,
    score: Score,
    settings: SearchSettings,
    seed: Sequence[object],
) -> list[Tree]:
    """A tree for every question, in their order; each root has `searches` * `rollouts` visits.

    seed: with the question's id it decides which nodes are chosen.
    """
    trees = [Tree(question) for question in questions]
    draws = [random.Random("\x1f".join(map(str, (*seed, question.id)))) for question in questions]
    for step in range(settings.searches):
        rollouts = []
        for i, tree in enumerate(trees):
            node = choose(tree, settings=settings, draw=draws[i])
            trees[i] = replace(tree, expanded=(*tree.expanded, node))
            for number in range(step * settings.rollouts, (step + 1) * settings.rollouts):
                rollouts.append(_Rollout(i, node, Dialogue(tree.question.id, number, turns(tree, node))))
        ended = _roll_out(trees, rollouts, workflow=workflow, speak=speak, settings=settings)
        rewards = score([(trees[rollout.tree].question, rollout.dialogue) for rollout in ended])
        for rollout, reward in zip(ended, rewards, strict=True):
            trees[rollout.tree] = back_up(trees[rollout.tree], rollout.node, reward)
    return trees


def choose(tree: Tree, *, settings: SearchSettings, draw: random.Random) -> int:
    """The node that the next dialogues start at.

    Can be chosen: the root, and nodes that something follows beyond their own children; of these none whose text is
    near that of a node chosen before (so none twice); of these the `top_k` of highest value. One of them is drawn by
    the softmax of their values. When none is left it is the root again.
    """
    chosen = [tree.nodes[node].text for node in tree.expanded]
    fresh = [
        node
        for node in _inner(tree)
        if not any(_near(tree.nodes[node].text, text, settings.expand_distance) for text in chosen)
    ]
    if not fresh:
        return ROOT
    top = sorted(fresh, key=lambda node: -tree.nodes[node].value)[: settings.top_k]
    highest = tree.nodes[top[0]].value
    weights = [math.exp((tree.nodes[node].value - highest) / settings.temperature) for node in top]
    return draw.choices(top, weights)[0]


def _inner(tree: Tree) -> list[int]:
    following = children(tree)
    return [node for node, nexts in enumerate(following) if node == ROOT or any(following[child] for child in nexts)]


def _near(one: str, other: str, distance: float) -> bool:
    return one == other or _distance(one, other) < distance


def _distance(one: str, other: str) -> float:
    """Edits over the length of the longer text, in [0, 1]."""
    return Levenshtein.normalized_distance(one, other)


def _roll_out(
    trees: list[Tree],
    rollouts: Sequence[_Rollout],
    *,
    workflow: Workflow,
    speak: Speak,
    settings: SearchSettings,
) -> list[_Rollout]:
    """The rollouts at their ends; what they say is put into `trees`."""
    current = list(rollouts)
    while active := [k for k, rollout in enumerate(current) if rollout.dialogue.ending is None]:
        said = speak([(trees[current[k].tree].question, current[k].dialogue) for k in active])
        for k, turn in zip(active, said, strict=True):
            i = current[k].tree
            trees[i], current[k] = _say(trees[i], current[k], turn, workflow=workflow, merge=settings.merge_distance)
    return current


def _say(tree: Tree, rollout: _Rollout, turn: Turn, *, workflow: Workflow, merge: float) -> tuple[Tree, _Rollout]:
    """The rollout one message on: in a new node, or in that of a sibling nearer than `merge`, which takes its place."""
    tree = replace(tree, sampled=tree.sampled + len(turn.ids))
    decides = partial(decided, rollout.dialogue, workflow=workflow)
    if twin := _twin(tree, rollout.node, turn, decides, distance=merge):
        node, stored = twin
        return tree, replace(rollout, node=node, dialogue=extend(rollout.dialogue, stored, workflow=workflow))
    dialogue = extend(rollout.dialogue, turn, workflow=workflow)
    tree, node = add(tree, rollout.node, turn, ending=dialogue.ending)
    return tree, replace(rollout, node=node, dialogue=dialogue)


def _twin(
    tree: Tree, parent: int, turn: Turn, decides: Callable[[Turn], object], *, distance: float
) -> tuple[int, Turn] | None:
    """The child of `parent` that says nearly the same as `turn`, the nearest if there are several, and its message."""
    near = [
        (_distance(turn.text, other.text), child, other)
        for child in children(tree)[parent]
        if (other := tree.nodes[child].turn) is not None
        and _near(turn.text, other.text, distance)
        and _same_outcome(turn, other)
        and decides(turn) == decides(other)
    ]
    return min(near)[1:] if near else None


def _same_outcome(one: Turn, other: Turn) -> bool:
    """Whether both or neither was cut, and both gave the same answer or neither any."""
    both = one.answer is not None and other.answer is not None
    same_answer = agree(one.answer or "", other.answer or "") if both else one.answer is other.answer
    return same_answer and one.finished == other.finished
