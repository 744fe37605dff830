"""What the steps of a run did, as the report tells it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from optima_lite.records import (
    Ending,
)
from optima_lite.runs import report
from optima_lite.runs.folder import RunFolder
from optima_lite.runs.step_view import imitation_table, preference_table
from optima_lite.runs.steps import Verdict, imitations, preferences
from optima_lite.runs.store import Run
from optima_lite.runs.summary import summary
from reported import RECIPE, cells, finished, rollouts, text

run = pytest.fixture(finished)


def test_an_iteration_may_have_a_preference_step_alone(run: RunFolder) -> None:
    for name in ("1_dialogues.jsonl", "2_rewards.jsonl", "3_demonstrations.jsonl"):
        (run.folder / "iteration_01" / name).unlink()
    assert [step.iteration for step in imitations(run)] == [0]
    assert [step.iteration for step in preferences(run)] == [1]
    sampled = sum(100 + i + 56 + 8 for i in range(4))
    assert summary(run)["training_tokens"] == sampled + 1000 * 3 + 4 * 1500 + 250 * 2
    assert "preference, iteration       1\n" in text(report.overview(run), width=80)


def test_the_facts_of_a_preference_step(run: RunFolder) -> None:
    (step,) = preferences(run)
    assert (step.iteration, step.trees, step.tokens, step.pairs, step.trainer_tokens) == (1, 4, 6000, 4, 500)
    assert step.depths == {1: 0.75, 3: 0.25} and step.gap == pytest.approx(0.5)
    assert (step.chosen_shift, step.rejected_shift, step.stopped, step.shortened) == (-0.123, -1.456, False, 2)
    assert step.verdict == Verdict(0.5, 0.375, "revert", (-0.2, -0.05))


def test_a_step_that_found_no_pairs_says_so(run: RunFolder) -> None:
    (run.folder / "iteration_01/7_pairs.jsonl").write_text("")
    (step,) = preferences(run)
    assert (step.pairs, step.depths, step.gap) == (0, {}, None)
    assert cells(preference_table([step]))["pairs"] == ["0"]


def test_a_guard_that_stopped_a_step_is_shown(run: RunFolder) -> None:
    (step,) = preferences(run)
    both = [step, dataclasses.replace(step, iteration=2, stopped=True)]
    assert cells(preference_table(both))["stopped early"] == ["no", "yes"]


def test_the_facts_of_an_imitation_step(run: RunFolder) -> None:
    first, second = imitations(run)
    assert first.reward and first.reward.total == pytest.approx((1.0 + 0.0 - 0.1) / 3)
    assert (first.dialogues, first.selected, first.trainer_tokens) == (12, 3, 3000)
    assert first.formats == (("triples", 2), ("arrows", 1)) and second.formats == ()
    thirds = (Ending.AGREED, Ending.MAX_TURNS, Ending.TRUNCATED)
    assert first.endings == dict.fromkeys(Ending, 0) | dict.fromkeys(thirds, pytest.approx(1 / 3))
    assert first.two_messages == pytest.approx(1 / 3)
    assert (first.shortened, second.shortened) == (0, 1)


def test_many_iterations_take_several_tables(run: RunFolder) -> None:
    (first, _), (step,) = imitations(run), preferences(run)
    for table, name in (
        (imitation_table([dataclasses.replace(first, iteration=i) for i in range(16)]), "imitation"),
        (preference_table([dataclasses.replace(step, iteration=i) for i in range(16)]), "preference"),
    ):
        drawn = text(table, width=80)
        assert "…" not in drawn and max(map(len, drawn.splitlines())) <= 80
        heads = [line.split()[2:] for line in drawn.splitlines() if line.startswith(name)]
        assert [int(number) for head in heads for number in head] == list(range(16))


def test_the_share_of_valid_messages_is_shown_where_it_was_asked_for(tmp_path: Path) -> None:
    def lines(weight: float) -> list[str]:
        recipe = {**RECIPE, "reward": {"format_weight": weight}}
        with Run.open(tmp_path / str(weight), {"recipe": recipe, "recipe_name": "x"}) as run:
            run.append("iteration_00/2_rewards", [rollouts(0, terse=True)])
            return text(imitation_table(imitations(run)), width=80).splitlines()

    assert not [line for line in lines(0.0) if "format" in line]
    assert [line.split() for line in lines(0.5) if "format" in line] == [["format", "0.000"]]
