"""Dialogue trees of a recipe's two agents: grown for a preference step, or for somebody who wants to look at one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import RunError
from ...learn import reward
from ...learn.credit import of_turns
from ...learn.ranking import credited, search_rewards
from ...learn.reward import Scale
from ...learn.rollout import Speakers
from ...records import Dialogue, Question, Reward, Rollouts, Tree, Turn
from ...runs.folder import IMITATED, PREFERRED, RunFolder
from ...runs.progress import Advance, Observer, phase
from ...stage.cast import Cast
from ...stage.evaluate import examine, parts_of
from ...tasks.questions import questions
from ...team.search import search

PROBES = {IMITATED: "5_validation", PREFERRED: "9_validation"}
"""For each of an iteration's adapters the stage in which it answered the validation questions."""

_QUICK = 20  # validation questions that give the scale where no run has asked any


@dataclass(frozen=True)
class Growth:
    """A job: a tree for every question; see `grow`."""

    speakers: Speakers
    scale: Scale
    seed: tuple[object, ...]

    def do(self, cast: Cast, items: Sequence[Question], advance: Advance) -> list[Tree]:
        """See `crew.Job`."""
        as_told = replace(cast, team=cast.agents(self.speakers))
        return grow(as_told, items, scale=self.scale, seed=self.seed, advance=advance)


def grow(
    cast: Cast, asked: Sequence[Question], *, scale: Scale, seed: Sequence[object], advance: Advance
) -> list[Tree]:
    """A tree for every question, by the pair as it stands; the questions' facts must fit (see `Cast.fit`).

    scale: of the rewards, see `scale_of`. seed: decides the messages and, with the question's id, which nodes are
    chosen. advance: is told of the sampled tokens, and of the dialogues that ended.
    """
    recipe, team = cast.recipe, cast.team
    team.generator.forget()  # a chunk's batches must not depend on the chunks before it

    def speak(drafts: Sequence[tuple[Question, Dialogue]]) -> list[Turn]:
        ready = [(question, team.next_cue(dialogue)) for question, dialogue in drafts]
        turns = team.speak(ready, sampling=cast.sampling(team), seed=seed)
        advance(0, tokens=sum(len(turn.ids) for turn in turns))
        return turns

    def score(ended: Sequence[tuple[Question, Dialogue]]) -> list[Reward]:
        rewards = search_rewards(team, ended, settings=recipe.reward, scale=scale)
        advance(len(ended))
        return rewards

    def credit(question: Question, dialogue: Dialogue, reward: Reward) -> list[Reward] | None:
        own = credited(team, question, dialogue, settings=recipe.reward, final=reward.task)
        return None if own is None else of_turns(reward, own)

    trees: list[Tree] = []
    rollouts = [(question, [Dialogue(question.id, k) for k in range(recipe.search.rollouts)]) for question in asked]
    read = recipe.reward.loss_condition == "dialogue"
    for window in team.windows(
        rollouts, sampling=cast.sampling(team), times=recipe.search.searches, sides=2 if read else 1
    ):
        chosen = [question for question, _ in window]
        trees += search(
            chosen,
            workflow=team.workflow,
            speak=speak,
            score=score,
            settings=recipe.search,
            seed=seed,
            credit=credit,
        )
    return trees


def scale_of(cast: Cast, probe: Sequence[Rollouts]) -> Scale:
    """The scale of the rewards in a tree. probe: ranked dialogues of the same pair."""
    return reward.scale(probe, percentile=cast.recipe.search.normaliser_percentile, settings=cast.recipe.reward)


def explore(
    cast: Cast, asked: Sequence[Question], *, probe: Sequence[Rollouts], seed: int, observe: Observer
) -> list[Tree]:
    """A tree for every question, to be looked at; nothing is stored.

    probe: as `stored_probe` finds it; without one the pair answers some validation questions first. Raises DataError
    when a question does not fit the model, RunError for the agents of a market.
    """
    if cast.team.workflow.auctioned:
        raise RunError("a market has no trees: who speaks next is decided by auction", hint="optima-lite chat RUN")
    probe = probe or _quick_probe(cast, observe)
    fitted, _ = cast.fit(cast.team, asked)
    dialogues = len(fitted) * cast.recipe.search.searches * cast.recipe.search.rollouts
    with phase(observe, "search", iteration=None, total=dialogues, unit="dialogues", parts=("search",)) as advance:
        return grow(cast, fitted, scale=scale_of(cast, probe), seed=(seed, "search"), advance=advance)


def stored_probe(run: RunFolder, iteration: int | None) -> Sequence[Rollouts]:
    """How the pair that is in force after an iteration, or untrained for None, answered the validation questions.

    None at all while a run has not come so far. Raises KeyError for an iteration without a finished step.
    """
    adapter = None if iteration is None else run.adapter(iteration)
    if adapter is None:
        return run.read("validation/untrained", Rollouts)
    return run.read(f"{adapter.parent.name}/{PROBES[adapter.name]}", Rollouts)


def _quick_probe(cast: Cast, observe: Observer) -> list[Rollouts]:
    recipe = cast.recipe
    drawn = questions(recipe.task, "validation", _QUICK, seed=0)
    fitted, _ = cast.fit(cast.team, drawn)
    parts = parts_of(len(cast.team.workflow.roles))
    with phase(observe, "probe", iteration=None, total=len(fitted), unit="questions", parts=parts) as advance:
        return examine(
            cast.team,
            fitted,
            sampling=cast.sampling(cast.team),
            seed=recipe.seed,
            settings=recipe.reward,
            advance=advance,
        )
