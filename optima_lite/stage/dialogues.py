"""What an iteration learns from: dialogues about its training questions, and their rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from ..learn.reward import mean
from ..learn.rollout import Agents, ranked, sample
from ..records import Rollouts
from ..runs.folder import stage_name
from ..runs.progress import Ranked
from ..settings.sections import RewardSettings
from ..tasks.questions import training_questions
from .evaluate import undecided
from .stage import Stage


def sampled(stage: Stage, iteration: int, *, pool: bool) -> Sequence[Rollouts]:
    """The dialogues that an iteration learns from, about its training questions. pool: told to use the formats."""
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
            sampling=stage.cast.sampling(pair, pool=pool),
            seed=(recipe.seed, iteration),
            formats=stage.cast.formats if pool else (),
        )
        return stage.run.chunks(
            stage_name(iteration, "1_dialogues"),
            Rollouts,
            fitted,
            size=max(1, stage.cast.chunk // rollouts),
            work=lambda chunk: stage.share(work, chunk, lambda done, tokens: advance(done, tokens=tokens)),
            stored=lambda found: advance(found * rollouts, stored=True),
        )


def rewarded(stage: Stage, iteration: int, rollouts: Sequence[Rollouts]) -> Sequence[Rollouts]:
    """The same dialogues with their rewards."""
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
