"""`train`: a recipe, from the untrained team to the final table."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .arguments import AsJson, ConfigOption, Overrides, Quiet, RecipeName, ReportTo, RunOption, Variant, load
from .console import console_of, errors, import_libraries, program, progress
from .early import refuse_early

if TYPE_CHECKING:
    from ..runs.progress import Timing
    from ..settings.config import LoadedRecipe
    from ..settings.machine import Machine


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    variant: Variant = None,
    run: RunOption = None,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    report_to: ReportTo = None,
    profile: Annotated[bool, typer.Option("--profile", help="Tell and keep where the time went.")] = False,
) -> None:
    """Run a recipe from the untrained team to the final table; the same command resumes."""
    command = shlex.join([program(), *sys.argv[1:]])
    with errors(go_on=command):
        from ..model.second import begun
        from ..runs.naming import run_folder

        loaded, machine = load(recipe, overrides, variant, config)
        console = console_of(machine)
        folder = run or run_folder(loaded, machine)
        finished = _is_finished(folder, loaded)
        refuse_early(loaded, folder, machine)
        _announce(console, loaded, folder, quiet=quiet or as_json, finished=finished)
        shown = progress(console, quiet=quiet or (finished and not as_json), as_json=as_json)
        with begun(loaded.recipe, machine, wanted=not finished) as second, shown as observe:
            import_libraries()
            from ..methods.train import train as run_loop
            from ..outlets.tracking import tracker
            from ..runs.progress import Timings, fan_out

            kinds = machine.report_to if report_to is None else report_to
            tracked = tracker(folder, kinds, project=machine.report_project, tell=observe)
            timings, started = Timings(), time.monotonic()
            run_loop(loaded, machine=machine, folder=folder, observe=fan_out(observe, timings, tracked), second=second)
        if profile:
            _show_profile(console, folder, timings.rows(), seconds=time.monotonic() - started, as_json=as_json)
        _show_result(console, folder, machine, as_json=as_json)


def _is_finished(folder: Path, loaded: LoadedRecipe) -> bool:
    """Whether a run of just this recipe has come to its end there."""
    from ..runs.folder import read_run

    if not os.path.exists(folder / "summary.json"):
        return False
    return bool(read_run(folder).manifest["recipe"] == loaded.recipe.to_dict())


def _announce(console: Console, loaded: LoadedRecipe, folder: Path, *, quiet: bool, finished: bool) -> None:
    if quiet:
        return

    recipe = loaded.recipe
    console.print(f"[bold]{loaded.name}[/bold]: {recipe.work}, model {escape(recipe.model.name)}, seed {recipe.seed}")
    if finished:
        console.print(f"finished already in {escape(str(folder))}")


def _show_result(console: Console, folder: Path, machine: Machine, *, as_json: bool) -> None:
    from ..runs.folder import read_run
    from ..runs.report import result

    run = read_run(folder)
    if as_json:
        print(json.dumps({"summary": run.read_json("summary.json")}), flush=True)
        return
    console.print(result(run, machine.speakers))
    name = shlex.quote(str(folder))
    typed = shlex.quote(program())
    ways = f"\nGo on with:  {typed} chat {name} --sample 3\n             {typed} report {name}"
    console.print(ways, soft_wrap=True, markup=False)


def _show_profile(console: Console, folder: Path, timings: Sequence[Timing], *, seconds: float, as_json: bool) -> None:
    """Where this process's time went, also as profile.json: the stages of all iterations together, and the rest."""
    from ..runs.progress import ACTIVITIES, Timing, profile

    rest = Timing(None, "everything else", round(seconds - sum(row.seconds for row in timings), 3), 0, 0)
    rows = [*(replace(row, phase=row.phase.split()[0]) for row in timings), rest]
    phases = {
        name: {
            "seconds": round(sum(row.seconds for row in rows if row.phase == name), 3),
            "tokens": sum(row.tokens for row in rows if row.phase == name),
            **{a: round(sum(r.activities.get(a, 0.0) for r in rows if r.phase == name), 3) for a in ACTIVITIES},
        }
        for name in dict.fromkeys(row.phase for row in rows)
    }
    (folder / "profile.json").write_text(json.dumps(phases, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps({"profile": phases}), flush=True)
    else:
        console.print(profile(rows))
