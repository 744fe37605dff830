"""Tree search with a scripted pair: a whole tree, and what must hold for any.

`python tests/test_search.py --write-golden` writes the golden tree anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from optima_lite.records import Dialogue, Ending, Metric, Question, Reward, Tree, Turn, from_json, to_json
from optima_lite.settings.sections import SearchSettings
from optima_lite.team import search as searching
from optima_lite.team.search import Chooser, search
from optima_lite.team.tree import ROOT, GrowingTree, children, path, turns
from scripted_tree import CUT, PAIR, add, back_up, question, said, score, speak, tree

GOLDEN = Path(__file__).parents[1] / "golden" / "search_tree.jsonl"
DEFAULTS = SearchSettings()


def golden_lines() -> str:
    """The tree with the default settings, a node a line."""
    grown = tree("golden")
    head = {"question": to_json(grown.question), "expanded": to_json(grown.expanded), "sampled": grown.sampled}
    return "".join(json.dumps(line) + "\n" for line in [head, *to_json(grown.nodes)])


def test_a_whole_tree() -> None:
    head, *nodes = map(json.loads, GOLDEN.read_text(encoding="utf-8").splitlines())
    golden = from_json(Tree, {**head, "nodes": nodes})
    grown = tree("golden")
    assert (grown.expanded, grown.sampled) == (golden.expanded, golden.sampled)
    for index, (node, wanted) in enumerate(zip(grown.nodes, golden.nodes, strict=True)):
        assert node == wanted, f"node {index}"
    assert grown.question == golden.question


# --- What holds for any tree ----------------------------------------------------------------------

names = st.integers(0, 10**6).map(str)
sizes = st.fixed_dictionaries(
    {
        "searches": st.integers(1, 8),
        "rollouts": st.integers(1, 4),
        "top_k": st.integers(1, 10),
        "temperature": st.floats(0.05, 5),
        "expand_distance": st.floats(0, 1),
        "merge_distance": st.floats(0, 1),
    }
)


class Listener:
    """The scripted pair, and all that it was asked."""

    def __init__(self) -> None:
        self.turns: list[list[tuple[str, int, int]]] = []
        self.tokens = 0
        self.dialogues: list[list[tuple[Question, Dialogue]]] = []
        self.rewards: list[tuple[Dialogue, Reward]] = []

    def speak(self, drafts: Sequence[tuple[Question, Dialogue]]) -> list[Turn]:
        assert all(asked.id == dialogue.question and dialogue.ending is None for asked, dialogue in drafts)
        self.turns.append([(asked.id, dialogue.rollout, len(dialogue.turns)) for asked, dialogue in drafts])
        said = speak(drafts)
        self.tokens += sum(len(turn.ids) for turn in said)
        return said

    def score(self, finished: Sequence[tuple[Question, Dialogue]]) -> list[Reward]:
        self.dialogues.append([*finished])
        rewards = score(finished)
        self.rewards += [(dialogue, reward) for (_, dialogue), reward in zip(finished, rewards, strict=True)]
        return rewards


def listened(*asked: str, **given: float) -> tuple[list[Tree], Listener]:
    listener, chosen = Listener(), SearchSettings.model_validate(given)
    asking = [question(name) for name in asked]
    grown = search(asking, workflow=PAIR, speak=listener.speak, score=listener.score, settings=chosen, seed=("seed", 0))
    return grown, listener


def test_the_default_budget_is_24_visits_at_the_root() -> None:
    grown, listener = listened("a", "b")
    assert [one.nodes[ROOT].visits for one in grown] == [24, 24]
    assert [len(finished) for finished in listener.dialogues] == [6] * 8, "all trees' rollouts are scored together"


@given(names, sizes)
def test_the_budget_is_spent_exactly_and_values_are_means(name: str, given: dict[str, float]) -> None:
    (grown,), listener = listened(name, **given)
    assert grown.nodes[ROOT].visits == given["searches"] * given["rollouts"] == len(listener.rewards)
    assert len(grown.expanded) == len(listener.dialogues) == given["searches"]
    assert grown.sampled == listener.tokens, "what merged was sampled all the same"
    for index, node in enumerate(grown.nodes):
        before = turns(grown, index)
        below = [reward for dialogue, reward in listener.rewards if dialogue.turns[: len(before)] == before]
        assert node.visits == len(below)
        assert node.reward is not None
        assert node.value == pytest.approx(fmean(reward.total for reward in below), abs=1e-9)
        assert node.reward.token_share == pytest.approx(fmean(reward.token_share for reward in below), abs=1e-9)


@given(names, sizes)
def test_a_message_is_worth_the_mean_of_its_own_credits(name: str, given: dict[str, float]) -> None:
    """The tree's dialogues stay as they are asked for; only what the messages under the root are worth differs."""
    told: list[tuple[Dialogue, list[Reward]]] = []

    def credit(asked: Question, dialogue: Dialogue, reward: Reward) -> list[Reward]:
        own = [replace(reward, total=len(turn.text) * (k + 1) / 7) for k, turn in enumerate(dialogue.turns)]
        told.append((dialogue, own))
        return own

    chosen = SearchSettings.model_validate(given)
    (grown,) = search(
        [question(name)], workflow=PAIR, speak=speak, score=score, settings=chosen, seed=("seed", 0), credit=credit
    )
    assert len(told) == grown.nodes[ROOT].visits
    for index, node in enumerate(grown.nodes[1:], start=1):
        before = turns(grown, index)
        below = [own[len(before) - 1] for dialogue, own in told if dialogue.turns[: len(before)] == before]
        assert node.visits == len(below)
        assert node.value == pytest.approx(fmean(one.total for one in below), abs=1e-9)


