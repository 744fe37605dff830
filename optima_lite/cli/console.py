"""What several verbs do at the terminal. Only here do errors become messages and exit codes."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptimaError

if TYPE_CHECKING:
    from ..runs.progress import Observer
    from ..settings.config import Machine

PROGRAM = "optima-lite"


@contextmanager
def errors(*, go_on: str | None = None) -> Iterator[None]:
    """Mistakes as a message with their exit code; Ctrl-C as one line with the command that goes on."""
    try:
        yield
    except OptimaError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]error[/bold red] {escape(str(error))}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        ending = f"; what is complete is kept. Go on with: {go_on}" if go_on else ""
        print(f"\nstopped{ending}", file=sys.stderr)
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `... | head` has seen enough
        sys.stderr.close()
        raise typer.Exit(0) from None


def console_of(machine: Machine) -> Console:
    """Where results go, coloured as the machine file wants it."""
    force = {"always": True, "never": None, "auto": None}[machine.colour]
    return Console(force_terminal=force, no_color=machine.colour == "never" or None, highlight=False)


def program() -> str:
    """What to type for this program: the path that was typed, where its name alone is not found."""
    typed = sys.argv[0]
    return typed if Path(typed).name == PROGRAM and shutil.which(PROGRAM) is None else PROGRAM


def import_libraries() -> None:
    """Reads all that is heavy in one go, which Ctrl-C does not tear apart."""
    with ctrl_c_waits():
        from ..methods.optima import loop  # noqa: F401  (and with it everything else)


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C counts at the end of the block. In the middle of their import, numpy and torch would end with a traceback
    of their own, or go on without a part of themselves."""
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def progress(console: Console, *, quiet: bool, as_json: bool) -> Iterator[Observer]:
    """An observer that shows what goes on, for as long as the block lasts."""
    from ..runs.live import JsonObserver, LiveObserver, PlainObserver
    from ..runs.progress import silent

    if as_json:
        yield JsonObserver(sys.stdout)
    elif quiet:
        yield silent
    elif console.is_terminal:
        with LiveObserver(console) as observe:
            yield observe
    else:
        yield PlainObserver(sys.stdout)


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write a new file for the user and say so. Raises OptimaError if it is there, unless `force`, or not writable."""
    if path.exists() and not force:
        raise OptimaError("exists already", where=path, hint="--force to replace it, or another path")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptimaError(f"cannot be written: {error.strerror}", where=path) from error
    Console(highlight=False).print(f"wrote {escape(str(path))}")
