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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from ..records import Dialogue, Metric, Question, Reward, Tree, Turn
from ..settings.sections import SearchSettings
from ..settings.workflow import Workflow
from ..tasks.answers import agree
from .dialogue import decided, extend
from .tree import ROOT, GrowingTree, turns

Speak = Callable[[Sequence[tuple[Question, Dialogue]]], Sequence[Turn]]
"""Unfinished dialogues in, the next turn of each out, in the same order. A rollout's number is unique in its tree."""

Score = Callable[[Sequence[tuple[Question, Dialogue]]], Sequence[Reward]]
"""Finished dialogues in, those of a question side by side; their rewards out, in the same order.

It decides what a dialogue without agreement is worth; its answer scores 0 in the official code's search.
"""


Credit = Callable[[Question, Dialogue, Reward], Sequence[Reward] | None]
"""A finished dialogue and its reward in, the reward of each of its turns out; None where all get the dialogue's."""


@dataclass(frozen=True, slots=True)
class _Rollout:
    """A dialogue being rolled out. node: where in its tree it stands."""

    tree: GrowingTree
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
    credit: Credit = lambda question, dialogue, reward: None,
) -> list[Tree]:
    """A tree for every question, in their order; each root has `searches` * `rollouts` visits.

    seed: with the question's id it decides which nodes are chosen. credit: what a rollout's messages get of its reward.
    """
    trees = [GrowingTree(Tree(question)) for question in questions]
    draws = [random.Random("\x1f".join(map(str, (*seed, question.id)))) for question in questions]
    choosers = [Chooser(tree, settings=settings, draw=draw) for tree, draw in zip(trees, draws, strict=True)]
    for step in range(settings.searches):
        rollouts = []
        for tree, chooser in zip(trees, choosers, strict=True):
            node = chooser.choose()
            tree.expanded.append(node)
            for number in range(step * settings.rollouts, (step + 1) * settings.rollouts):
                rollouts.append(_Rollout(tree, node, Dialogue(tree.question.id, number, turns(tree, node))))
        ended = _roll_out(rollouts, workflow=workflow, speak=speak, merge=settings.merge_distance)
        rewards = score([(rollout.tree.question, rollout.dialogue) for rollout in ended])
        for rollout, reward in zip(ended, rewards, strict=True):
            own = credit(rollout.tree.question, rollout.dialogue, reward)
            rollout.tree.back_up(rollout.node, reward, own)
    return [tree.tree for tree in trees]


class Chooser:
    """Chooses the nodes of a growing tree that the next dialogues start at.

    Can be chosen: the root, and nodes that something follows beyond their own children; of these none whose text is
    near that of a node chosen before (so none twice); of these the `top_k` of highest value. One of them is drawn by
    the softmax of their values. When none is left it is the root again.
    """

    def __init__(self, tree: GrowingTree, *, settings: SearchSettings, draw: random.Random) -> None:
        self._tree, self._settings, self._draw = tree, settings, draw
        self._near: set[int] = set()  # nodes near one that was chosen: for good, since texts do not change
        self._apart: dict[int, int] = {}  # of other nodes, how many of the chosen ones they were compared with

    def choose(self) -> int:
        """The next node; to be put at the end of the tree's `expanded`."""
        nodes, settings = self._tree.nodes, self._settings
        top = list(islice(self._fresh(), settings.top_k))
        if not top:
            return ROOT
        highest = nodes[top[0]].value
        weights = [math.exp((nodes[node].value - highest) / settings.temperature) for node in top]
        return self._draw.choices(top, weights)[0]

    def _fresh(self) -> Iterator[int]:
        """The nodes that can be chosen, of highest value first; compared only as far as they are asked for."""
        nodes = self._tree.nodes
        for node in sorted(self._tree.inner - self._near, key=lambda node: (-nodes[node].value, node)):
            if self._is_near(node):
                self._near.add(node)
            else:
                yield node

    def _is_near(self, node: int) -> bool:
        nodes, chosen = self._tree.nodes, self._tree.expanded
        begin = self._apart.get(node, 0)
        self._apart[node] = len(chosen)
        return any(near(nodes[node].text, nodes[k].text, self._settings.expand_distance) for k in chosen[begin:])


def near(one: str, other: str, distance: float) -> bool:
    """Whether two texts are equal, or less than `distance` apart: edits over the length of the longer one."""
    return one == other or Levenshtein.normalized_distance(one, other, score_cutoff=distance) < distance


def _roll_out(rollouts: Sequence[_Rollout], *, workflow: Workflow, speak: Speak, merge: float) -> list[_Rollout]:
    """The rollouts at their ends; what they say is put into their trees."""
    current = list(rollouts)
    while active := [k for k, rollout in enumerate(current) if rollout.dialogue.ending is None]:
        said = speak([(current[k].tree.question, current[k].dialogue) for k in active])
        for k, turn in zip(active, said, strict=True):
            current[k] = _say(current[k], turn, workflow=workflow, merge=merge)
    return current


def _say(rollout: _Rollout, turn: Turn, *, workflow: Workflow, merge: float) -> _Rollout:
    """The rollout one message on: in a new node, or in that of a sibling nearer than `merge`, which takes its place."""
    tree = rollout.tree
    tree.sampled += len(turn.ids)
    decides = partial(decided, rollout.dialogue, workflow=workflow)
    if twin := _twin(tree, rollout.node, turn, decides, distance=merge, metric=workflow.metric):
        node, stored = twin
        return replace(rollout, node=node, dialogue=extend(rollout.dialogue, stored, workflow=workflow))
    dialogue = extend(rollout.dialogue, turn, workflow=workflow)
    node = tree.add(rollout.node, turn, ending=dialogue.ending)
    return replace(rollout, node=node, dialogue=dialogue)


def _twin(
    tree: GrowingTree, parent: int, turn: Turn, decides: Callable[[Turn], object], *, distance: float, metric: Metric
) -> tuple[int, Turn] | None:
    """The child of `parent` that says nearly the same as `turn`, the nearest if there are several, and its message."""
    siblings = [(child, other) for child in tree.following[parent] if (other := tree.nodes[child].turn) is not None]
    found = process.extract(
        turn.text,
        [other.text for _, other in siblings],
        scorer=Levenshtein.normalized_distance,
        score_cutoff=distance,
        limit=None,
    )
    near = [
        (apart, *siblings[place])
        for _, apart, place in found
        if (apart < distance or apart == 0)
        and _same_outcome(turn, siblings[place][1], metric)
        and decides(turn) == decides(siblings[place][1])
    ]
    return min(near)[1:] if near else None


def _same_outcome(one: Turn, other: Turn, metric: Metric) -> bool:
    """Whether both or neither was cut, and both gave the same answer, as the task compares answers, or neither any."""
    both = one.answer is not None and other.answer is not None
    same_answer = agree(one.answer or "", other.answer or "", metric=metric) if both else one.answer is other.answer
    return same_answer and one.finished == other.finished