@given(names, sizes)
def test_every_dialogue_is_a_path_and_every_leaf_an_ending(name: str, given: dict[str, float]) -> None:
    (grown,), listener = listened(name, **given)
    leaves = {turns(grown, i): grown.nodes[i] for i, nexts in enumerate(children(grown)) if not nexts}
    for dialogue, _ in listener.rewards:
        assert leaves[dialogue.turns].ending is dialogue.ending is not None
    assert leaves.keys() == {dialogue.turns for dialogue, _ in listener.rewards}
    for before, leaf in leaves.items():
        assert len(before) <= PAIR.max_steps
        assert (leaf.ending is Ending.TRUNCATED) == (before[-1].text == CUT)
        assert [turn.speaker for turn in before] == [k % 2 for k in range(len(before))]


@given(names, sizes)
def test_siblings_are_apart_and_no_node_is_chosen_beside_its_like(name: str, given: dict[str, float]) -> None:
    def apart(one: int, other: int) -> float:
        return Levenshtein.normalized_distance(grown.nodes[one].text, grown.nodes[other].text)

    (grown,), _ = listened(name, **given)
    following = children(grown)
    for nexts in following:
        for i, one in enumerate(nexts):
            for other in nexts[:i]:
                answers = [turn.answer for node in (one, other) if (turn := grown.nodes[node].turn)]
                cut = [grown.nodes[node].text == CUT for node in (one, other)]
                differ = answers[0] != answers[1] or cut[0] != cut[1]
                assert differ or apart(one, other) >= max(given["merge_distance"], 1e-9)
    for step, chosen in enumerate(grown.expanded):
        assert chosen == ROOT or any(following[child] for child in following[chosen]), "no leaf, no parent of leaves"
        if chosen != ROOT:
            assert all(apart(chosen, old) >= max(given["expand_distance"], 1e-9) for old in grown.expanded[:step])


@settings(max_examples=20)
@given(st.lists(names, min_size=1, max_size=4, unique=True), sizes)
def test_a_tree_does_not_depend_on_those_grown_with_it(asked: list[str], given: dict[str, float]) -> None:
    together, _ = listened(*asked, **given)
    assert together == [one for name in asked for one in listened(name, **given)[0]]


def test_one_call_a_turn_serves_all_trees_and_rows_never_repeat() -> None:
    _, listener = listened("a", "b", "c")
    assert len(listener.turns) <= 8 * PAIR.max_steps
    assert len(listener.turns[0]) == 3 * 3
    rows = Counter(row for call in listener.turns for row in call)
    assert max(rows.values()) == 1, "the same row would be sampled with the same random numbers"
    assert {rollout for _, rollout, _ in rows} == set(range(24))


def test_the_seed_decides_which_nodes_are_chosen() -> None:
    def expanded(seed: int) -> tuple[int, ...]:
        (grown,) = search([question("q")], workflow=PAIR, speak=speak, score=score, settings=DEFAULTS, seed=(seed,))
        return grown.expanded

    assert expanded(1) == expanded(1)
    assert len({expanded(seed) for seed in range(10)}) > 1


def test_no_question_no_tree() -> None:
    assert search([], workflow=PAIR, speak=speak, score=score, settings=SearchSettings(searches=1), seed=()) == []


# --- Merging --------------------------------------------------------------------------------------


