"""What several verbs take from the command line: the options they share, and what the words typed there stand for."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ..errors import OptimaError
from ..settings.workflow import Transfer

if TYPE_CHECKING:
    from ..runs.folder import RunFolder
    from ..settings.config import LoadedRecipe
    from ..settings.machine import Machine
    from ..stage.cast import HandingOn


class Sink(enum.StrEnum):
    """Where curves can go."""

    TENSORBOARD = "tensorboard"
    TRACKIO = "trackio"
    WANDB = "wandb"
    MLFLOW = "mlflow"


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as training.iterations=4."),
]
Variant = Annotated[list[str] | None, typer.Option("--variant", "-v", help="Variants of the recipe, as a,b.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run folder, instead of one named after the recipe.")]
RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its name under run_folder.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="The machine file, instead of ./optima_lite.toml.")]
Iteration = Annotated[str, typer.Option("--iteration", "-i", help="An iteration's number, `last`, or `untrained`.")]
TransferOption = Annotated[
    str | None,
    typer.Option("--transfer", help="Hand messages on `serial`, whole, or `stream`, by steps; default: the recipe's."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="With --transfer: steps of a message.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the result and errors.")]
ReportTo = Annotated[
    list[Sink] | None, typer.Option("--report-to", help="Where curves go, instead of the machine file's report_to.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Events and the result as JSON, one object a line.")]


def machine_of(config: Path | None) -> Machine:
    """The settings of this machine: --config, or what stands in its place."""
    from ..settings.config import load_machine

    return load_machine(config)


def load(
    recipe: str, overrides: list[str] | None, variant: list[str] | None, config: Path | None
) -> tuple[LoadedRecipe, Machine]:
    """The recipe as it was asked for, and the settings of this machine."""
    from ..settings.config import load_recipe

    return load_recipe(recipe, overrides=overrides or (), variants=variant or ()), machine_of(config)


def handing_on(transfer: str | None, steps: int | None) -> HandingOn | None:
    """What --transfer and --steps ask for; None for the recipe's own way. Raises OptimaError for what is none."""
    if transfer is None:
        if steps is not None:
            raise OptimaError("--steps needs --transfer", hint="--transfer stream --steps 4")
        return None
    if transfer not in get_args(Transfer):
        raise OptimaError(f"must be serial or stream, not {transfer}", where="--transfer")
    from ..stage.cast import HandingOn

    return HandingOn(cast(Transfer, transfer), steps)


def open_run(run: Path, machine: Machine) -> RunFolder:
    """The run of that path, or of that name among the runs. Raises RunError if there is none."""
    from ..runs.opened import find_run

    return find_run(run, machine)


def iteration_number(run: RunFolder, wanted: str) -> int | None:
    """The iteration that --iteration names, None for the untrained agents. RunError for one that is not trained."""
    from ..runs import opened

    number = opened.iteration_number(run, wanted, where="--iteration")
    opened.require_iteration(run, number)
    return number
