"""The official code's preference data, tree rewards and selection, against recorded inputs and outputs of the original.

Every record of these kinds is reproduced; none is left out as a bug, because the bugs are reproduced too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optima_lite.tasks import official


@pytest.fixture(scope="module")
def recorded(real_data: Path) -> list[dict[str, Any]]:
    path = real_data / "parity.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded inputs and outputs: {path.name} is missing beside the benchmark rows")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of(recorded: list[dict[str, Any]], kind: str) -> list[tuple[str, dict[str, Any], Any]]:
    rows = [(row["id"], row["input"], row["expected"]) for row in recorded if row["kind"] == kind]
    assert rows, f"no record of {kind}"
    return rows


def test_pairs_values_and_stored_extremes_of_trees(recorded: list[dict[str, Any]]) -> None:
    for name, given, expected in of(recorded, "dpo_pairs"):
        root = official.grow(given["rollouts"])
        nodes = dict(official.walk(root))
        values = {history: (node.value, node.visits) for history, node in nodes.items()}
        wanted = {tuple(history): (value, visits) for history, value, visits in expected["node_values"]}
        assert values.keys() == wanted.keys(), name
        for history in wanted:
            assert values[history] == pytest.approx(wanted[history]), (name, history)
        extremes = {
            history: (node.min_child.text, node.max_child.text)
            for history, node in nodes.items()
            if node.min_child and node.max_child
        }
        assert extremes == {tuple(history): (low, high) for history, low, high in expected["min_max"]}, name

        found = official.dpo_pairs(root, min_best=given["min_value"], min_gap=given["incremental_threshold"])
        assert [(("Alice", "Bob")[pair.speaker], [*pair.history], pair.chosen, pair.rejected) for pair in found] == [
            (pair["prompt_for"], pair["history"], pair["chosen"], pair["rejected"]) for pair in expected["pairs"]
        ], name
        for pair, want in zip(found, expected["pairs"], strict=True):
            assert (pair.chosen_value, pair.gap) == pytest.approx((want["chosen_value"], want["distance"])), name


def test_rewards_of_search_rollouts(recorded: list[dict[str, Any]]) -> None:
    for name, given, expected in of(recorded, "reward_mcts"):
        result = given["result"]
        said, gold = (result[key].lower().strip().split() for key in ("final_answer", "answer"))
        assert set(said).isdisjoint(gold) or said == gold, (
            f"{name} needs the F1 of unequal answers, which is tested apart"
        )
        reward = official.reward_mcts(
            result["conversation"],
            task=float(said == gold),
            losses=result["losses"],
            tokens=result["token_count"],
            normaliser=given["max_token_count"],
            token_weight=-given["lambda1"],
            readability_weight=given["lambda2"],
        )
        got = (reward.total, reward.task, reward.readability, reward.messages_scored)
        keys = ("reward", "correct_score", "ppl_score", "messages_scored")
        assert got == pytest.approx([expected[key] for key in keys]), name


def test_selection_for_imitation(recorded: list[dict[str, Any]]) -> None:
    for name, given, expected in of(recorded, "sft_select"):
        selected = official.sft_select(
            given["tasks"], min_reward=given["epsilon"], drop_easiest=given["dataset_name"] == "math"
        )
        assert [[*place] for place in selected] == expected["selected_in_order"], name
        rows = official.split_rows(2 * len(selected))
        assert rows == (expected["n_train_rows"], expected["n_test_rows"]), name
        # The last expectation is about the text of the rows: both mathematics sets get the "merely a number" prompt.
        number_only = given["prompt_type"] == "math" if selected else None
        assert number_only == expected["uses_number_only_first_prompt"], name


def test_extremes_go_stale() -> None:
    """The best child's mean falls below its sibling's, and yet it stays the best that is stored."""
    root = official.grow([(["a"], 1.5), (["b"], 0.9), (["a"], -1.0)])
    assert {child.text: child.value for child in root.children} == {"a": 0.25, "b": 0.9}
    assert root.max_child and root.min_child and (root.max_child.text, root.min_child.text) == ("a", "a")


@pytest.mark.parametrize(("nodes", "kept"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_the_half_is_rounded_down_but_one_pair_is_kept(nodes: int, kept: int) -> None:
    rollouts: list[tuple[list[str], float]] = []
    for depth in range(nodes):
        stem = ["x"] * depth
        rollouts += [([*stem, "y"], 0.9), ([*stem, "z"], 0.1)]
    found = official.dpo_pairs(official.grow(rollouts), min_best=0.4, min_gap=0.2)
    assert len(found) == kept


def test_tree_rewards_by_hand() -> None:
    def reward(messages: list[str], *, tokens: int = 100, losses: list[float] | None = None) -> tuple[float, ...]:
        result = official.reward_mcts(
            messages,
            task=1.0,
            losses=losses or [2.0] * len(messages),
            tokens=tokens,
            normaliser=50,
            token_weight=0.5,
            readability_weight=1.0,
        )
        return result.total, result.task, result.readability, result.messages_scored

    assert reward(["Alice: a", "Bob: b"], losses=[1.0, 4.0]) == (0.25, 1.0, 0.25, 2), "a token share of 2"
    assert reward(["Alice: a", "Bob: b"], tokens=40) == (0.5, 1.0, 0.5, 2), "so short that it pays a whole point"
    assert reward(["Alice: a", "large"]) == (0.5, 1.0, 0.5, 2)
    assert reward(["Alice: a"], tokens=2001) == (1 - 0.5 * 2001 / 50 - 1, 1.0, -1.0, 0)
    assert reward([]) == (-1.0, 1.0, -1.0, 0)
    assert reward(["Alice: a", "Bob: b Alice: c", "Bob: d"], losses=[1.0, 9.0, 9.0]) == (0.0, 0.0, 1.0, 1)
    assert reward(["Alice: a Alice: b", "Bob: d"]) == (-1.0, 0.0, 0.0, 0)
