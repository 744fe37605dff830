"""The method, in the order in which it runs: imitate the best dialogues, prefer the better turns, evaluate, again.

Paper sections 3.2 to 3.5, by the recipe's `schedule`: `isft` imitates in every iteration, `idpo` imitates once, with
the format pool, and prefers from then on, `isft-dpo` does both in every iteration. Changed: the policy is one LoRA
adapter on a frozen, usually 4-bit base, which makes the base free to read (adapter off) and needs learning rates of
its own; and after each step the reward on a validation split decides whether it is kept.

Every stage writes its records into the run folder and is read from there when they exist; so the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...learn.rollout import Agents
from ...records import Question
from ...runs.evaluations import evaluation_stage, undone_remark
from ...runs.folder import RunFolder
from ...runs.progress import Evaluated, Note, Observer, Planned, RunStarted, Timings, fan_out, phase
from ...runs.store import Run
from ...runs.summary import summary
from ...settings.config import LoadedRecipe
from ...settings.machine import Machine
from ...stage.baselines import ALONE
from ...stage.cast import Cast, assemble
from ...stage.doctor import versions
from ...stage.evaluate import summarise
from ...stage.judge import Judge
from ...stage.preflight import require
from ...stage.stage import Stage, require_something_right
from ...tasks.questions import questions
from .imitate import imitate
from .plan import improvement, plan, steps
from .prefer import prefer


def train(loaded: LoadedRecipe, *, machine: Machine, folder: Path, observe: Observer) -> None:
    """Runs a recipe, or carries on with its run in `folder`, to the end.

    Raises OptimaError for everything a user can mend; what was complete before stays.
    """
    recipe = loaded.recipe
    require(recipe, machine=machine)
    manifest = {
        "recipe": recipe.to_dict(),
        "recipe_name": loaded.name,
        "variants": loaded.variants,
        "versions": versions(),
    }
    if code := recipe.task.code:
        manifest["plugin"] = {"path": str(code.path), "sha256": code.sha256}
    with Run.open(folder, manifest) as run:
        observe = fan_out(observe, Timings(sink=lambda timing: run.append_timings([timing])))
        observe(RunStarted(loaded.name, str(folder), recipe.training.iterations, run.resumed))
        if code:
            observe(Note(code.told(recipe.uses)))
        observe(Planned(plan(recipe)))
        with phase(observe, "load", iteration=None, total=1, unit="models") as advance:
            cast = assemble(recipe, machine=machine, settle=run.settle, notify=lambda text: observe(Note(text)))
            advance(1)
        stage = Stage(cast, run, observe)
        held_out = questions(recipe.task, "held_out", recipe.evaluation.questions, seed=0)
        for greedy in (False, True):
            _evaluate(stage, cast.pair, held_out, "untrained", greedy=greedy)
            _evaluate(stage, cast.single, held_out, "single_agent", greedy=greedy)
        require_something_right(run, recipe)
        _improve(stage, held_out)


def train_alone(cast: Cast, run: RunFolder, *, observe: Observer) -> None:
    """The control of a run: its single agent, who sees everything, improved as its pair was, by the same recipe.

    It gets the same questions, steps, rewards, schedule and judge, and an adapter of its own, in a run folder within
    the run's; the same call resumes. cast: the agents of the run; the policy is left with the control's adapter.
    """
    recipe = cast.recipe
    # An answer without a partner's word is all that there is: see `selection.skip_early_answers`.
    selection = recipe.selection.model_copy(update={"skip_early_answers": False})
    alone = replace(cast, pair=cast.single, recipe=recipe.model_copy(update={"selection": selection}))
    name = f"{run.manifest.get('recipe_name')}, single agent"
    manifest = {"recipe": run.manifest["recipe"], "recipe_name": name, "versions": versions()}
    with Run.open(run.folder / ALONE, manifest) as own:
        observe = fan_out(observe, Timings(sink=lambda timing: own.append_timings([timing])))
        observe(RunStarted(name, str(own.folder), recipe.training.iterations, own.resumed))
        observe(Planned(tuple(improvement(recipe, roles=1))))
        cast.policy.restart(seed=recipe.seed)
        _improve(Stage(alone, own, observe), questions(recipe.task, "held_out", recipe.evaluation.questions, seed=0))


def _improve(stage: Stage, held_out: Sequence[Question]) -> None:
    """Every iteration of the recipe, for the agents that the stage trains, and the summary of all."""
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
        for greedy in (False, True) if last else (False,):
            _evaluate(stage, stage.cast.pair, held_out, f"iteration_{iteration}", greedy=greedy, iteration=iteration)
        if last:
            break
    stage.run.write_json("summary.json", summary(stage.run))


def _evaluate(
    stage: Stage, agents: Agents, held_out: Sequence[Question], name: str, *, greedy: bool, iteration: int | None = None
) -> None:
    """A line of the final table: each held-out question is talked about once, by the adapter as it stands."""
    decoding = "greedy" if greedy else "sampled"
    where = evaluation_stage(name, decoding)
    label = f"evaluate {decoding}" if iteration is not None else f"evaluate {name} {decoding}"
    fitted = stage.fit(agents, held_out, f"evaluation/{agents.workflow.name}_questions")
    examined = stage.examine(agents, fitted, where, greedy=greedy, label=label, iteration=iteration)
    agrees = agents.workflow.agrees
    row = summarise(examined, name=name, decoding=decoding, scoring=agents.scoring, agrees=agrees)
    stage.run.write_json(f"{where}.json", row)
    stage.observe(Evaluated(row, "" if iteration is None else undone_remark(stage.run, iteration)))
