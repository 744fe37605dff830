"""`view`, `export`, `push` and `track`: ways out of a run folder."""

from __future__ import annotations

import enum
import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptimaError, RunError
from .arguments import ConfigOption, Iteration, RunFolderArgument, Sink, iteration_number, machine_of, open_run
from .console import console_of, errors, import_libraries

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


class ExportKind(enum.StrEnum):
    """What `export` can make."""

    ADAPTER = "adapter"
    MERGED = "merged"
    GGUF = "gguf"
    LORA_GGUF = "lora-gguf"
    OLLAMA = "ollama"


class Numbers(enum.StrEnum):
    """How a GGUF file holds its matrices."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


class Base(enum.StrEnum):
    """What an adapter is merged with."""

    TRAINED = "trained"
    ORIGINAL = "original"


def export(
    run: RunFolderArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it goes; new, or empty.")],
    kind: Annotated[ExportKind, typer.Option("--as", help="What it becomes.")] = ExportKind.MERGED,
    iteration: Iteration = "last",
    base: Annotated[
        Base, typer.Option(help="Merge with the weights as the run held them, or as they were before four bits.")
    ] = Base.TRAINED,
    numbers: Annotated[Numbers, typer.Option(help="Of a GGUF file's matrices.")] = Numbers.Q8_0,
    questions: Annotated[
        int, typer.Option("--check", min=0, help="Ask it so many held-out questions beside the run's own team.")
    ] = 0,
    config: ConfigOption = None,
) -> None:
    """A run's team as files for other programs: adapter, merged model, GGUF, or with Modelfiles for Ollama."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        found = open_run(run, machine)
        number = iteration_number(found, iteration)
        if number is None:
            raise RunError("nothing has been trained, so there is nothing to export", where=found.folder)
        import_libraries()
        from ..outlets.checking import check
        from ..outlets.export import Order, write

        order = Order(kind.value, number, base.value, numbers.value)
        write(found, folder, order, machine=machine)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        console.print(f"wrote {escape(str(folder))} ({size / 1e6:,.1f} MB)", soft_wrap=True)
        if questions:
            agreed = check(found, folder, order.kind, machine=machine, iteration=number, count=questions)
            console.print(
                f"{agreed.same} of {agreed.questions} dialogues are the run's own, token for token; "
                f"score {agreed.score:.3f} (the run's {agreed.own_score:.3f}), "
                f"tokens {agreed.tokens:.2f} (the run's {agreed.own_tokens:.2f})",
                soft_wrap=True,
            )


def push(
    run: RunFolderArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="USER/NAME on the Hugging Face hub.")],
    kind: Annotated[ExportKind, typer.Option("--as", help="What is sent.")] = ExportKind.ADAPTER,
    iteration: Iteration = "last",
    numbers: Annotated[Numbers, typer.Option(help="Of a GGUF file's matrices.")] = Numbers.Q8_0,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see it; else you alone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go out, with its card.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put a run's team on the Hugging Face hub, with its card; private by default, and asks before anything leaves."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        if machine.offline and not dry_run:
            raise OptimaError("the machine file says offline", where="optima_lite.toml", hint="--dry-run")
        found = open_run(run, machine)
        number = iteration_number(found, iteration)
        if number is None:
            raise RunError("nothing has been trained, so there is nothing to send", where=found.folder)
        import_libraries()
        from huggingface_hub import HfApi

        from ..outlets import hub
        from ..outlets.export import Order, write

        if not dry_run:
            hub.require_token(repo)
        with tempfile.TemporaryDirectory() as between:
            folder = Path(between) / "export"
            write(found, folder, Order(kind.value, number, numbers=numbers.value), machine=machine)
            if not machine.offline:
                hub.add_licence(folder, found.manifest["recipe"]["model"]["name"], api=HfApi())
            going = hub.outgoing(folder)
            for name, size in going:
                console.print(f"  {name}  {size / 1e3:,.1f} kB", markup=False, soft_wrap=True)
            who = "everybody" if public else "you alone"
            total = sum(size for _, size in going) / 1e6
            console.print(f"{len(going)} files, {total:,.1f} MB, to {repo}, for {who}", markup=False, soft_wrap=True)
            if dry_run:
                console.print((folder / "README.md").read_text("utf-8"), markup=False)
                return
            if not yes and not typer.confirm("Send them?"):
                console.print("nothing was sent")
                return
            message = f"{found.folder.resolve().name}, iteration {number}, as {kind.value}"
            console.print(hub.push(folder, repo, private=not public, message=message, api=HfApi()), markup=False)


def track(
    run: RunFolderArgument,
    to: Annotated[list[Sink], typer.Option("--to", help="Where the curves go; may be given again.")],
    config: ConfigOption = None,
) -> None:
    """Send a run's curves to a tracker: what it has not taken yet, in the same curve as before."""
    with errors():
        from ..outlets import tracking

        machine = machine_of(config)
        found = open_run(run, machine)
        for kind in to:
            count = tracking.track(found, kind.value, project=machine.report_project)
            console_of(machine).print(f"{kind.value}: {count} numbers" if count else f"{kind.value}: nothing new")


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
