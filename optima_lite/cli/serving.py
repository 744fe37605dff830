"""`serve`: a run's team behind OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import ConfigError
from .arguments import (
    ConfigOption,
    Iteration,
    RunFolderArgument,
    StepsOption,
    TransferOption,
    handing_on,
    iteration_number,
    machine_of,
    open_run,
)
from .console import console_of, errors, import_libraries
from .early import say

if TYPE_CHECKING:
    from ..serve.app import Service
    from ..settings.machine import Serve


def serve(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    host: Annotated[
        str | None, typer.Option(help="Who may ask: 127.0.0.1, the default, this machine alone; others need a key.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any that is free; default 8000.")] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="Of the models: NAME, NAME:role, NAME:solo; default optima.")
    ] = None,
    waiting: Annotated[int | None, typer.Option(help="Answers owed at most; more get 429; default 64.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="For an answer, and for a request to arrive; default 120.")
    ] = None,
    body: Annotated[int | None, typer.Option(help="KiB of a request; default 1024.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Of web pages that may ask; may be given again.")] = None,
    transfer: TransferOption = None,
    steps: StepsOption = None,
    config: ConfigOption = None,
) -> None:
    """Answer as OpenAI's chat completions do: the team, each of its roles, the single agent. What no flag says is taken
    from the machine file's section serve. A key that clients must show stands in OPTIMA_LITE_API_KEY."""
    with errors():
        machine = machine_of(config)
        origins = tuple(origin) if origin else None
        flags = dict(
            host=host,
            port=port,
            served_model_name=served_model_name,
            waiting=waiting,
            seconds=seconds,
            body=body,
            origin=origins,
        )
        how = _how(machine.serve, flags)
        console = console_of(machine)
        found = open_run(run, machine)
        number = iteration_number(found, iteration)
        for needed in ("fastapi", "prometheus_client", "uvicorn"):
            if find_spec(needed) is None:
                raise ConfigError(f"serving needs the package {needed}", hint="in the clone: pip install '.[serve]'")
        from ..serve.address import Limits, bound, limits_of

        limits = limits_of(how.host, Limits(how.waiting, how.body << 10, how.seconds, how.origin))
        with bound(how.host, how.port) as taken:
            say(console, f"{found.folder}: the libraries and the model are being loaded")
            import_libraries()
            from ..serve.running import run as answer
            from ..serve.running import service_of
            from ..stage.cast import recall

            cast = recall(found, machine=machine, iteration=number, handing_on=handing_on(transfer, steps))
            after = "untrained" if number is None else f"iteration-{number}"
            run_name = f"{found.folder.resolve().name}-{after}"
            service = service_of(cast, limits, name=how.served_model_name, fingerprint=run_name)
            address = f"http://{f'[{how.host}]' if ':' in how.host else how.host}:{taken.getsockname()[1]}"
            answer(service, taken, ready=lambda: _tell(console, service, address))


def _how(stated: Serve, flags: Mapping[str, object]) -> Serve:
    """What the machine file says, and over it what the command line does. Raises ConfigError for what cannot be."""
    from ..settings.config import COMMAND_LINE
    from ..settings.keys import checked
    from ..settings.layers import Setting
    from ..settings.machine import Serve

    given = {name: value for name, value in flags.items() if value is not None}
    return checked(Serve, {k: Setting(v, COMMAND_LINE) for k, v in (dict(stated) | given).items()}, COMMAND_LINE, [])


def _tell(console: Console, service: Service, address: str) -> None:
    key = ' -H "Authorization: Bearer $OPTIMA_LITE_API_KEY"' if service.limits.key else ""
    team, *others = service.company.models
    question = json.dumps({"model": team, "messages": [{"role": "user", "content": "Question: ..."}]})
    lines = [
        f"{address}/v1 answers as {team}; also {', '.join(others)}; this is {service.fingerprint}",
        f"curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{question}'",
        "Ctrl-C ends it",
    ]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.file.flush()  # it may go to a file or a pipe, and this goes on for days
