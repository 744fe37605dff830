"""`check`, `doctor` and `init`: what this machine can do, before it has to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .arguments import AsJson, ConfigOption, Overrides, RecipeName, RunOption, Variant, load, machine_of
from .console import console_of, errors, import_libraries, write_new
from .early import say
from .teams import AsMermaid

if TYPE_CHECKING:
    from ..settings.machine import Machine
    from ..stage.findings import Finding


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    variant: Variant = None,
    run: RunOption = None,
    config: ConfigOption = None,
    vram: Annotated[float | None, typer.Option(min=1, help="Forecast for a card of so many GiB.")] = None,
    probe: Annotated[bool, typer.Option(help="Load the model and measure: time and, on a GPU, memory.")] = True,
    gpus: Annotated[int | None, typer.Option(min=1, help="Time with so many workers, each like this machine.")] = None,
    show: Annotated[int, typer.Option(min=0, help="So many training questions, as each agent sees them.")] = 0,
    as_json: AsJson = False,
    mermaid: AsMermaid = False,
) -> None:
    """Read a recipe, say what its run would do and what it needs, memory above all; nothing is written."""
    with errors():
        from ..runs.market_view import agents_view
        from ..runs.naming import run_folder
        from ..runs.team_view import TeamView
        from ..runs.team_view import mermaid as drawn
        from ..team.talks import founders_of, team_of

        loaded, machine = load(recipe, overrides, variant, config)
        if mermaid:
            print(drawn(team_of(loaded.recipe)), end="")
            return
        folder = run or run_folder(loaded, machine)
        console = console_of(machine)
        say(console, f"{loaded.name}: what its run would do here, and what it needs", quiet=as_json)
        if not as_json:
            market = loaded.recipe.method == "market"
            console.print(agents_view(founders_of(loaded.recipe)) if market else TeamView(team_of(loaded.recipe)))
        import_libraries()
        from ..methods.plan import plan
        from ..stage.data import samples
        from ..stage.preflight import check as findings

        found = findings(loaded, plan(loaded.recipe), machine=machine, folder=folder, vram=vram, probe=probe, gpus=gpus)
        problems = _report_findings(console, found, as_json=as_json)
        for sample in samples(loaded.recipe, show) if show and not as_json else ():
            console.print(sample)
        if problems:
            raise typer.Exit(2)


def doctor(
    config: ConfigOption = None,
    as_json: AsJson = False,
    cluster: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Also the machine file's cluster, with the model of a recipe.")
    ] = None,
) -> None:
    """Python, packages, GPU, memory, disk: what will and what won't work, and how to mend it."""
    with errors():
        from ..stage.doctor import doctor as findings

        machine = machine_of(config)
        found = findings(machine)
        if cluster is not None:
            found = chain(found, _cluster(cluster, machine))
        if _report_findings(console_of(machine), found, as_json=as_json):
            raise typer.Exit(2)


def _cluster(recipe: str, machine: Machine) -> Iterator[Finding]:
    """What the machine file's cluster is made of, with the model of a recipe."""
    from ..errors import ConfigError
    from ..settings.config import load_recipe

    loaded = load_recipe(recipe)
    if machine.cluster.engine == "none":
        hint = 'in [cluster] of optima_lite.toml: engine = "ray"'
        raise ConfigError("the machine file names no cluster", where="cluster.engine", hint=hint)
    import_libraries()
    from ..stage.engine import require_engine

    require_engine(loaded.recipe, machine)
    from ..stage.survey import survey

    yield from survey(loaded.recipe, machine)


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path("optima_lite.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented optima_lite.toml: the settings of this machine."""
    with errors():
        from ..settings.machine import EXAMPLE_TOML

        write_new(path, EXAMPLE_TOML, force=force)


def _report_findings(console: Console, findings: Iterator[Finding], *, as_json: bool) -> int:
    """Each finding as soon as it is there; returns how many are problems."""
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    problems = 0
    for number, finding in enumerate(findings, start=1):
        problems += finding.status == "problem"
        if as_json:
            print(json.dumps(asdict(finding)), flush=True)
            continue
        status = f"[{colours[finding.status]}]{finding.status:<7}[/]"
        console.print(f"{number:>2} {status} {finding.subject}: {escape(finding.detail)}", soft_wrap=True)
        if finding.hint:
            console.print(f"           {escape(finding.hint)}", soft_wrap=True)
    if problems and not as_json:
        console.print(f"[red]{problems} problem{'s' * (problems > 1)}[/red]")
    return problems
