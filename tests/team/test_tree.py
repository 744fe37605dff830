"""The dialogue tree: what is added stays, means and visits add up, extremes are never stale."""

from __future__ import annotations

import json
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import Ending, Question, Reward, Tree, Turn, from_json, to_json
from optima_lite.team import tree as trees
from optima_lite.team.tree import ROOT, GrowingTree, best, children, path, turns, worst
from scripted_tree import add, back_up

QUESTION = Question("q", "?", ("a",), ((), ()))
Rollout = tuple[tuple[str, ...], Reward]


def reward(total: float) -> Reward:
    return Reward(total, task=total / 2, token_share=1 - total, readability=3 * total, worst_loss=2.0)


def insert(tree: Tree, texts: tuple[str, ...], gained: Reward) -> Tree:
    """A rollout of one letter a turn; equal letters after the same letters are the same node."""
    node = ROOT
    for depth, text in enumerate(texts):
        same = [child for child in children(tree)[node] if tree.nodes[child].text == text]
        tree, node = (tree, same[0]) if same else add(tree, node, Turn(depth % 2, (ord(text),), text))
    return back_up(tree, node, gained)


def grown(rollouts: list[Rollout]) -> Tree:
    tree = Tree(QUESTION)
    for texts, gained in rollouts:
        tree = insert(tree, texts, gained)
    return tree


def by_text(tree: Tree) -> dict[tuple[str, ...], tuple[int, Reward | None]]:
    return {
        tuple(turn.text for turn in turns(tree, i)): (node.visits, node.reward) for i, node in enumerate(tree.nodes)
    }


words = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple)
rollouts_ = st.lists(st.tuples(words, st.floats(-2, 2).map(reward)), min_size=1, max_size=24)


def test_a_tree_by_hand() -> None:
    tree, first = add(Tree(QUESTION), ROOT, Turn(0, (1, 2), "hello"))
    tree, second = add(tree, first, Turn(1, (3,), "bye", "x"), ending=Ending.AGREED)
    tree, third = add(tree, first, Turn(1, (4,), "no", finished=False), ending=Ending.TRUNCATED)
    assert (first, second, third) == (1, 2, 3)
    assert path(tree, third) == [0, 1, 3]
    assert [turn.text for turn in turns(tree, second)] == ["hello", "bye"]
    assert children(tree) == [[1], [2, 3], [], []]

    tree = back_up(back_up(tree, second, reward(1.0)), third, reward(-0.5))
    assert [(node.visits, node.value) for node in tree.nodes] == [(2, 0.25), (2, 0.25), (1, 1.0), (1, -0.5)]
    assert tree.nodes[first].reward == Reward(0.25, 0.125, 0.75, 0.75, 2.0), "every part is backed up"
    assert (best(tree, [2, 3]), worst(tree, [2, 3])) == (2, 3)


def test_each_message_may_get_its_own_part_of_a_reward() -> None:
    growing = GrowingTree(Tree(QUESTION))
    first = growing.add(ROOT, Turn(0, (1,), "a"))
    second = growing.add(first, Turn(1, (2,), "b"))
    growing.back_up(second, reward(1.0), [reward(0.25), reward(0.75)])
    growing.back_up(second, reward(0.0))
    assert [(node.visits, node.value) for node in growing.tree.nodes] == [(2, 0.5), (2, 0.125), (2, 0.375)]
    with pytest.raises(ValueError, match="shorter"):
        growing.back_up(second, reward(1.0), [reward(0.25)])


def test_a_tree_that_was_taken_stays_as_it_was_when_it_grows_on() -> None:
    growing = GrowingTree(Tree(QUESTION))
    node = growing.add(ROOT, Turn(0, (1,), "a"))
    before = growing.tree
    growing.back_up(growing.add(node, Turn(1, (2,), "b")), reward(1.0))
    assert [(one.visits, one.reward, one.value) for one in before.nodes] == [(0, None, 0.0)] * 2
    assert [one.visits for one in growing.tree.nodes] == [1, 1, 1]


@given(rollouts_)
def test_what_is_kept_while_growing_is_what_the_tree_says(rollouts: list[Rollout]) -> None:
    tree = grown(rollouts)
    growing = GrowingTree(tree)
    assert growing.tree == tree
    assert growing.following == children(tree)
    grandparents = {path(tree, node)[-3] for node in range(len(tree.nodes)) if len(path(tree, node)) > 2}
    assert growing.inner == {ROOT} | grandparents


def test_nothing_follows_an_ending() -> None:
    tree, node = add(Tree(QUESTION), ROOT, Turn(0, (1,), "a"), ending=Ending.TRUNCATED)
    with pytest.raises(ValueError, match="node 1 ended its dialogue"):
        add(tree, node, Turn(1, (2,), "b"))


def test_a_tree_goes_through_json() -> None:
    tree, node = add(Tree(QUESTION), ROOT, Turn(0, (1,), "a"), ending=Ending.MAX_TURNS)
    tree = back_up(tree, node, reward(0.3))
    assert from_json(Tree, json.loads(json.dumps(to_json(tree)))) == tree


@given(rollouts_)
def test_values_are_the_means_of_the_rewards_backed_up_below(rollouts: list[Rollout]) -> None:
    for texts, (visits, mean) in by_text(grown(rollouts)).items():
        below = [gained for said, gained in rollouts if said[: len(texts)] == texts]
        assert visits == len(below)
        assert mean is not None
        for part in ("total", "task", "token_share", "readability", "worst_loss"):
            assert getattr(mean, part) == pytest.approx(fmean(getattr(one, part) for one in below), abs=1e-9)


@given(rollouts_)
def test_visits_add_up(rollouts: list[Rollout]) -> None:
    tree = grown(rollouts)
    assert tree.nodes[ROOT].visits == len(rollouts)
    for index, nexts in enumerate(children(tree)):
        ended = sum(tree_path == tuple(t.text for t in turns(tree, index)) for tree_path, _ in rollouts)
        assert tree.nodes[index].visits == ended + sum(tree.nodes[child].visits for child in nexts)


@given(rollouts_, st.randoms(use_true_random=False))
def test_the_order_of_the_rollouts_does_not_matter(rollouts: list[Rollout], draw: object) -> None:
    shuffled = [*rollouts]
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = by_text(grown(rollouts)), by_text(grown(shuffled))
    assert one.keys() == other.keys()
    for texts, (visits, mean) in one.items():
        assert other[texts][0] == visits
        assert mean and other[texts][1]
        assert other[texts][1].total == pytest.approx(mean.total, abs=1e-9)


@given(rollouts_)
def test_extremes_are_those_of_the_means_as_they_are_now(rollouts: list[Rollout]) -> None:
    tree = Tree(QUESTION)
    for texts, gained in rollouts:
        tree = insert(tree, texts, gained)
        for nexts in filter(None, children(tree)):
            values = [tree.nodes[child].value for child in nexts]
            assert tree.nodes[best(tree, nexts)].value == max(values)
            assert tree.nodes[worst(tree, nexts)].value == min(values)


def test_ties_go_to_the_first() -> None:
    tree = grown([(("a",), reward(0.5)), (("b",), reward(0.5))])
    assert (best(tree, [1, 2]), worst(tree, [1, 2])) == (1, 1)


@given(rollouts_)
def test_parents_come_before_their_children(rollouts: list[Rollout]) -> None:
    tree = grown(rollouts)
    assert tree.nodes[ROOT].parent is None
    assert all(node.parent is not None and node.parent < i for i, node in enumerate(tree.nodes) if i != trees.ROOT)
