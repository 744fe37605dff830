"""Evaluation: the arithmetic of a row of the final table, its intervals, and that held-out questions stay the same."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.records import Dialogue, Ending, Question, Reward, Rollouts, Turn
from optima_lite.runs.progress import Evaluated, PhaseStarted
from optima_lite.settings.sections import RewardSettings
from optima_lite.settings.teams import shipped, shipped_teams
from optima_lite.stage.cast import Cast
from optima_lite.stage.evaluate import evaluate_again, examine, summarise
from optima_lite.tasks import world
from optima_lite.tasks.answers import Scoring

QUESTIONS = world.questions("held_out", 3, seed=0)


def talk(tokens: int, score: float, ending: Ending, *, turns: int = 1, loss: float = 1.0) -> Rollouts:
    ids = [(1,) * (tokens - turns + 1), *[(1,)] * (turns - 1)]
    said = tuple(Turn(k % 2, part, "") for k, part in enumerate(ids))
    question = Question("q", "?", ("x",), ((), ()))
    return Rollouts(question, (Dialogue("q", 0, said, ending),), (Reward(score, score, 1.0, 1.0, loss),))


def test_a_row_holds_the_means() -> None:
    row = summarise(
        [
            talk(10, 1.0, Ending.AGREED, turns=2, loss=0.5),
            talk(20, 0.5, Ending.MAX_TURNS, turns=4, loss=1.5),
            talk(60, 0.0, Ending.TRUNCATED, turns=6, loss=4.0),
        ],
        name="iteration_0",
        decoding="greedy",
        scoring=Scoring(),
    )
    assert (row.name, row.decoding, row.questions) == ("iteration_0", "greedy", 3)
    assert (row.score, row.tokens, row.turns) == (0.5, 30.0, 4.0)
    assert row.agreement == pytest.approx(1 / 3)
    assert row.tokens_per_correct == 60.0, "90 tokens for 1.5 right answers"
    assert row.readability_loss == 2.0
    assert row.score_low <= row.score <= row.score_high
    assert row.tokens_low <= row.tokens <= row.tokens_high


def test_a_team_that_never_has_to_agree_has_no_agreement() -> None:
    talks = [talk(10, 1.0, Ending.DONE, turns=3)] * 2
    assert summarise(talks, name="x", decoding="sampled", scoring=Scoring(), agrees=False).agreement is None
    assert summarise(talks, name="x", decoding="sampled", scoring=Scoring()).agreement == 0.0
    agreeing = {name for name in shipped_teams() if shipped(name).agrees}
    assert {"exchange", "proposer_critic", "plan_code_test_reflect"} <= agreeing
    assert agreeing.isdisjoint({"planner_executor", "chain", "tree", "ask_search_summarise"})


def test_nothing_right_has_no_price() -> None:
    row = summarise([talk(10, 0.0, Ending.AGREED)] * 2, name="untrained", decoding="sampled", scoring=Scoring())
    assert row.tokens_per_correct is None
    assert (row.tokens_low, row.tokens_high) == (10.0, 10.0)
    assert row.score_low == 0.0 < 0.5 < row.score_high, "two wrong answers do not prove that all are wrong"


def test_one_question_has_an_interval_for_its_score_alone() -> None:
    row = summarise([talk(10, 1.0, Ending.AGREED)], name="x", decoding="sampled", scoring=Scoring())
    assert 0 < row.score_low < row.score_high == 1.0
    assert (row.tokens_low, row.tokens_high) == (None, None)


def test_hotpotqa_s_own_f1_stands_beside_ours() -> None:
    def said(answer: str, gold: str) -> Rollouts:
        dialogue = Dialogue("q", 0, (Turn(0, (1, 2), "", answer),), Ending.AGREED)
        return Rollouts(Question("q", "?", (gold,), ((), ())), (dialogue,), (Reward(0, 0.5, 1, 1, 1),))

    rows = [said("yes it is", "yes"), said("Paris", "Paris")]
    assert summarise(rows, name="x", decoding="greedy", scoring=Scoring()).hotpot_f1 == 0.5
    assert summarise(rows, name="x", decoding="greedy", scoring=Scoring("exact")).hotpot_f1 is None


def examined(cast: Cast, **changes: Any) -> list[Rollouts]:
    wanted: dict[str, Any] = {
        "sampling": cast.sampling(cast.team),
        "seed": 0,
        "settings": RewardSettings(),
        "advance": lambda done, **told: None,
    } | changes
    return examine(cast.team, QUESTIONS, **wanted)


def test_each_question_is_talked_about_once_and_scored(cast: Cast) -> None:
    rows = examined(cast)
    assert [group.question for group in rows] == QUESTIONS
    assert all(len(group.dialogues) == len(group.rewards) == 1 for group in rows)
    assert examined(cast) == rows
    assert examined(cast, seed=1) != rows


def test_a_run_is_evaluated_again_in_both_decodings(cast: Cast) -> None:
    events: list[Any] = []
    rows = evaluate_again(cast, name="iteration_1", questions_wanted=None, seed=None, observe=events.append)
    assert [(row.name, row.decoding, row.questions) for row in rows] == [
        ("iteration_1", "sampled", 4),
        ("iteration_1", "greedy", 4),
    ]
    assert [event.row for event in events if isinstance(event, Evaluated)] == rows
    assert [event.phase for event in events if isinstance(event, PhaseStarted)] == [
        "evaluate iteration_1 sampled",
        "evaluate iteration_1 greedy",
    ]
    fewer, greedy = evaluate_again(cast, name="x", questions_wanted=2, seed=7, observe=events.append)
    assert fewer.questions == greedy.questions == 2
    again = evaluate_again(cast, name="x", questions_wanted=2, seed=8, observe=events.append)
    assert again[0] != fewer and again[1] == greedy, "the seed moves sampling, and nothing greedy"


def test_the_row_reads_answers_that_were_not_marked_beside_those_that_were() -> None:
    def said(text: str, answer: str | None, task: float) -> Rollouts:
        dialogue = Dialogue("q", 0, (Turn(0, (1, 2), text, answer),), Ending.MAX_TURNS)
        question = Question("q", "?", ("72",), ((), ()))
        return Rollouts(question, (dialogue,), (Reward(task, task, 1.0, 1.0, 1.0, undecided=1.0 - task),))

    unmarked, right, wrong = said("It is 72.", None, 0.0), said("<A>72</A>", "72", 1.0), said("71", None, 0.0)
    row = summarise([unmarked, right, wrong], name="x", decoding="greedy", scoring=Scoring("numeric"))
    assert (row.score, row.flexible_score) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert row.undecided == 2


def test_undecided_answers_are_counted(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scoring, "undecided", lambda self, prediction, answers: True)
    rows = evaluate_again(cast, name="x", questions_wanted=2, seed=None, observe=lambda event: None)
    assert [row.undecided for row in rows] == [2, 2]
