"""Preference pairs: which two messages of a tree teach something, and how many of them are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optima_lite.learn.selection import pairs
from optima_lite.records import PreferencePair, Reward, Tree, from_json, to_json
from optima_lite.settings.sections import SelectionSettings
from optima_lite.team.tree import ROOT, children, turns
from scripted_tree import CUT, add, back_up, question, said, tree


def planted(name: str, *siblings: tuple[str, float], below: Sequence[str] = (), visits: int = 1) -> Tree:
    """A tree with siblings of the texts and values given, after a chain of messages; texts with `=` are answers."""
    grown, node = Tree(question(name)), ROOT
    for depth, text in enumerate(below):
        grown, node = add(grown, node, said(text, speaker=depth % 2))
    for text, value in siblings:
        answer = text if "=" in text else None
        grown, child = add(grown, node, said(text, speaker=len(below) % 2, answer=answer))
        for _ in range(visits):
            grown = back_up(grown, child, Reward(value, 0, 0, 0, 0))
    return grown


def found(*grown: Tree, **given: object) -> list[tuple[str, str, str]]:
    """Question, chosen and rejected text of each pair; all are kept unless told otherwise."""
    chosen = SelectionSettings.model_validate({"pair_keep_fraction": 1.0, **given})
    return [(pair.question.id, pair.chosen.text, pair.rejected.text) for pair in pairs(grown, settings=chosen)]


FOUR = (("a", 0.9), ("b", 0.6), ("c", -0.2), ("d", 0.1))


def test_the_best_child_against_the_worst() -> None:
    assert found(planted("q", *FOUR)) == [("q", "a", "c")]


def test_the_papers_pairing_takes_every_two_children_that_are_apart() -> None:
    every = found(planted("q", *FOUR), pairing="paper")
    assert every == [("q", "a", "b"), ("q", "a", "c"), ("q", "a", "d"), ("q", "b", "c"), ("q", "b", "d")]
    assert found(planted("q", *FOUR), pairing="paper", min_gap=0.5) == [
        ("q", "a", "c"),
        ("q", "a", "d"),
        ("q", "b", "c"),
    ]


def test_both_thresholds_are_strict() -> None:
    close = planted("q", ("a", 0.75), ("b", 0.5))
    assert found(close, pair_min_reward=0.5, min_gap=0.125) == [("q", "a", "b")]
    assert found(close, pair_min_reward=0.75, min_gap=0.125) == []
    assert found(close, pair_min_reward=0.5, min_gap=0.25) == []


def test_an_only_child_is_no_pair() -> None:
    assert found(planted("q", ("a", 0.9)), min_gap=0.0) == []
    assert found(Tree(question("q"))) == []


def test_equal_children_are_no_pair_even_without_a_gap() -> None:
    same = planted("q", ("a", 0.9), ("b", 0.9))
    assert found(same, min_gap=0.0) == found(same, min_gap=0.0, pairing="paper") == []


def test_a_pair_carries_all_that_training_and_reports_need() -> None:
    grown = planted("q", ("x=1", 0.9), ("y", 0.2), below=["m0", "m1"], visits=2)
    (pair,) = pairs([grown], settings=SelectionSettings())
    assert [turn.text for turn in pair.prefix] == ["m0", "m1"]
    assert (pair.speaker, pair.depth, pair.chosen.text, pair.rejected.text) == (0, 2, "x=1", "y")
    assert (pair.chosen_value, pair.rejected_value, pair.chosen_visits, pair.rejected_visits) == (0.9, 0.2, 2, 2)
    assert pair.gap == pytest.approx(0.7)
    assert pair.question == question("q")
    assert from_json(PreferencePair, json.loads(json.dumps(to_json(pair)))) == pair


def test_every_node_gives_its_pair() -> None:
    grown = planted("q", ("a", 0.9), ("b", 0.0))
    for text, value in (("c", 0.8), ("d", -0.5)):
        grown, node = add(grown, 1, said(text, speaker=1))
        grown = back_up(grown, node, Reward(value, 0, 0, 0, 0))
    assert found(grown, pair_min_reward=0.5) == [("q", "c", "d")], "the mean of a is only 0.4 now"
    assert found(grown, pair_min_reward=0.3) == [("q", "c", "d"), ("q", "a", "b")], "best first"


def test_a_message_that_was_cut_is_never_preferred() -> None:
    assert found(planted("q", (CUT, 0.9), ("b", 0.6), ("c", 0.0))) == [("q", "b", "c")]
    assert found(planted("q", ("a", 0.9), (CUT, 0.1), ("c", 0.2))) == [("q", "a", CUT)]
    assert found(planted("q", (CUT, 0.9))) == []
    cut_best = [chosen for _, chosen, _ in found(planted("q", (CUT, 0.9), *FOUR), pairing="paper")]
    assert CUT not in cut_best


def test_messages_that_were_seldom_tried_are_left_out() -> None:
    grown = planted("q", ("a", 0.9), ("b", 0.0))
    for _ in range(2):
        grown = back_up(back_up(grown, 1, Reward(0.9, 0, 0, 0, 0)), 2, Reward(0.0, 0, 0, 0, 0))
    grown, lucky = add(grown, ROOT, said("lucky", speaker=0))
    grown = back_up(grown, lucky, Reward(1.5, 0, 0, 0, 0))
    assert found(grown) == [("q", "lucky", "b")]
    assert found(grown, min_visits=3) == [("q", "a", "b")]
    assert found(grown, min_visits=4) == []


def test_lucky_guesses_can_be_left_out() -> None:
    first = planted("first", ("x=1", 0.9), ("b", 0.0))
    second = planted("second", ("x=1", 0.9), ("b", 0.0), below=["m0"])
    talk = planted("talk", ("more", 0.9), ("x=2", 0.0))
    assert len(found(first, second, talk)) == 3
    assert found(first, second, talk, skip_early_answers=True) == [("second", "x=1", "b"), ("talk", "more", "x=2")]


# --- The share that is kept -----------------------------------------------------------------------


def ladder(name: str, *values: float) -> Tree:
    """A chain of messages; at each step one sibling with a value of its own and one of -9, so as many pairs as values.

    The chain's own values lie between, so they are in no pair.
    """
    grown, node = Tree(question(name)), ROOT
    for value in values:
        for text, worth in ((f"best {value}", value), ("worst", -9.0)):
            grown, child = add(grown, node, said(text, speaker=0))
            grown = back_up(grown, child, Reward(worth, 0, 0, 0, 0))
        grown, node = add(grown, node, said("on", speaker=0))
        grown = back_up(grown, node, Reward(-1.0, 0, 0, 0, 0))
    return grown


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
@pytest.mark.parametrize("scope", ["tree", "global"])
def test_the_share_is_rounded_down_but_one_is_kept(count: int, kept: int, scope: str) -> None:
    one = ladder("q", *(float(value) for value in range(1, count + 1)))
    best = [f"best {float(value)}" for value in range(count, 0, -1)]
    assert [chosen for _, chosen, _ in found(one, keep_scope=scope)] == best
    assert [chosen for _, chosen, _ in found(one, keep_scope=scope, pair_keep_fraction=0.5)] == best[:kept]


def test_the_share_is_of_all_pairs_or_of_each_trees() -> None:
    rich, poor = ladder("rich", 5.0, 4.0, 3.0, 2.0), ladder("poor", 1.0, 1.5)
    each = found(poor, rich, pair_keep_fraction=0.5, keep_scope="tree")
    assert [(name, chosen) for name, chosen, _ in each] == [
        ("poor", "best 1.5"),
        ("rich", "best 5.0"),
        ("rich", "best 4.0"),
    ]
    together = found(poor, rich, pair_keep_fraction=0.5)
    assert [(name, chosen) for name, chosen, _ in together] == [
        ("rich", "best 5.0"),
        ("rich", "best 4.0"),
        ("rich", "best 3.0"),
    ]


# --- What holds for any trees ---------------------------------------------------------------------


def every_two(grown: Tree) -> Iterator[tuple[int, int]]:
    for following in children(grown):
        yield from combinations(following, 2)


names = st.lists(st.integers(0, 10**6).map(str), min_size=1, max_size=3, unique=True)
rules = st.fixed_dictionaries(
    {
        "pairing": st.sampled_from(["official", "paper"]),
        "pair_min_reward": st.floats(-1, 1.5),
        "min_gap": st.floats(0, 1),
        "pair_keep_fraction": st.floats(0.01, 1),
        "keep_scope": st.sampled_from(["global", "tree"]),
        "min_visits": st.integers(1, 3),
        "skip_early_answers": st.booleans(),
    }
)


@settings(max_examples=40)
@given(names, rules)
def test_a_pair_shares_its_prefix_and_obeys_both_thresholds(asked: list[str], given: dict[str, object]) -> None:
    chosen, forest = SelectionSettings.model_validate(given), {name: tree(name) for name in asked}
    kept = pairs([*forest.values()], settings=chosen)
    for pair in kept:
        grown = forest[pair.question.id]
        nodes = {turns(grown, i): i for i in range(len(grown.nodes))}
        better, worse = nodes[(*pair.prefix, pair.chosen)], nodes[(*pair.prefix, pair.rejected)]
        assert grown.nodes[better].parent == grown.nodes[worse].parent == nodes[pair.prefix]
        assert grown.nodes[better].reward == pair.chosen_reward and grown.nodes[worse].reward == pair.rejected_reward
        assert pair.chosen.speaker == pair.rejected.speaker == pair.speaker
        assert pair.chosen.ids != pair.rejected.ids
        assert pair.chosen_value > chosen.pair_min_reward
        assert pair.chosen_value - pair.rejected_value > chosen.min_gap
        assert min(pair.chosen_visits, pair.rejected_visits) >= chosen.min_visits
        assert pair.chosen.finished
        assert not (chosen.skip_early_answers and pair.chosen.answer and not pair.prefix)
    if chosen.keep_scope == "global":
        assert [pair.chosen_value for pair in kept] == sorted((pair.chosen_value for pair in kept), reverse=True)


@settings(max_examples=40)
@given(names, rules)
def test_no_pair_that_obeys_is_lost_and_the_best_are_kept(asked: list[str], given: dict[str, object]) -> None:
    chosen, forest = SelectionSettings.model_validate(given), [tree(name) for name in asked]
    chosen = chosen.model_copy(update={"pairing": "paper", "keep_scope": "global"})
    every = pairs(forest, settings=chosen.model_copy(update={"pair_keep_fraction": 1.0}))
    count = 0
    for grown in forest:
        for one, other in every_two(grown):
            better, worse = sorted((grown.nodes[one], grown.nodes[other]), key=lambda node: -node.value)
            early = bool(better.turn and better.turn.answer) and better.parent == ROOT
            count += (
                better.value > chosen.pair_min_reward
                and better.value - worse.value > chosen.min_gap
                and min(better.visits, worse.visits) >= chosen.min_visits
                and better.text != CUT
                and not (early and chosen.skip_early_answers)
            )
    assert len(every) == count
    assert (
        pairs(forest, settings=chosen)
        == sorted(every, key=lambda pair: -pair.chosen_value)[: max(1, int(chosen.pair_keep_fraction * count))]
    )


def test_a_stale_maximum_is_no_longer_the_best() -> None:
    """The case in which the official code still prefers `a`, by a value that it no longer has."""
    grown = planted("q", ("a", 1.5), ("b", 0.9), ("c", 0.0))
    assert found(grown) == [("q", "a", "c")]
    assert found(back_up(grown, 1, Reward(-1.0, 0, 0, 0, 0))) == [("q", "b", "c")]
