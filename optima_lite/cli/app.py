"""The verbs of the command line, and where each is told.

Exit codes: 0 done, 1 a training self-check failed, 2 a mistake that the message tells how to mend, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated

import typer

from . import look, machine, many, measure, outlets, recipes, serving, streams, teaching, teams
from .console import PROGRAM
from .console import streams as standard_streams
from .train import train

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name=PROGRAM,
    help="Train a team of LLM agents to solve more and say less, on one GPU; with the bundled tiny model, on none.",
    epilog="Exit codes: 0 done; 1 a training self-check failed; 2 a mistake that the message tells how to mend; 130 "
    "stopped by Ctrl-C. Begin with: optima-lite train quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)
recipes_app = typer.Typer(help="Shipped recipes: list, show, copy.", no_args_is_help=True, context_settings=_HELP)
runs_app = typer.Typer(help="Finished and unfinished runs.", no_args_is_help=True, context_settings=_HELP)
app.add_typer(recipes_app, name="recipes")
teams_app = typer.Typer(help="Shipped teams: list, show, copy.", no_args_is_help=True, context_settings=_HELP)
app.add_typer(runs_app, name="runs")
app.add_typer(teams_app, name="teams")


def _verb(group: typer.Typer, name: str, function: Callable[..., None], example: str) -> None:
    """A verb, with the example that its help ends with."""
    group.command(name, epilog=f"Example: {PROGRAM} {example}", context_settings=_HELP)(function)


_verb(app, "train", train, "train quickstart seed=1 training.iterations=4")
_verb(app, "check", machine.check, "check hotpotqa --vram 24")
_verb(app, "eval", measure.evaluate, "eval runs/quickstart-seed0 --baselines --questions 50")
_verb(app, "scale", measure.scale, "scale runs/quickstart-seed0 --samples 32")
_verb(app, "stream", streams.stream, "stream runs/mine-seed0 --steps 4 --probe")
_verb(app, "compare", many.compare, "compare quickstart-seed0 quickstart-seed1")
_verb(app, "sweep", many.sweep, "sweep quickstart reward.token_weight=0,0.6 seed=0,1")
_verb(app, "chat", look.chat, "chat runs/quickstart-seed0 --sample 3")
_verb(app, "search", look.search, "search runs/quickstart-seed0")
_verb(app, "report", look.report, "report runs/quickstart-seed0")
_verb(app, "view", outlets.view, "view runs/quickstart-seed0")
_verb(app, "serve", serving.serve, "serve runs/quickstart-seed0 --port 8000")
_verb(app, "export", outlets.export, "export runs/quickstart-seed0 my_team --as merged --check 50")
_verb(app, "push", outlets.push, "push runs/quickstart-seed0 USER/NAME --dry-run")
_verb(app, "track", outlets.track, "track runs/quickstart-seed0 --to tensorboard")
_verb(app, "import", teaching.import_, "import talks.jsonl --recipe hotpotqa --licence CC-BY-4.0")
_verb(app, "doctor", machine.doctor, "doctor")
_verb(app, "init", machine.init, "init")
_verb(recipes_app, "list", recipes.recipes_list, "recipes list")
_verb(recipes_app, "show", recipes.recipes_show, "recipes show quickstart")
_verb(recipes_app, "copy", recipes.recipes_copy, "recipes copy quickstart my.yaml")
_verb(runs_app, "list", look.runs_list, "runs list")
_verb(teams_app, "list", teams.teams_list, "teams list")
_verb(teams_app, "show", teams.teams_show, "teams show proposer_critic")
_verb(teams_app, "copy", teams.teams_copy, "teams copy proposer_critic my_team.yaml")


def main() -> None:
    """The command line, on the arguments of this process."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at import what a CPU lacks for four bits
    with standard_streams():
        app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed(PROGRAM))
        raise typer.Exit()
