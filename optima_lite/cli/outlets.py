"""`view`: ways out of a run folder."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptimaError
from .arguments import ConfigOption, machine_of, open_run
from .console import console_of, errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..runs.folder import RunFolder


def view(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or their names under run_folder.")],
    output: Annotated[Path | None, typer.Option(help="The file; default: RUN.html in the current folder.")] = None,
    opened: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    live: Annotated[bool, typer.Option("--live", help="Follow runs that go on; writes no file.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --live, on this machine alone.")] = 8765,
    config: ConfigOption = None,
) -> None:
    """Everything that a run holds as one HTML file: result, dialogues, trees and pairs; several runs side by side."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        folders = [open_run(run, machine) for run in runs]
        if live:
            if output is not None:
                raise OptimaError("--live writes no file", where="--output", hint="leave one of the two out")
            _follow(console, folders, port, opened=opened)
            return
        from ..outlets.contents import contents
        from ..outlets.page import page

        text = page(contents(folders))
        path = output or Path("-and-".join(folder.folder.resolve().name for folder in folders) + ".html")
        _write(path, text)
        console.print(f"wrote {escape(str(path))} ({len(text) / 1e6:,.1f} MB)", soft_wrap=True)
        if opened:
            _open(path.resolve().as_uri())


def _write(path: Path, text: str) -> None:
    """Writes the page; a file that is there is replaced only where it is such a page."""
    from ..outlets.page import MARK

    try:
        if os.path.exists(path):
            with path.open("rb") as stream:
                if MARK.encode() not in stream.read(4096):
                    raise OptimaError("is there already, and is no page of a run", where=path, hint="--output OTHER")
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OptimaError(f"cannot be written: {error.strerror}", where=path, hint="--output OTHER") from error


def _follow(console: Console, folders: Sequence[RunFolder], port: int, *, opened: bool) -> None:
    from ..outlets.following import HOST, Followed, server

    with server(Followed(folders), port) as serving:
        address = f"http://{HOST}:{serving.server_address[1]}/"
        console.print(f"{address} follows {len(folders)} {'run' if len(folders) == 1 else 'runs'}; Ctrl-C ends it")
        console.file.flush()  # it may go to a file or a pipe, and this goes on for hours
        if opened:
            _open(address)
        serving.serve_forever()


def _open(address: str) -> None:
    """Shows it in a browser with windows; one in the terminal would take the terminal."""
    if sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"))):
        webbrowser.open(address)