def scripted(*rollouts: list[Turn], merge: float = 0.1, metric: Metric = "f1") -> Tree:
    """The tree of one search step in which each rollout says its own lines, whatever it has heard."""

    def lines(drafts: Sequence[tuple[Question, Dialogue]]) -> list[Turn]:
        return [rollouts[dialogue.rollout][len(dialogue.turns)] for _, dialogue in drafts]

    def reward(finished: Sequence[tuple[Question, Dialogue]]) -> list[Reward]:
        return [Reward(float(dialogue.rollout), 0, 0, 0, 0) for _, dialogue in finished]

    once = SearchSettings(searches=1, rollouts=len(rollouts), merge_distance=merge)
    team = replace(PAIR, metric=metric)
    (grown,) = search([question("q")], workflow=team, speak=lines, score=reward, settings=once, seed=())
    return grown


AGREE = [said("I say <A>x</A>", speaker=0, answer="x"), said("Yes <A>x</A>", speaker=1, answer="x")]


def test_a_near_equal_message_is_replaced_by_its_sibling() -> None:
    near = replace(AGREE[0], text="I say: <A>x</A>", ids=(99, 98, 0))
    grown = scripted(AGREE, [near, said("No <A>y</A>", speaker=1, answer="y"), said("<A>y</A>", speaker=0, answer="y")])
    assert children(grown) == [[1], [2, 3], [], [4], []]
    assert grown.nodes[1].turn == AGREE[0], "the ids of the first one stay"
    assert [node.visits for node in grown.nodes] == [2, 2, 1, 1, 1]
    assert [node.value for node in grown.nodes] == [0.5, 0.5, 0.0, 1.0, 1.0]


def test_dialogues_that_merge_to_their_end_share_the_leaf() -> None:
    grown = scripted(AGREE, AGREE)
    assert [node.visits for node in grown.nodes] == [2, 2, 2]
    assert grown.sampled == 2 * sum(len(turn.ids) for turn in AGREE)


def test_a_merge_distance_of_zero_merges_equal_messages_only() -> None:
    near = replace(AGREE[0], text="I say: <A>x</A>")
    assert children(scripted(AGREE, [near, AGREE[1]], AGREE, merge=0.0)) == [[1, 2], [3], [4], [], []]


def test_near_texts_with_another_answer_stay_apart() -> None:
    talk = "The answer must be <A>{}</A>, as you have told me."
    one, two = (said(talk.format(value), speaker=0, answer=value) for value in "12")
    yes, no = (said(f"<A>{value}</A>", speaker=1, answer=value) for value in "12")
    assert children(scripted([one, yes], [two, no], merge=0.5)) == [[1, 2], [3], [4], [], []]


def test_near_texts_merge_when_their_answers_are_the_same_to_the_task() -> None:
    """A half is a half under `math`, and another text under `f1`; programs that differ in a bracket are two."""
    talk = "The answer must be <A>{}</A>, as you have told me."

    def merged(metric: Metric, *answers: str) -> bool:
        one, two = (said(talk.format(value), speaker=0, answer=value) for value in answers)
        rests = [[said(f"<A>{value}</A>", speaker=1, answer=value)] for value in answers]
        return len(children(scripted([one, *rests[0]], [two, *rests[1]], merge=0.5, metric=metric))[ROOT]) == 1

    assert merged("math", r"\tfrac12", r"\frac{1}{2}") and not merged("f1", r"\tfrac12", r"\frac{1}{2}")
    assert merged("f1", "The Town", "town") and not merged("pass", "The Town", "town")


def test_a_cut_message_does_not_become_a_finished_one() -> None:
    cut = replace(AGREE[0], ids=AGREE[0].ids[:-1], answer=None, finished=False)
    whole = replace(AGREE[0], answer=None)
    grown = scripted([cut], [whole, *AGREE[::-1], AGREE[1]])
    assert [grown.nodes[child].ending for child in children(grown)[ROOT]] == [Ending.TRUNCATED, None]


def test_it_merges_with_the_nearest() -> None:
    new = said("abcdefghijklmnopqrst", speaker=0)
    far, near = (said(text, speaker=0) for text in ("XXcdefghijklmnopqrst", "abcdefghijklmnopqrsX"))
    rest = [replace(turn, speaker=1 - turn.speaker) for turn in AGREE]
    grown = scripted([far, *rest], [near, *rest], [new, *rest], merge=0.15)
    assert [grown.nodes[child].visits for child in children(grown)[ROOT]] == [1, 2]


# --- Choosing -------------------------------------------------------------------------------------


