"""One imitation step (paper section 3.3, iSFT): sample dialogues, rank them, select the best, train on them.

In iteration 0 the dialogues are sampled with the format-prompt pool and learnt without it (paper section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from ...learn.reward import mean
from ...learn.rollout import Agents, credited, ranked, sample
from ...learn.selection import demonstrations, worth_learning
from ...learn.sft import fine_tune
from ...model.render import Rendered
from ...records import Demonstration, Rollouts
from ...runs.folder import IMITATED, stage_name
from ...runs.progress import Ranked
from ...settings.recipe import RewardSettings
from ...stage.evaluate import undecided
from ...stage.stage import Stage
from ...tasks.questions import training_questions


def imitate(stage: Stage, iteration: int) -> Path:
    """The folder of the adapter after the step; the policy speaks with it already."""
    dialogues = _sample(stage, iteration)
    scored = _rank(stage, iteration, dialogues)
    chosen = stage.run.whole(
        stage_name(iteration, "3_demonstrations"),
        Demonstration,
        lambda: demonstrations(scored, settings=stage.cast.recipe.selection),
    )
    return _train(stage, iteration, chosen)


def _sample(stage: Stage, iteration: int) -> Sequence[Rollouts]:
    recipe, pair = stage.cast.recipe, stage.cast.pair
    rollouts = recipe.sampling.rollouts
    drawn = training_questions(recipe, iteration, preference=False)
    fitted = stage.fit(pair, drawn, stage_name(iteration, "0_questions"))
    total = len(fitted) * rollouts
    with stage.phase(
        "generate", iteration=iteration, total=total, unit="dialogues", parts=("sample siblings",)
    ) as advance:
        work = partial(
            sample,
            pair,
            rollouts=rollouts,
            sampling=stage.cast.sampling(pair, pool=iteration == 0),
            seed=(recipe.seed, iteration),
            formats=stage.cast.formats if iteration == 0 else (),
        )
        return stage.run.chunks(
            stage_name(iteration, "1_dialogues"),
            Rollouts,
            fitted,
            size=max(1, stage.cast.chunk // rollouts),
            work=lambda chunk: stage.share(work, chunk, lambda done, tokens: advance(done, tokens=tokens)),
            stored=lambda found: advance(found * rollouts, stored=True),
        )


def _rank(stage: Stage, iteration: int, rollouts: Sequence[Rollouts]) -> Sequence[Rollouts]:
    recipe = stage.cast.recipe
    each = recipe.sampling.rollouts
    total = len(rollouts) * each
    with stage.phase("rank", iteration=iteration, total=total, unit="dialogues", parts=("read siblings",)) as advance:
        work = partial(_ranked, stage.cast.pair, settings=recipe.reward)
        scored = stage.run.chunks(
            stage_name(iteration, "2_rewards"),
            Rollouts,
            rollouts,
            size=max(1, stage.cast.chunk // each),
            work=lambda chunk: stage.share(work, chunk, lambda questions: advance(questions * each)),
            stored=lambda found: advance(found * each, stored=True),
        )
    stage.tell_undecided(undecided(scored))
    tokens = fmean(dialogue.tokens for group in scored for dialogue in group.dialogues)
    stage.observe(Ranked(iteration, mean([reward for group in scored for reward in group.rewards]), tokens))
    return scored


def _ranked(
    agents: Agents, rollouts: Sequence[Rollouts], *, settings: RewardSettings, advance: Callable[[int], None]
) -> list[Rollouts]:
    scored = ranked(agents, rollouts, settings=settings)
    advance(len(rollouts))
    return scored


def _train(stage: Stage, iteration: int, chosen: Sequence[Demonstration]) -> Path:
    """The selected dialogues from every speaker's view, each for its adapter; without any the adapters stay as they
    are."""
    recipe, pair = stage.cast.recipe, stage.cast.pair
    rows: dict[str, list[Rendered]] = {adapter: [] for adapter in pair.workflow.adapters}
    left_out = messages = 0
    for demonstration in chosen:
        question, dialogue = demonstration.question, demonstration.dialogue
        credit = credited(pair, question, dialogue, settings=recipe.reward, final=demonstration.reward.task)
        learnt = None if credit is None else worth_learning(credit, reward=recipe.reward, settings=recipe.selection)
        for adapter, row in pair.lessons(question, dialogue, learnt):
            rows[adapter].append(row)
        messages += len(dialogue.messages)
        left_out += 0 if learnt is None else len(dialogue.messages) - len(learnt)
    if not chosen:
        stage.note(f"iteration {iteration}: no dialogue passed selection.min_reward, so nothing is trained")
    if left_out:
        what = f"{left_out} of {messages} selected messages are not learnt: their credit is below selection.min_credit"
        stage.note(f"iteration {iteration}: {what}")

    return stage.adapt(fine_tune, rows, settings=recipe.training, iteration=iteration, name=IMITATED, label="train")
