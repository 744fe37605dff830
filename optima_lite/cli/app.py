"""The verbs of the command line, and where each is told.

Exit codes: 0 done, 1 a training self-check failed, 2 a mistake that the message tells how to mend, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from . import look, machine, measure, recipes
from .console import PROGRAM, streams
from .train import train

app = typer.Typer(
    name=PROGRAM,
    help="Teach two LLM agents to solve more and say less, on one GPU (or, with the bundled tiny model, on none).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="Shipped recipes: list, show, copy.", no_args_is_help=True)
runs_app = typer.Typer(help="Finished and unfinished runs.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(runs_app, name="runs")

app.command("train")(train)
app.command("check")(machine.check)
app.command("eval")(measure.evaluate)
app.command("scale")(measure.scale)
app.command("chat")(look.chat)
app.command("search")(look.search)
app.command("report")(look.report)
app.command("doctor")(machine.doctor)
app.command("init")(machine.init)
recipes_app.command("list")(recipes.recipes_list)
recipes_app.command("show")(recipes.recipes_show)
recipes_app.command("copy")(recipes.recipes_copy)
runs_app.command("list")(look.runs_list)


def main() -> None:
    """The command line, on the arguments of this process."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at import what a CPU lacks for four bits
    with streams():
        app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed(PROGRAM))
        raise typer.Exit()
