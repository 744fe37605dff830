"""`eval` and `scale`: what a run's agents are worth, on questions that no step has seen."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
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
    StepsOption,
    TransferOption,
    handing_on,
    iteration_number,
    machine_of,
    open_run,
)
from .console import console_of, errors, import_libraries, progress
from .early import say


def evaluate(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    questions: Annotated[int | None, typer.Option(min=1, help="Held-out questions; default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed; default: the recipe's.")] = None,
    task: Annotated[str | None, typer.Option(help="A recipe whose task and prompts to use instead.")] = None,
    transfer: TransferOption = None,
    steps: StepsOption = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Compare all iterations with other ways.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="With --baselines: samples of the majority vote.")] = 8,
    train_single: Annotated[
        bool,
        typer.Option("--train-single", help="With --baselines: first train the single agent as the team was, once."),
    ] = False,
    spoken_by: Annotated[
        str | None,
        typer.Option(help="Also the team as a speaker of the machine file speaks it, every role (docs/speakers.md)."),
    ] = None,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate any iteration of a run again, sampled and greedy; the run's records stay as they are."""
    with errors():
        from ..settings.config import load_recipe

        if baselines and iteration != "last":
            raise OptimaError("--baselines looks at every iteration", hint="leave out --iteration")
        if train_single and (not baselines or task):
            why = "--train-single trains on the run's own task, to be compared by --baselines"
            raise OptimaError(why, hint="add --baselines, and leave out --task")
        if baselines and transfer:
            raise OptimaError("--baselines compares teams as they were trained", hint="leave out --transfer")
        machine = machine_of(config)
        console = console_of(machine)
        folder = open_run(run, machine)
        number = iteration_number(folder, iteration)
        other = load_recipe(task).recipe if task else None
        name = "untrained" if number is None else f"iteration_{number}"
        what = "every iteration, and other ways to answer" if baselines else name
        say(console, f"{folder.folder}: evaluating {what}", quiet=quiet or as_json)
        with progress(console, quiet=quiet, as_json=as_json) as observe:
            import_libraries()
            from ..runs.progress import Note
            from ..stage.cast import recall, spoken_elsewhere
            from ..stage.elsewhere import require_speakers

            def notify(text: str) -> None:
                observe(Note(text))

            handed, named = handing_on(transfer, steps), [spoken_by] if spoken_by else []
            require_speakers(named, machine, where="--spoken-by")
            cast = recall(folder, machine=machine, iteration=number, other=other, handing_on=handed, notify=notify)
            if train_single:
                from ..methods.train import train_alone

                train_alone(cast, folder, observe=observe)
            others = [spoken_elsewhere(cast, one, machine=machine, run=folder, notify=notify) for one in named]
            if baselines:
                from ..stage.baselines import compare

                found = compare(
                    cast, folder, wanted=questions, samples=samples, seed=seed, observe=observe, others=others
                )
            else:
                from ..stage.evaluate import evaluate_again

                rows = evaluate_again(
                    cast, name=name, questions_wanted=questions, seed=seed, observe=observe, others=others
                )
        from ..records import to_json
        from ..runs.evaluation_view import baseline_table, evaluation_table, remarks
        from ..runs.spoken_view import spoken_lines
        from ..runs.step_view import verdict_lines
        from ..runs.summary import elsewhere

        if not as_json:
            console.print(baseline_table(found) if baselines else evaluation_table(rows))
            told = remarks([one.row for one in found] if baselines else rows)
            for remark in [*told, *verdict_lines(folder), *spoken_lines(folder, machine.speakers)]:
                console.print(remark)
        elif baselines:
            print(json.dumps({"baselines": to_json(found), **elsewhere(folder)}), flush=True)


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
    as_json: AsJson = False,
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
        say(
            console, f"{folder.folder}: {samples} dialogues about each of {questions} questions", quiet=quiet or as_json
        )
        with progress(console, quiet=quiet, as_json=as_json) as observe:
            import_libraries()
            from ..stage.baselines import scaling
            from ..stage.cast import recall

            cast = recall(folder, machine=machine, iteration=number)
            rows = scaling(
                cast, folder, iteration=number, wanted=questions, samples=samples, seed=seed, observe=observe
            )
        if as_json:
            print(json.dumps({"scaling": [asdict(row) for row in rows]}), flush=True)
        else:
            console.print(scaling_table(rows))
        for name, write in (("scaling.csv", write_csv), *((("scaling.png", draw),) if png else ())):
            write(rows, output / name)
            if not as_json:
                console.print(f"wrote {escape(str(output / name))}", soft_wrap=True)
