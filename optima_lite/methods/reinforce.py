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
from functools import partial
from pathlib import Path
from typing import Any

from ..learn import rl
from ..learn.episodes import Episode, episodes, paid
from ..learn.value import ValueHead
from ..model.policy import Policy, places
from ..records import Payment, Question, Rollouts
from ..runs.folder import IMITATED, stage_name
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


def _pay(stage: Stage, iteration: int, scored: Sequence[Rollouts]) -> Sequence[Payment]:
    """What each message was worth, and how much more than its like."""
    recipe, team = stage.cast.recipe, stage.cast.team

    def work(chunk: Sequence[Rollouts]) -> list[Payment]:
        return [paid(team, group, settings=recipe.reward) for group in chunk]

    size = max(1, stage.cast.chunk // recipe.sampling.rollouts)
    payments = stage.run.chunks(
        stage_name(iteration, "3_payments"), Payment, scored, size=size, work=partial(map, work)
    )
    if all(payment.flat == payment.groups for payment in payments) and recipe.reinforce.advantage == "group":
        why = "all dialogues about a question were worth the same"
        stage.note(f"iteration {iteration}: {why}, whichever the question, so nothing is trained")
    return payments


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
    learning = settings.roles or team.workflow.names
    rows: dict[str, list[Episode]] = {adapter: [] for adapter in team.workflow.adapters}
    for group, payment in zip(scored, payments, strict=True):
        for adapter, episode in episodes(team, group, payment, roles=learning, flat=settings.advantage == "value"):
            rows[adapter].append(episode)

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
    for name, place in places(before, names).items() if before else ():
        heads[name].load(place)
    return heads
