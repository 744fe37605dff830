"""One preference step (paper section 3.4, iDPO): grow dialogue trees, pair siblings, train on the better of two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...learn.dpo import PairIds, optimise
from ...learn.selection import pairs
from ...records import Dialogue, PreferencePair, Rollouts, Tree
from ...runs.folder import PREFERRED, stage_name
from ...stage.lesson import Lesson
from ...stage.stage import Stage
from ...tasks.questions import training_questions
from ...team.tree import ROOT
from .explore import Growth, scale_of


def prefer(stage: Stage, iteration: int, *, probe: Sequence[Rollouts]) -> Path:
    """The folder of the adapter after the step; the policy speaks with it already.

    probe: ranked dialogues of the pair as it stands; they give the scale of the rewards in the trees.
    """
    trees = _search(stage, iteration, probe)
    chosen = stage.run.whole(
        stage_name(iteration, "7_pairs"), PreferencePair, lambda: pairs(trees, settings=stage.cast.recipe.selection)
    )
    return _train(stage, iteration, chosen)


def _search(stage: Stage, iteration: int, probe: Sequence[Rollouts]) -> Sequence[Tree]:
    recipe = stage.cast.recipe
    drawn = training_questions(recipe, iteration, preference=True)
    fitted = stage.fit(stage.cast.team, drawn, stage_name(iteration, "6_questions"))
    each = recipe.search.searches * recipe.search.rollouts
    total = len(fitted) * each
    with stage.phase("search", iteration=iteration, total=total, unit="dialogues", parts=("search",)) as advance:
        job = Growth(stage.cast.team.speakers, scale_of(stage.cast, probe), (recipe.seed, iteration, "search"))
        trees = stage.made(stage_name(iteration, "6_trees"), Tree, fitted, job=job, each=each, advance=advance)
    roots = [tree.nodes[ROOT] for tree in trees]
    stage.tell_undecided(round(sum(root.reward.undecided * root.visits for root in roots if root.reward)))
    return trees


def _train(stage: Stage, iteration: int, chosen: Sequence[PreferencePair]) -> Path:
    """The pairs as ids, each after what its speaker saw and for its adapter; without any the adapters stay as they
    are."""
    recipe, team = stage.cast.recipe, stage.cast.team
    rows: dict[str, list[PairIds]] = {adapter: [] for adapter in team.workflow.adapters}
    for one in chosen:
        prompt = team.prompt(one.question, Dialogue(one.question.id, 0, one.prefix))
        row = PairIds(prompt, one.chosen.ids, one.rejected.ids)
        rows[team.workflow.roles[one.speaker].adapter].append(row)
    if not chosen:
        stage.note(f"iteration {iteration}: no two messages differ enough in worth, so nothing is trained")

    return stage.adapt(Lesson(optimise, rows, recipe.dpo, iteration, PREFERRED), label="prefer")
