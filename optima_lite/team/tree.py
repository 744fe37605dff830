"""The dialogue tree of one question: grown message by message, rewarded from its leaves. Pure functions on a `Tree`.

Nodes stay where they are in the table, so an index names a node for good. What can be derived (children, the best and
the worst of them) is derived when asked for, so it cannot go stale when means move. The changing functions return a
new tree; it shares all nodes but the changed ones with the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ..records import Ending, Node, Reward, Tree, Turn

ROOT = 0


def add(tree: Tree, parent: int, turn: Turn, *, ending: Ending | None = None) -> tuple[Tree, int]:
    """The tree with one more message after `parent`, and the new node's index. ending: why the dialogue ends with it.

    Raises ValueError after a message that ended its dialogue.
    """
    if tree.nodes[parent].ending is not None:
        raise ValueError(f"node {parent} ended its dialogue; nothing can follow it")
    return replace(tree, nodes=(*tree.nodes, Node(parent, turn, ending=ending))), len(tree.nodes)


def back_up(tree: Tree, node: int, reward: Reward) -> Tree:
    """The tree after a rollout that ended at `node`: one more visit and a new running mean there and above."""
    nodes = list(tree.nodes)
    for passed in path(tree, node):
        nodes[passed] = _visited(nodes[passed], reward)
    return replace(tree, nodes=tuple(nodes))


def _visited(node: Node, reward: Reward) -> Node:
    visits, old = node.visits + 1, node.reward or reward
    means = {
        part.name: getattr(old, part.name) + (getattr(reward, part.name) - getattr(old, part.name)) / visits
        for part in fields(Reward)
    }
    return replace(node, visits=visits, reward=Reward(**means))


def path(tree: Tree, node: int) -> list[int]:
    """The nodes from the root to `node`, both included."""
    backwards = []
    current: int | None = node
    while current is not None:
        backwards.append(current)
        current = tree.nodes[current].parent
    return backwards[::-1]


def turns(tree: Tree, node: int) -> tuple[Turn, ...]:
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
