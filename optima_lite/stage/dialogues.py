"""What an iteration learns from: dialogues about its training questions, and their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ..learn.ranking import ranked
from ..learn.reward import mean
from ..learn.rollout import Speakers, sample
from ..model.sampling import Sampling
from ..records import Question, Rollouts
from ..runs.folder import stage_name
from ..runs.progress import Advance, Ranked
from ..runs.rows import Rows
from ..settings.sections import RewardSettings
from ..tasks.questions import training_questions
from .cast import Cast
from .evaluate import undecided
from .stage import Stage
from .taught import in_place


@dataclass(frozen=True)
class Talk:
    """A job: `rollouts` dialogues about each question; see `rollout.sample`."""

    speakers: Speakers
    rollouts: int
    sampling: Sampling
    seed: tuple[object, ...]
    formats: tuple[str, ...]

    def do(self, cast: Cast, items: Sequence[Question], advance: Advance) -> list[Rollouts]:
        """See `crew.Job`."""
        return sample(
            cast.agents(self.speakers),
            items,
            rollouts=self.rollouts,
            sampling=self.sampling,
            seed=self.seed,
            formats=self.formats,
            advance=lambda done, tokens: advance(done, tokens=tokens),
        )


@dataclass(frozen=True)
class Ranking:
    """A job: the rewards of dialogues; see `ranking.ranked`."""

    speakers: Speakers
    settings: RewardSettings

    def do(self, cast: Cast, items: Sequence[Rollouts], advance: Advance) -> list[Rollouts]:
        """See `crew.Job`."""
        scored = ranked(cast.agents(self.speakers), items, settings=self.settings)
        advance(sum(len(group.dialogues) for group in items))
        return scored


def sampled(stage: Stage, iteration: int, *, pool: bool, shown: Sequence[Rollouts] = ()) -> Sequence[Rollouts]:
    """The dialogues that an iteration learns from, about its training questions. pool: told to use the formats. shown:
    demonstrations, about whose questions the team talks, too."""
    recipe, team = stage.cast.recipe, stage.cast.team
    rollouts = recipe.sampling.rollouts
    drawn = in_place(training_questions(recipe, iteration, preference=False), shown)
    fitted = stage.fit(team, drawn, stage_name(iteration, "0_questions"))
    total = len(fitted) * rollouts
    sampling, formats = stage.cast.sampling(team, pool=pool), stage.cast.formats if pool else ()
    job = Talk(team.speakers, rollouts, sampling, (recipe.seed, iteration), formats)
    with stage.phase(
        "generate", iteration=iteration, total=total, unit="dialogues", parts=("sample siblings",)
    ) as advance:
        return stage.made(
            stage_name(iteration, "1_dialogues"), Rollouts, fitted, job=job, each=rollouts, advance=advance
        )


def shown_alone(stage: Stage, iteration: int, shown: Sequence[Rollouts]) -> list[Rollouts]:
    """Demonstrations as all that an iteration learns from."""
    fitted = stage.fit(stage.cast.team, [group.question for group in shown], stage_name(iteration, "0_questions"))
    return [replace(group, question=question) for group, question in zip(shown, fitted, strict=True)]


def rewarded(stage: Stage, iteration: int, rollouts: Sequence[Rollouts]) -> Sequence[Rollouts]:
    """The same dialogues with their rewards."""
    recipe = stage.cast.recipe
    each = recipe.sampling.rollouts
    total = len(rollouts) * each if isinstance(rollouts, Rows) else sum(len(group.dialogues) for group in rollouts)
    job = Ranking(stage.cast.team.speakers, recipe.reward)
    with stage.phase("rank", iteration=iteration, total=total, unit="dialogues", parts=("read siblings",)) as advance:
        scored = stage.made(stage_name(iteration, "2_rewards"), Rollouts, rollouts, job=job, each=each, advance=advance)
    stage.tell_undecided(undecided(scored))
    tokens = fmean(dialogue.tokens for group in scored for dialogue in group.dialogues)
    stage.observe(Ranked(iteration, mean([reward for group in scored for reward in group.rewards]), tokens))
    return scored
