"""One imitation step (paper section 3.3, iSFT): sample dialogues, rank them, select the best, train on them.

In iteration 0 the dialogues are sampled with the format-prompt pool and learnt without it (paper section 3.2); and
demonstrations may stand beside them (a recipe's `teacher`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...learn.ranking import credited
from ...learn.selection import demonstrations, worth_learning
from ...learn.sft import fine_tune
from ...model.render import Rendered
from ...records import Demonstration, Rollouts
from ...runs.folder import IMITATED, stage_name
from ...stage.dialogues import rewarded, sampled, shown_alone
from ...stage.lesson import Lesson
from ...stage.stage import Stage
from ...stage.taught import Beside, taught


def imitate(stage: Stage, iteration: int) -> Path:
    """The folder of the adapter after the step; the policy speaks with it already."""
    scored = rewarded(stage, iteration, said(stage, iteration))
    chosen = stage.run.whole(
        stage_name(iteration, "3_demonstrations"),
        Demonstration,
        lambda: demonstrations(scored, settings=stage.cast.recipe.selection),
    )
    return _train(stage, iteration, chosen)


def said(stage: Stage, iteration: int) -> Sequence[Rollouts]:
    """The dialogues to learn from: the team's own, in iteration 0 with the format pool and beside what it is shown."""
    if iteration:
        return sampled(stage, iteration, pool=False)
    shown = taught(stage)
    if shown and not stage.cast.recipe.teacher.own:
        return shown_alone(stage, iteration, shown)
    own = sampled(stage, iteration, pool=True, shown=shown)
    return Beside(own, shown) if shown else own


def _train(stage: Stage, iteration: int, chosen: Sequence[Demonstration]) -> Path:
    """The selected dialogues from every speaker's view, each for its adapter; without any the adapters stay as they
    are."""
    recipe, team = stage.cast.recipe, stage.cast.team
    rows: dict[str, list[Rendered]] = {adapter: [] for adapter in team.workflow.adapters}
    left_out = messages = 0
    for demonstration in chosen:
        question, dialogue = demonstration.question, demonstration.dialogue
        credit = credited(team, question, dialogue, settings=recipe.reward, final=demonstration.reward.task)
        learnt = None if credit is None else worth_learning(credit, reward=recipe.reward, settings=recipe.selection)
        for adapter, row in team.lessons(question, dialogue, learnt):
            rows[adapter].append(row)
        ours = {number for number, turn in enumerate(dialogue.turns) if turn.ids and not turn.spoken_by}
        messages += len(ours)
        left_out += 0 if learnt is None else len(ours - learnt)
    if not chosen:
        stage.note(f"iteration {iteration}: no dialogue passed selection.min_reward, so nothing is trained")
    if left_out:
        what = f"{left_out} of {messages} selected messages are not learnt: their credit is below selection.min_credit"
        stage.note(f"iteration {iteration}: {what}")

    return stage.adapt(Lesson(fine_tune, rows, recipe.training, iteration, IMITATED), label="train")
