"""`check`, `doctor` and `init`: what this machine can do, before it has to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .arguments import ConfigOption, Overrides, RecipeName, RunOption, Variant, load, machine_of
from .console import console_of, errors, import_libraries, write_new
from .teams import AsMermaid

if TYPE_CHECKING:
    from ..stage.preflight import Finding


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    variant: Variant = None,
    run: RunOption = None,
    config: ConfigOption = None,
    vram: Annotated[float | None, typer.Option(min=1, help="Forecast for a card of so many GiB.")] = None,
    probe: Annotated[bool, typer.Option(help="On a GPU, load the model and measure each phase.")] = True,
    mermaid: AsMermaid = False,
) -> None:
    """Read a recipe, say what its run would do and what it needs, memory above all; nothing is written."""
    with errors():
        from ..runs.store import run_folder
        from ..runs.team_view import TeamView
        from ..runs.team_view import mermaid as drawn
        from ..stage.preflight import check as findings
        from ..team.talks import team_of

        loaded, machine = load(recipe, overrides, variant, config)
        if mermaid:
            print(drawn(team_of(loaded.recipe)), end="")
            return
        console_of(machine).print(TeamView(team_of(loaded.recipe)))
        folder = run or run_folder(loaded, machine)
        import_libraries()
        found = findings(loaded, machine=machine, folder=folder, vram=vram, probe=probe)
        _report_findings(console_of(machine), found)


def doctor(config: ConfigOption = None) -> None:
    """Python, packages, GPU, memory, disk: what will and what won't work, and how to mend it."""
    with errors():
        from ..stage.preflight import doctor as findings

        machine = machine_of(config)
        _report_findings(console_of(machine), findings(machine))


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path("optima_lite.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented optima_lite.toml: the settings of this machine."""
    with errors():
        from ..settings.config import EXAMPLE_TOML

        write_new(path, EXAMPLE_TOML, force=force)


def _report_findings(console: Console, findings: Iterator[Finding]) -> None:
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    problems = 0
    for number, finding in enumerate(findings, start=1):
        status = f"[{colours[finding.status]}]{finding.status:<7}[/]"
        console.print(f"{number:>2} {status} {finding.subject}: {escape(finding.detail)}", soft_wrap=True)
        if finding.hint:
            console.print(f"           {escape(finding.hint)}", soft_wrap=True)
        problems += finding.status == "problem"
    if problems:
        console.print(f"[red]{problems} problem{'s' * (problems > 1)}[/red]")
        raise typer.Exit(2)
