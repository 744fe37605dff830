"""Credit in the steps of the loop: what imitation learns, and what a tree's messages are worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.learn.rollout import sample
from optima_lite.methods.optima import imitate
from optima_lite.methods.optima.explore import grow, scale_of
from optima_lite.model.sampling import Sampling
from optima_lite.records import Demonstration, Ending, Reward, Rollouts
from optima_lite.settings.sections import SearchSettings
from optima_lite.stage.cast import Cast
from optima_lite.tasks.answers import Scoring
from optima_lite.tasks.world import questions

ASKED = questions("train", 2, seed=0)
REWARD = Reward(total=1.0, task=1.0, token_share=0.0, readability=0.0, worst_loss=1.0)


def credited(cast: Cast, **reward: Any) -> Cast:
    """The same agents under another rule."""
    return replace(cast, recipe=cast.recipe.model_copy(update={"reward": cast.recipe.reward.model_copy(update=reward)}))


def learnt(cast: Cast, chosen: list[Demonstration], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[str]]:
    """The messages that an imitation step would train on, and what it says."""
    rows: list[Any] = []
    notes: list[str] = []

    def adapt(lesson: Any, **named: object) -> Path:
        rows.extend(row.ids[start:stop] for own in lesson.rows.values() for row in own for start, stop in row.spans)
        return Path()

    imitate._train(SimpleNamespace(cast=cast, note=notes.append, adapt=adapt), 0, chosen)  # type: ignore[arg-type]
    return rows, notes


def test_imitation_leaves_out_what_had_a_wrong_answer_of_its_own(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a talk that came right in the end; by default every message of it is learnt, as ever."""
    (group, _) = sample(cast.team, ASKED, rollouts=1, sampling=Sampling(1.0, 1.0, 8), seed=(0, 0))
    right, said = group.question.answers[0], group.dialogues[0].turns[0]
    turns = tuple(
        replace(said, speaker=k % 2, ids=(*said.ids[:-1], k + 5, cast.policy.end_ids[0]), answer=answer, finished=True)
        for k, answer in enumerate((None, "nobody", right, right))
    )
    one = Demonstration(group.question, replace(group.dialogues[0], turns=turns, ending=Ending.AGREED), REWARD)
    everything = [turn.ids for turn in turns]
    rows, notes = learnt(cast, [one], monkeypatch)
    assert sorted(rows) == sorted(everything) and notes == []
    rows, notes = learnt(credited(cast, credit="own_step"), [one], monkeypatch)
    assert sorted(rows) == sorted(everything[:1] + everything[2:])
    assert notes == ["iteration 0: 1 of 4 selected messages are not learnt: their credit is below selection.min_credit"]


def test_in_a_tree_an_answer_is_worth_its_own_score(cast: Cast) -> None:
    """The score here is a number that an answer's letters give, so that hardly two answers have the same."""
    scoring = Scoring(own=lambda answer, gold: sum(map(ord, answer or "")) % 97 / 97)
    agents = replace(cast.team, scoring=scoring)
    talk = sample(cast.team, ASKED[:1], rollouts=1, sampling=Sampling(1.0, 1.0, 8), seed=(0, 0))[0].dialogues
    probe = [Rollouts(ASKED[0], talk, (REWARD,))]
    short = replace(cast, team=agents, recipe=cast.recipe.model_copy(update={"search": SearchSettings(searches=2)}))
    found: dict[str, list[tuple[float, float]]] = {}
    for scheme in ("trajectory", "own_step"):
        own = credited(short, credit=scheme)
        trees = grow(own, ASKED, scale=scale_of(own, probe), seed=(0, 0), advance=lambda done, tokens=0: None)
        found[scheme] = [
            (node.reward.task, scoring.score(node.turn.answer, ()))
            for tree in trees
            for node in tree.nodes
            if node.turn and node.turn.finished and node.turn.answer is not None and node.reward
        ]
    assert len(found["own_step"]) > 3
    assert all(mean == pytest.approx(score) for mean, score in found["own_step"])
    assert any(mean != pytest.approx(score) for mean, score in found["trajectory"]), "the dialogue's, by default"
