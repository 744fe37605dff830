"""`eval` and `scale`: what a run's agents are worth, on questions that no step has seen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..errors import OptimaError
from .arguments import (
    AsJson,
    ConfigOption,
    Iteration,
    Quiet,
    RunFolderArgument,
    iteration_number,
    machine_of,
    open_run,
)
from .console import console_of, errors, import_libraries, progress


def evaluate(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    questions: Annotated[int | None, typer.Option(min=1, help="Held-out questions; default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed; default: the recipe's.")] = None,
    task: Annotated[str | None, typer.Option(help="A recipe whose task and prompts to use instead.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Compare all iterations with other ways.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="With --baselines: samples of the majority vote.")] = 8,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate any iteration of a run again, sampled and greedy; the run folder stays as it is."""
    with errors():
        from ..settings.config import load_recipe

        if baselines and iteration != "last":
            raise OptimaError("--baselines looks at every iteration", hint="leave out --iteration")
        machine = machine_of(config)
        console = console_of(machine)
        folder = open_run(run, machine)
        number = iteration_number(folder, iteration)
        other = load_recipe(task).recipe if task else None
        with progress(console, quiet=quiet, as_json=as_json) as observe:
            import_libraries()
            from ..stage.cast import recall

            cast = recall(folder, machine=machine, iteration=number, other=other)
            if baselines:
                from ..stage.baselines import compare

                found = compare(cast, folder, wanted=questions, samples=samples, seed=seed, observe=observe)
            else:
                from ..stage.evaluate import evaluate_again

                name = "untrained" if number is None else f"iteration_{number}"
                rows = evaluate_again(cast, name=name, questions_wanted=questions, seed=seed, observe=observe)
        from ..records import to_json
        from ..runs.report import baseline_table, evaluation_table, remarks

        if not as_json:
            console.print(baseline_table(found) if baselines else evaluation_table(rows))
            for remark in remarks([one.row for one in found] if baselines else rows):
                console.print(remark)
        elif baselines:
            print(json.dumps({"baselines": to_json(found)}), flush=True)


def scale(
    run: RunFolderArgument,
    samples: Annotated[int, typer.Option(min=1, help="Most dialogues about a question.")] = 32,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions.")] = 100,
    iteration: Iteration = "last",
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed; default: the recipe's.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for scaling.csv and scaling.png.")] = Path(),
    png: Annotated[bool, typer.Option(help="Draw the curves (needs matplotlib).")] = True,
    config: ConfigOption = None,
    quiet: Quiet = False,
) -> None:
    """Ask each question up to so many times: majority vote and coverage against tokens, with and without training."""
    with errors():
        from ..stage.scaling_view import draw, require_plot, scaling_table, write_csv

        if png:
            require_plot()
        if not os.path.isdir(output):
            raise OptimaError("there is no such folder", where=output)
        machine = machine_of(config)
        console = console_of(machine)
        folder = open_run(run, machine)
        number = iteration_number(folder, iteration)
        with progress(console, quiet=quiet, as_json=False) as observe:
            import_libraries()
            from ..stage.baselines import scaling
            from ..stage.cast import recall

            cast = recall(folder, machine=machine, iteration=number)
            rows = scaling(
                cast, folder, iteration=number, wanted=questions, samples=samples, seed=seed, observe=observe
            )
        console.print(scaling_table(rows))
        for name, write in (("scaling.csv", write_csv), *((("scaling.png", draw),) if png else ())):
            write(rows, output / name)
            console.print(f"wrote {escape(str(output / name))}", soft_wrap=True)
