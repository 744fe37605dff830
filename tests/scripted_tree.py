"""A scripted pair of speakers and their scorer, for trees without a model; what the tests of search share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from optima_lite.learn.reward import rank
from optima_lite.records import Dialogue, Ending, Question, Reward, Tree, Turn
from optima_lite.settings.sections import RewardSettings, SearchSettings
from optima_lite.team.search import search
from optima_lite.team.talks import exchange
from optima_lite.team.tree import GrowingTree

PAIR = exchange(("Ann", "Ben"), 6)
CUT = "And then, and then, and then"
LINES = (
    ("Tess is the mother of Mira.", None),
    ("Tess is the mother of Mira!", None),
    ("I know that Tess lives in Portham, so what else do you know?", None),
    ("mother?", None),
    ("So: <A>Portham</A>", "Portham"),
    ("So: <A>Glenby</A>", "Glenby"),
    (CUT, None),
)


def question(name: str) -> Question:
    text = "What is the home of the mother of Mira?"
    return Question(name, text, ("Portham",), (("Mira mother Tess",), ("Tess home Portham",)))


def said(text: str, *, speaker: int, answer: str | None = None) -> Turn:
    """A message whose ids are one a word, and 0 at the turn's end unless it is the one that is cut."""
    words = tuple(sum(map(ord, word)) for word in text.split())
    return Turn(speaker, words if text == CUT else (*words, 0), text, answer, finished=text != CUT)


def speak(drafts: Sequence[tuple[Question, Dialogue]]) -> list[Turn]:
    """A line drawn from the question, the rollout and the turn, as the generator draws its tokens."""
    turns = []
    for asked, dialogue in drafts:
        draw = random.Random(f"{asked.id} {dialogue.rollout} {len(dialogue.turns)}")
        ((text, answer),) = draw.choices(LINES, [4, 4, 4, 4, 6, 3, 1])
        turns.append(said(text, speaker=len(dialogue.turns) % 2, answer=answer))
    return turns


def score(finished: Sequence[tuple[Question, Dialogue]]) -> list[Reward]:
    """Right and agreed is 1; 40 tokens are a share of 1; the loss grows with the longest message."""
    rewards = []
    for asked, dialogue in finished:
        right = dialogue.ending is Ending.AGREED and dialogue.answer in asked.answers
        loss = max(len(turn.text) for turn in dialogue.turns) / 20
        rewards += rank([dialogue], scores=[float(right)], losses=[loss], settings=RewardSettings(), normaliser=40)
    return rewards


def add(tree: Tree, parent: int, turn: Turn, *, ending: Ending | None = None) -> tuple[Tree, int]:
    """The tree with one more message after `parent`, and the new node's index."""
    growing = GrowingTree(tree)
    node = growing.add(parent, turn, ending=ending)
    return growing.tree, node


def back_up(tree: Tree, node: int, reward: Reward) -> Tree:
    """The tree after a rollout that ended at `node`."""
    growing = GrowingTree(tree)
    growing.back_up(node, reward)
    return growing.tree


def tree(name: str = "q", **settings: float) -> Tree:
    """The tree that the scripted pair grows on a question."""
    chosen = SearchSettings.model_validate(settings)
    (grown,) = search([question(name)], workflow=PAIR, speak=speak, score=score, settings=chosen, seed=(0, 1))
    return grown
