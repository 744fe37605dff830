"""`teams list`, `teams show` and `teams copy`: the teams that come along, to be used by name or written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import errors, write_new

TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="A shipped team's name, or a team's YAML file.")]
AsMermaid = Annotated[bool, typer.Option("--mermaid", help="The team as a flow chart in Mermaid text, nothing else.")]


def teams_list() -> None:
    """The teams that come with optima-lite."""
    with errors():
        from ..settings.teams import shipped_teams

        table = Table("team", "what it does", box=None)
        for name, path in shipped_teams().items():
            table.add_row(name, escape(path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")))
        Console().print(table)


def teams_show(team: TeamName, mermaid: AsMermaid = False) -> None:
    """A team drawn: who takes which step, what is read there, and where it goes."""
    with errors():
        from ..runs.team_view import TeamView
        from ..runs.team_view import mermaid as drawn
        from ..settings.teams import named

        workflow = named(team)
        if mermaid:
            print(drawn(workflow), end="")
        else:
            Console(highlight=False).print(TeamView(workflow))


def teams_copy(
    team: TeamName,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Where to; default: here, under its own name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Copy a team to edit it; `team: PATH` in a recipe then uses it."""
    with errors():
        from ..settings.teams import found

        source = found(team)
        write_new(path or Path(source.name), source.read_text(encoding="utf-8"), force=force)
