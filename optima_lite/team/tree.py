"""The dialogue tree of one question: grown message by message, rewarded from its leaves.

Nodes stay where they are in the table, so an index names a node for good. A `GrowingTree` keeps beside the table what a
search asks for with every message; from a finished `Tree` all else is derived when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ..records import Ending, Node, Reward, Tree, Turn

ROOT = 0
_PARTS = tuple(part.name for part in fields(Reward))


class GrowingTree:
    """A tree under way. A new message and a new reward cost the same in a small tree and in a large one.

    nodes: the root first, every parent before its children. following: for every node its children, oldest first.
    inner: the root, and the nodes that have a grandchild. expanded, sampled: as in `Tree`.
    """

    def __init__(self, tree: Tree) -> None:
        self.question = tree.question
        self.nodes: list[Node] = []
        self.following: list[list[int]] = []
        self.inner = {ROOT}
        self.expanded, self.sampled = list(tree.expanded), tree.sampled
        for node in tree.nodes:
            self._append(node)

    @property
    def tree(self) -> Tree:
        """The tree as it stands."""
        return Tree(self.question, tuple(self.nodes), tuple(self.expanded), self.sampled)

    def add(self, parent: int, turn: Turn, *, ending: Ending | None = None) -> int:
        """Put one more message after `parent`, and return the new node's index. ending: why the dialogue ends with it.

        Raises ValueError after a message that ended its dialogue.
        """
        if self.nodes[parent].ending is not None:
            raise ValueError(f"node {parent} ended its dialogue; nothing can follow it")
        return self._append(Node(parent, turn, ending=ending))

    def _append(self, node: Node) -> int:
        index = len(self.nodes)
        if node.parent is not None:
            self.following[node.parent].append(index)
            above = self.nodes[node.parent].parent
            if above is not None:
                self.inner.add(above)
        self.nodes.append(node)
        self.following.append([])
        return index

    def back_up(self, node: int, reward: Reward, of_turns: Sequence[Reward] | None = None) -> None:
        """A rollout has ended at `node`: one more visit and a new running mean there and above.

        of_turns: the reward of each of the rollout's turns; None where all get the dialogue's, as the root does.
        """
        passed = path(self, node)
        for one, gained in zip(passed, (reward, *(of_turns or [reward] * (len(passed) - 1))), strict=True):
            self.nodes[one] = _visited(self.nodes[one], gained)


def _visited(node: Node, reward: Reward) -> Node:
    visits, old = node.visits + 1, node.reward or reward
    means = {name: (mean := getattr(old, name)) + (getattr(reward, name) - mean) / visits for name in _PARTS}
    return replace(node, visits=visits, reward=Reward(**means))


def path(tree: Tree | GrowingTree, node: int) -> list[int]:
    """The nodes from the root to `node`, both included."""
    backwards = []
    current: int | None = node
    while current is not None:
        backwards.append(current)
        current = tree.nodes[current].parent
    return backwards[::-1]


def turns(tree: Tree | GrowingTree, node: int) -> tuple[Turn, ...]:
    """What has been said up to `node`, its own message included."""
    return tuple(turn for passed in path(tree, node) if (turn := tree.nodes[passed].turn) is not None)


def children(tree: Tree) -> list[list[int]]:
    """For every node the nodes that follow it, oldest first."""
    following: list[list[int]] = [[] for _ in tree.nodes]
    for index, node in enumerate(tree.nodes):
        if node.parent is not None:
            following[node.parent].append(index)
    return following


def best(tree: Tree, nodes: Sequence[int]) -> int:
    """Of some nodes the one with the highest value, the first on ties. Raises ValueError for none."""
    return max(nodes, key=lambda node: tree.nodes[node].value)


def worst(tree: Tree, nodes: Sequence[int]) -> int:
    """Of some nodes the one with the lowest value, the first on ties. Raises ValueError for none."""
    return min(nodes, key=lambda node: tree.nodes[node].value)