def planted(*branches: tuple[str, float], expanded: tuple[int, ...] = (ROOT,)) -> Tree:
    """A tree whose first messages have the texts and values given, each followed by two more messages."""
    grown = Tree(question("q"))
    for text, value in branches:
        node = ROOT
        for speaker, line in enumerate((text, f"heard {text}", f"told {text}")):
            grown, node = add(grown, node, said(line, speaker=speaker % 2))
        grown = back_up(grown, node, Reward(value, 0, 0, 0, 0))
    return replace(grown, expanded=expanded)


def drawn(grown: Tree, draws: int = 400, **given: float) -> Counter[str]:
    chooser = Chooser(GrowingTree(grown), settings=SearchSettings.model_validate(given), draw=random.Random(0))
    return Counter(grown.nodes[chooser.choose()].text for _ in range(draws))


def test_it_starts_at_the_root() -> None:
    assert set(drawn(Tree(question("q")))) == {""}


def test_leaves_and_parents_of_leaves_are_never_chosen() -> None:
    assert set(drawn(planted(("abcdef", 1.0), ("uvwxyz", 0.5)))) == {"abcdef", "uvwxyz"}


def test_it_draws_by_the_softmax_of_the_values() -> None:
    counts = drawn(planted(("abcdef", 1.0), ("uvwxyz", 0.0)), draws=4000)
    assert counts["abcdef"] / 4000 == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    counts = drawn(planted(("abcdef", 1.0), ("uvwxyz", 0.0)), draws=4000, temperature=0.25)
    assert counts["abcdef"] / 4000 == pytest.approx(1 / (1 + math.exp(-4)), abs=0.03)


def test_only_the_best_are_in_the_draw() -> None:
    branches = [(letter * 6, value / 10) for value, letter in enumerate("abcdef")]
    assert set(drawn(planted(*branches), top_k=2)) == {"eeeeee", "ffffff"}
    assert len(drawn(planted(*branches), top_k=10)) == 6


def test_what_was_chosen_and_its_like_are_left_out() -> None:
    grown = planted(("abcdefgh", 1.0), ("abcdefgX", 0.9), ("uvwxyz", 0.1), expanded=(ROOT, 1))
    assert set(drawn(grown)) == {"uvwxyz"}
    assert set(drawn(grown, expand_distance=0.1)) == {"abcdefgX", "uvwxyz"}


def test_when_nothing_is_left_it_is_the_root_again() -> None:
    grown = planted(("abcdefgh", 1.0), ("abcdefgX", 0.9), expanded=(ROOT, 1))
    assert set(drawn(grown)) == {""}


def test_great_values_and_small_temperatures_are_no_trouble() -> None:
    grown = planted(("abcdef", 1e6), ("uvwxyz", -1e6))
    assert set(drawn(grown, temperature=0.001)) == {"abcdef"}
    assert path(grown, 1) == [ROOT, 1]


# --- Work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("searches", [8, 64, 256])
def test_the_texts_compared_for_a_message_do_not_grow_with_the_tree(
    monkeypatch: pytest.MonkeyPatch, searches: int
) -> None:
    compared = 0
    extract, near = searching.process.extract, searching.near

    def counted_extract(query: str, choices: Sequence[str], **given: Any) -> Any:
        nonlocal compared
        compared += len(choices)
        return extract(query, choices, **given)

    def counted_near(one: str, other: str, distance: float) -> bool:
        nonlocal compared
        compared += 1
        return near(one, other, distance)

    def chatter(drafts: Sequence[tuple[Question, Dialogue]]) -> list[Turn]:
        draws = [random.Random(f"{dialogue.rollout} {len(dialogue.turns)}") for _, dialogue in drafts]
        texts = ["".join(draw.choices("abcdefgh ", k=40)) for draw in draws]
        return [said(text, speaker=len(draft.turns) % 2) for text, (_, draft) in zip(texts, drafts, strict=True)]

    def luck(finished: Sequence[tuple[Question, Dialogue]]) -> list[Reward]:
        return [Reward(random.Random(dialogue.rollout).random(), 0, 0, 0, 0) for _, dialogue in finished]

    monkeypatch.setattr(searching.process, "extract", counted_extract)
    monkeypatch.setattr(searching, "near", counted_near)
    many = SearchSettings(searches=searches)
    (grown,) = search([question("q")], workflow=PAIR, speak=chatter, score=luck, settings=many, seed=())
    messages = len(grown.nodes) - 1
    assert messages > 6 * searches
    assert compared < 25 * messages, compared / messages


if __name__ == "__main__" and sys.argv[1:] == ["--write-golden"]:
    GOLDEN.write_text(golden_lines(), encoding="utf-8")
