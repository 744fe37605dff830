"""`serve`: a run's team behind OpenAI's API."""

from __future__ import annotations

import json
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


def serve(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    host: Annotated[str, typer.Option(help="Who may ask: 127.0.0.1 this machine alone; others need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    name: Annotated[str, typer.Option(help="Of the models: NAME, NAME:role, NAME:solo.")] = "optima",
    waiting: Annotated[int, typer.Option(min=1, max=4096, help="Answers owed at most; more get 429.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="For an answer, and for a request to arrive.")] = 120.0,
    body: Annotated[int, typer.Option(min=1, help="KiB of a request.")] = 1024,
    origin: Annotated[list[str] | None, typer.Option(help="Of web pages that may ask; may be given again.")] = None,
    transfer: TransferOption = None,
    steps: StepsOption = None,
    config: ConfigOption = None,
) -> None:
    """Answer as OpenAI's chat completions do: the team, each of its roles, the single agent. A key that clients must
    show stands in OPTIMA_LITE_API_KEY."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        found = open_run(run, machine)
        number = iteration_number(found, iteration)
        for needed in ("fastapi", "prometheus_client", "uvicorn"):
            if find_spec(needed) is None:
                raise ConfigError(f"serving needs the package {needed}", hint='pip install "optima-lite[serve]"')
        from ..serve.address import Limits, bound, limits_of

        limits = limits_of(host, Limits(waiting, body << 10, seconds, tuple(origin or ())))
        with bound(host, port) as taken:
            say(console, f"{found.folder}: the libraries and the model are being loaded")
            import_libraries()
            from ..serve.running import run as answer
            from ..serve.running import service_of
            from ..stage.cast import recall

            cast = recall(found, machine=machine, iteration=number, handing_on=handing_on(transfer, steps))
            after = "untrained" if number is None else f"iteration-{number}"
            service = service_of(cast, limits, name=name, fingerprint=f"{found.folder.resolve().name}-{after}")
            address = f"http://{f'[{host}]' if ':' in host else host}:{taken.getsockname()[1]}"
            answer(service, taken, ready=lambda: _tell(console, service, address))


def _tell(console: Console, service: Service, address: str) -> None:
    key = ' -H "Authorization: Bearer $OPTIMA_LITE_API_KEY"' if service.limits.key else ""
    team, *others = service.company.models
    question = json.dumps({"model": team, "messages": [{"role": "user", "content": "Question: ..."}]})
    lines = [
        f"{address}/v1 answers as {team}; also {', '.join(others)}",
        f"curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{question}'",
        "Ctrl-C ends it",
    ]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.file.flush()  # it may go to a file or a pipe, and this goes on for days
