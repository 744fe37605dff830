"""Reinforcement, in the order in which it runs: talk, pay each message, train, validate, keep or undo, evaluate, again.

UnityMAS-O (arXiv 2605.26646) for adapters on one base: `team.adapters` says which roles learn together, `reward` what a
message is worth, `reinforce` how that is learnt. Changed: a message is compared with the other dialogues about its
question, where the authors train a critic (`reinforce.advantage: value`); each adapter takes several small steps on the
dialogues of an iteration; and the reward on a validation split decides whether these are kept.

`reinforce.imitations` puts imitation in front, as does a recipe that starts from a run. Every stage writes its records
into the run folder and is read from there when they exist; so the same command resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..learn import rl
from ..learn.episodes import Episode, episodes, paid
from ..learn.rollout import Speakers
from ..learn.value import ValueHead
from ..model.policy import Policy
from ..records import Payment, Question, Rollouts
from ..runs.folder import IMITATED, stage_name
from ..runs.progress import Advance
from ..settings.sections import RewardSettings
from ..stage.cast import Cast
from ..stage.dialogues import rewarded, sampled
from ..stage.judge import Judge
from ..stage.lesson import Lesson
from ..stage.stage import Stage
from .optima.imitate import imitate


def improve(stage: Stage, held_out: Sequence[Question]) -> None:
    """Every iteration of the recipe, for the agents that the stage trains."""
    recipe = stage.cast.recipe
    judge = Judge(stage)
    standing = judge.untrained()
    for iteration in range(recipe.training.iterations):
        if iteration < recipe.reinforce.imitations:
            step, adapter = "imitate", imitate(stage, iteration)
        else:
            step, adapter = "reinforce", reinforce(stage, iteration, before=standing.adapter)
        standing = judge.after(step, iteration, adapter, standing)
        last = judge.stopped or iteration == recipe.training.iterations - 1
        stage.evaluate_after(iteration, held_out, last=last)
        if last:
            break


def reinforce(stage: Stage, iteration: int, *, before: Path | None) -> Path:
    """The folder of the adapter after the step; the policy speaks with it already. before: the folder of the one that
    it began with, None at the beginning of the run."""
    scored = rewarded(stage, iteration, sampled(stage, iteration, pool=False))
    payments = _pay(stage, iteration, scored)
    return _train(stage, iteration, scored, payments, _heads(stage, before or stage.cast.start))


@dataclass(frozen=True)
class Paying:
    """A job: what each message of ranked dialogues was worth; see `episodes.paid`."""

    speakers: Speakers
    settings: RewardSettings

    def do(self, cast: Cast, items: Sequence[Rollouts], advance: Advance) -> list[Payment]:
        """See `crew.Job`. Credit by messages tests every program that a team has written on its way."""
        agents = cast.agents(self.speakers)
        payments = [paid(agents, group, settings=self.settings) for group in items]
        advance(sum(len(group.dialogues) for group in items))
        return payments


def _pay(stage: Stage, iteration: int, scored: Sequence[Rollouts]) -> Sequence[Payment]:
    """What each message was worth, and how much more than its like."""
    recipe, each = stage.cast.recipe, stage.cast.recipe.sampling.rollouts
    job, name = Paying(stage.cast.team.speakers, recipe.reward), stage_name(iteration, "3_payments")
    with stage.phase("pay", iteration=iteration, total=len(scored) * each, unit="rewards", parts=("pay",)) as advance:
        return stage.made(name, Payment, scored, job=job, each=each, advance=advance)


def _train(
    stage: Stage,
    iteration: int,
    scored: Sequence[Rollouts],
    payments: Sequence[Payment],
    heads: Mapping[str, ValueHead],
) -> Path:
    """Each adapter on the messages of its roles; without any that tell something it stays as it is."""
    recipe, team = stage.cast.recipe, stage.cast.team
    settings = recipe.reinforce
    flat = settings.advantage == "value"  # whether messages of groups without spread are learnt from, too
    learning = settings.roles or team.workflow.names
    rows: dict[str, list[Episode]] = {adapter: [] for adapter in team.workflow.adapters}
    for group, payment in zip(scored, payments, strict=True):
        for adapter, episode in episodes(team, group, payment, roles=learning, flat=flat):
            rows[adapter].append(episode)

    for adapter in (name for name, own in rows.items() if not own):
        speakers = [role.name for role in team.workflow.roles if role.adapter == adapter and role.name in learning]
        if speakers:
            why = "all of their messages about a question were worth the same" if not flat else "they said nothing"
            stage.note(f"iteration {iteration}: {' and '.join(speakers)} learnt nothing: {why}, whichever the question")

    def learn(policy: Policy, own: Sequence[Episode], **how: Any) -> rl.ReinforceFacts:
        temperature = recipe.sampling.temperature
        return rl.reinforce(policy, own, temperature=temperature, head=heads.get(policy.worn), **how)

    def beside(adapter: str, place: Path) -> None:
        if adapter in heads:
            heads[adapter].save(place)

    return stage.adapt(Lesson(learn, rows, settings, iteration, IMITATED, beside), label="reinforce")


def _heads(stage: Stage, before: Path | None) -> dict[str, ValueHead]:
    """A value head for each adapter, as the last step that was kept has left it; none where groups give the
    advantages."""
    settings, policy = stage.cast.recipe.reinforce, stage.cast.policy
    if settings.advantage == "group":
        return {}
    names = stage.cast.team.workflow.adapters
    rate, hidden = settings.value_learning_rate, policy.shape.hidden
    heads = {name: ValueHead(hidden, learning_rate=rate, device=policy.device) for name in names}
    for name, place in policy.places(before).items() if before else ():
        heads[name].load(place)
    return heads
