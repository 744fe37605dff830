"""What a run of any method has in common: the folder, the agents, where they begin, and the table of how they do.

`method` in the recipe says who improves the agents in between: `optima` (imitation and preference), `reinforce`
(rewards for each message), `prompts` (a choice among prompts), `market` (who is in the team).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import RunError
from ..model.second import Second
from ..records import Question
from ..runs.demonstrations import demonstrations_of, sha256_of
from ..runs.folder import RunFolder
from ..runs.progress import Note, Observer, Planned, RunStarted, Timings, fan_out
from ..runs.store import Run
from ..runs.summary import summary
from ..settings.config import LoadedRecipe
from ..settings.machine import Machine
from ..settings.teacher import TeacherSettings
from ..stage.baselines import ALONE
from ..stage.cast import Cast, Spoken, spoken_elsewhere, workflows
from ..stage.crew import Alone
from ..stage.doctor import versions
from ..stage.elsewhere import SPOKEN_ELSEWHERE, models, named, require_keys, require_same_models
from ..stage.hiring import hired
from ..stage.preflight import require
from ..stage.stage import Stage, require_something_right
from ..stage.start import begin
from ..stage.taught import usable
from ..tasks.questions import questions
from . import reinforce
from .market import loop as market
from .optima import loop as optima
from .plan import improvement, plan
from .prompts import choices
from .prompts import loop as prompts

SAMPLED_ELSEWHERE = (
    "messages are sampled by a server: finished records stay, but what is computed again may differ; only the "
    "generator of this package repeats token by token"
)


def train(
    loaded: LoadedRecipe, *, machine: Machine, folder: Path, observe: Observer, second: Second | None = None
) -> None:
    """Runs a recipe, or carries on with its run in `folder`, to the end.

    second: a process that was begun for it, see `second.begun`. Raises OptimaError for everything a user can mend; what
    was complete before stays.
    """
    recipe = loaded.recipe
    if recipe.method == "prompts":
        choices.require(recipe, workflows(recipe)[0])
    require(recipe, machine=machine)
    manifest = {
        "recipe": recipe.to_dict(),
        "recipe_name": loaded.name,
        "variants": loaded.variants,
        "versions": versions(),
    }
    if code := recipe.task.code:
        manifest["plugin"] = {"path": str(code.path), "sha256": code.sha256}
    if (shown := demonstrations_of(recipe)) is not None:
        manifest["demonstrations"] = {"path": str(shown), "sha256": sha256_of(shown)}
    with Run.open(folder, manifest) as run:
        observe = fan_out(observe, Timings(sink=lambda timing: run.append_timings([timing])))
        observe(RunStarted(loaded.name, str(folder), recipe.iterations, run.resumed))
        if code:
            observe(Note(code.told(recipe.uses)))
        observe(Planned(plan(recipe)))
        if machine.server.urls:
            run.settle("sampler", lambda: {"engine": "server", "base": machine.server.base})
            observe(Note(SAMPLED_ELSEWHERE))
        names = named(recipe)
        if names:
            if not run.read_json("summary.json"):
                require_keys(names, machine)
            now = models(names, machine)
            require_same_models(run.settle("speakers", lambda: now), now, where=run.folder)
            observe(Note(f"{', '.join(f'{name} is {model}' for name, model in now.items())}: {SPOKEN_ELSEWHERE}"))
        start = begin(run, recipe, machine=machine, notify=lambda text: observe(Note(text)))
        with hired(
            recipe,
            machine=machine,
            settle=run.settle,
            settled=run.manifest,
            observe=observe,
            start=start,
            second=second,
            run=run.folder,
        ) as crew:
            cast = crew.cast
            stage = Stage(cast, run, observe, crew, _teacher(cast, machine, run, observe))
            if not run.iterations():
                usable(cast)  # what cannot be used is told before anything is computed
            held_out = questions(recipe.task, "held_out", recipe.evaluation.questions, seed=0)
            for greedy in (False, True):
                stage.evaluate(cast.team, held_out, "untrained", greedy=greedy)
                stage.evaluate(cast.single, held_out, "single_agent", greedy=greedy)
            require_something_right(run, recipe)
            _improve(stage, held_out)


def _teacher(cast: Cast, machine: Machine, run: Run, observe: Observer) -> Spoken | None:
    """The team as the recipe's teacher plays it, None without one at an endpoint."""
    name = cast.recipe.teacher.speaker
    if name is None:
        return None
    return spoken_elsewhere(cast, name, machine=machine, run=run, notify=lambda text: observe(Note(text)))


def train_alone(cast: Cast, run: RunFolder, *, observe: Observer) -> None:
    """The control of a run: its single agent, who sees everything, improved as its pair was, by the same recipe.

    It gets the same questions, steps, rewards, schedule and judge, and an adapter of its own, in a run folder within
    the run's; the same call resumes. cast: the agents of the run; the policy is left with the control's adapter. Raises
    RunError for a market, whose method is for many agents.
    """
    recipe = cast.recipe
    if recipe.method == "market":
        raise RunError("a market improves a population, and one agent alone is none", where=run.folder)
    # An answer without a partner's word is all that there is: see `selection.skip_early_answers`.
    selection = recipe.selection.model_copy(update={"skip_early_answers": False})
    everyone = recipe.reinforce.model_copy(update={"roles": None})
    untaught = {"teacher": TeacherSettings()}  # whose demonstrations are a team's
    recipe = recipe.model_copy(update={"selection": selection, "reinforce": everyone, **untaught})
    alone = replace(cast, team=cast.single, recipe=recipe, start=None)
    name = f"{run.manifest.get('recipe_name')}, single agent"
    manifest = {"recipe": run.manifest["recipe"], "recipe_name": name, "versions": versions()}
    with Run.open(run.folder / ALONE, manifest) as own:
        observe = fan_out(observe, Timings(sink=lambda timing: own.append_timings([timing])))
        observe(RunStarted(name, str(own.folder), recipe.iterations, own.resumed))
        observe(Planned(tuple(improvement(recipe, roles=1))))
        alone.begin()
        held_out = questions(recipe.task, "held_out", recipe.evaluation.questions, seed=0)
        _improve(Stage(alone, own, observe, Alone(alone)), held_out)


def _improve(stage: Stage, held_out: Sequence[Question]) -> None:
    """The agents that the stage trains, improved by the recipe's method, and the summary of all."""
    match stage.cast.recipe.method:
        case "optima":
            optima.improve(stage, held_out)
        case "reinforce":
            reinforce.improve(stage, held_out)
        case "prompts":
            prompts.improve(stage, held_out)
        case "market":
            market.improve(stage, held_out)
    stage.run.write_json("summary.json", summary(stage.run))
