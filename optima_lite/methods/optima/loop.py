"""The method, in the order in which it runs: imitate the best dialogues, prefer the better turns, evaluate, again.

Paper sections 3.2 to 3.5, by the recipe's `schedule`: `isft` imitates in every iteration, `idpo` imitates once, with
the format pool, and prefers from then on, `isft-dpo` does both in every iteration. Changed: the policy is one LoRA
adapter on a frozen, usually 4-bit base, which makes the base free to read (adapter off) and needs learning rates of
its own; and after each step the reward on a validation split decides whether it is kept.

Every stage writes its records into the run folder and is read from there when they exist; so the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...records import Question
from ...stage.judge import Judge
from ...stage.stage import Stage
from .imitate import imitate
from .plan import steps
from .prefer import prefer


def improve(stage: Stage, held_out: Sequence[Question]) -> None:
    """Every iteration of the recipe, for the agents that the stage trains."""
    recipe = stage.cast.recipe
    judge = Judge(stage)
    standing = judge.untrained()
    for iteration in range(recipe.training.iterations):
        for step in steps(recipe, iteration):
            adapter = imitate(stage, iteration) if step == "imitate" else prefer(stage, iteration, probe=standing.probe)
            standing = judge.after(step, iteration, adapter, standing)
            if judge.stopped:
                break
        last = judge.stopped or iteration == recipe.training.iterations - 1
        stage.evaluate_after(iteration, held_out, last=last)
        if last:
            break
