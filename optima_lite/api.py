"""What the command line does, as functions: nothing is printed, progress goes to an observer.

    run = open_run("runs/quickstart-seed0")            # the records; no model
    team = load(run)                                   # the agents, in memory
    team.ask("Who is the mother of Mira?", ["Mira mother Tess"]).answer

A run is named by its folder, by its name under the machine's run_folder, or is one that `open_run` returned. config:
the machine file, instead of ./optima_lite.toml. observe: is called with every event of `runs.progress`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runs.opened import Iteration, OpenedRun, find_run, iteration_number
from .runs.progress import Observer, silent
from .settings.config import load_machine, load_recipe
from .settings.machine import Machine
from .settings.workflow import Transfer

if TYPE_CHECKING:
    from .records import EvalRow, Question, Tree
    from .stage.asking import Team
    from .stage.cast import Cast, HandingOn

RunName = str | Path | OpenedRun
Config = str | Path | None


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    variants: Sequence[str] = (),
    run: str | Path | None = None,
    config: Config = None,
    observe: Observer | None = None,
) -> dict[str, Any]:
    """Run a recipe as `optima-lite train` does, or carry on with its run, and return the content of summary.json.

    recipe: a file, or a shipped recipe's name. overrides: settings such as "training.iterations=4". variants: names of
    the recipe's own, such as "minute". run: the run folder, when it is not to be named after the recipe. Raises an
    `OptimaError` for anything that can be mended from outside; the same call resumes.
    """
    loaded = load_recipe(recipe, overrides=overrides, variants=variants)
    machine = _machine(config)
    from .model.second import begun
    from .runs.folder import read_run
    from .runs.naming import run_folder
    from .runs.progress import fan_out

    folder, tell = Path(run) if run else run_folder(loaded, machine), observe or silent
    with begun(loaded.recipe, machine) as second:
        _hush()
        from .methods.train import train as run_loop
        from .outlets.tracking import tracker

        tracked = tracker(folder, machine.report_to, project=machine.report_project, tell=tell)
        run_loop(loaded, machine=machine, folder=folder, observe=fan_out(tell, tracked), second=second)
    summary: dict[str, Any] = read_run(folder).read_json("summary.json")
    return summary


def open_run(run: RunName, *, config: Config = None) -> OpenedRun:
    """A run's records, for reading, also while it goes on. Raises RunError if there is no such run."""
    return run if isinstance(run, OpenedRun) else OpenedRun(find_run(run, _machine(config)))


def load(
    run: RunName,
    *,
    iteration: Iteration = "last",
    transfer: Transfer | None = None,
    steps: int | None = None,
    config: Config = None,
) -> Team:
    """The agents of a run as they stood after an iteration, or `untrained`, ready to be asked.

    transfer: hand messages on whole, `serial`, or step by step, `stream`; None: as the recipe says. steps: of a
    message, with transfer. Raises ConfigError for a team that cannot stream, RunError for a run or an iteration that
    there is not, ModelError when the model cannot be loaded.
    """
    opened, handed = open_run(run, config=config), _handing_on(transfer, steps)
    cast, _ = _recalled(opened, iteration, _machine(config), handing_on=handed)
    from .stage.asking import Team

    return Team(cast)


def evaluate(
    run: RunName,
    *,
    iteration: Iteration = "last",
    questions: int | None = None,
    seed: int | None = None,
    task: str | Path | None = None,
    transfer: Transfer | None = None,
    steps: int | None = None,
    spoken_by: str | None = None,
    config: Config = None,
    observe: Observer | None = None,
) -> list[EvalRow]:
    """A line of the table sampled, and one greedy, on the held-out questions; the run's records stay as they are.

    questions, seed: None: the recipe's. task: a recipe whose task, team, prompts and sampling are used instead of the
    run's own. transfer, steps: as in `load`. spoken_by: a speaker of the machine file, for two more lines: the team as
    it speaks it, every role; what it says is kept in the run. Raises as `load`, ConfigError for that recipe and for a
    speaker that there is not, and RunError for a team that it cannot speak, for a server that does not answer, and for
    a ceiling.
    """
    other = None if task is None else load_recipe(task).recipe
    opened, handed, tell = open_run(run, config=config), _handing_on(transfer, steps), observe or silent
    machine, named = _machine(config), [spoken_by] if spoken_by else []
    from .runs.progress import Note

    def notify(text: str) -> None:
        tell(Note(text))

    _hush()
    from .stage.cast import spoken_elsewhere
    from .stage.elsewhere import require_speakers
    from .stage.evaluate import evaluate_again

    require_speakers(named, machine, where="spoken_by")
    cast, number = _recalled(opened, iteration, machine, other=other, handing_on=handed, notify=notify)
    name = "untrained" if number is None else f"iteration_{number}"
    others = [spoken_elsewhere(cast, one, machine=machine, run=opened.source, notify=notify) for one in named]
    return evaluate_again(cast, name=name, questions_wanted=questions, seed=seed, observe=tell, others=others)


def search(
    run: RunName,
    questions: int | Sequence[Question] = 1,
    *,
    iteration: Iteration = "last",
    seed: int = 0,
    config: Config = None,
    observe: Observer | None = None,
) -> list[Tree]:
    """The dialogue tree of each question, as a preference step grows it; nothing is stored.

    questions: so many held-out ones of the task, or these. Raises as `load`, and DataError for a question that does not
    fit the model.
    """
    opened = open_run(run, config=config)
    cast, number = _recalled(opened, iteration, _machine(config))
    from .methods.optima.explore import explore, stored_probe
    from .tasks.questions import questions as drawn

    asked = drawn(cast.recipe.task, "held_out", questions, seed=0) if isinstance(questions, int) else questions
    probe = stored_probe(opened.source, number)
    return explore(cast, asked, probe=probe, seed=seed, observe=observe or silent)


def _handing_on(transfer: Transfer | None, steps: int | None) -> HandingOn | None:
    if transfer is None:
        return None
    from .stage.cast import HandingOn

    return HandingOn(transfer, steps)


def _recalled(run: OpenedRun, iteration: Iteration, machine: Machine, **how: Any) -> tuple[Cast, int | None]:
    """The agents, and the number of the iteration that was meant."""
    number = iteration_number(run.source, iteration)
    _hush()
    from .stage.cast import recall

    return recall(run.source, machine=machine, iteration=number, **how), number


def _machine(config: Config) -> Machine:
    return load_machine(None if config is None else Path(config))


def _hush() -> None:
    from .model.resources import let_threads_sleep

    let_threads_sleep(os.environ)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at import what a CPU lacks for four bits
