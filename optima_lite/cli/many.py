"""`compare` and `sweep`: several runs at once."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import ConfigError, OptimaError
from .arguments import ConfigOption, Quiet, RecipeName, Variant, machine_of, open_run
from .console import console_of, errors, import_libraries, program, progress
from .early import refuse_early, say

if TYPE_CHECKING:
    from ..runs.comparison import Compared

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN RUN ...", help="Run folders, or their names under run_folder.")
]
Greedy = Annotated[bool, typer.Option("--greedy", help="The greedy evaluations, instead of the sampled ones.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="A JSON object for each run.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Comma-separated values, with a line of headings.")]
Values = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE,VALUE...", help="Settings, and the values to try; every combination is a run."),
]


def compare(
    runs: Runs, greedy: Greedy = False, as_json: AsJsonLines = False, as_csv: AsCsv = False, config: ConfigOption = None
) -> None:
    """Runs side by side: score, tokens, and paired differences from the first on the same questions."""
    with errors():
        machine = machine_of(config)
        found = [open_run(run, machine) for run in runs]
        from ..runs.comparison import compare as side_by_side

        lines = side_by_side(found, decoding="greedy" if greedy else "sampled")
        _show(console_of(machine), lines, as_json=as_json, as_csv=as_csv)


def sweep(
    recipe: RecipeName,
    values: Values = None,
    variant: Variant = None,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJsonLines = False,
    as_csv: AsCsv = False,
) -> None:
    """Run a recipe once for every combination of values, one after another; the same command goes on where it was."""
    with errors(go_on=shlex.join([program(), *sys.argv[1:]])):
        from ..runs.comparison import compare as side_by_side
        from ..runs.folder import read_run
        from ..runs.naming import run_folder
        from ..settings.config import load_recipe

        machine = machine_of(config)
        console = console_of(machine)
        chosen = combinations(values or ())
        loaded = [load_recipe(recipe, overrides=settings, variants=variant or ()) for settings in chosen]
        folders = [run_folder(one, machine) for one in loaded]
        for one, folder in zip(loaded, folders, strict=True):
            refuse_early(one, folder, machine)
        silent = quiet or as_json or as_csv
        say(console, f"{len(loaded)} runs: {', '.join(folder.name for folder in folders)}", quiet=silent)
        import_libraries()
        from ..methods.train import train

        for number, (one, folder) in enumerate(zip(loaded, folders, strict=True), start=1):
            say(console, f"run {number} of {len(loaded)}: {folder.name}", quiet=silent)
            with progress(console, quiet=silent, as_json=False) as observe:
                train(one, machine=machine, folder=folder, observe=observe)
        lines = side_by_side([read_run(folder) for folder in folders])
        _show(console, lines, as_json=as_json, as_csv=as_csv)


def combinations(settings: Sequence[str]) -> list[list[str]]:
    """Every combination of the values of `key=a,b` settings, the last key's values changing fastest.

    A comma within brackets or quotes does not part values. Raises ConfigError where there is no `=`.
    """
    choices = []
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals:
            raise ConfigError("not of the form key=value,value", where=setting, hint="such as seed=0,1")
        choices.append([f"{key}={value}" for value in _parted(values)])
    return [list(chosen) for chosen in product(*choices)]


def _parted(text: str) -> list[str]:
    """The text at its outer commas."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _show(console: Console, lines: Sequence[Compared], *, as_json: bool, as_csv: bool) -> None:
    from ..runs.comparison import as_csv as csv_of
    from ..runs.comparison import comparison_table

    if as_json and as_csv:
        raise OptimaError("--json and --csv are two forms of the same", hint="leave out one")
    if as_csv:
        print(csv_of(lines), end="", flush=True)
    elif as_json:
        for line in lines:
            print(json.dumps(asdict(line)), flush=True)
    else:
        console.print(comparison_table(lines))
