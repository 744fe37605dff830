"""What several verbs do at the terminal. Only here do errors become messages and exit codes."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptimaError

if TYPE_CHECKING:
    from ..runs.progress import Observer
    from ..settings.machine import Machine

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
    except OSError as error:
        raise typer.Exit(_of_the_system(error)) from None


_SYSTEM = {  # what a name on the command line, or where the output goes, can be guilty of
    errno.ENOSPC: "the output cannot be written: no space is left there",
    errno.EDQUOT: "the output cannot be written: the quota is used up",
    errno.EIO: "the input cannot be read, or the output not written",
    errno.EISDIR: "a folder where a file is needed",
    errno.ENOTDIR: "a file where a folder is needed",
    errno.ENAMETOOLONG: "no file can have so long a name",
    errno.ELOOP: "the links of this name lead in a circle",
}


def _of_the_system(error: OSError) -> int:
    """The exit code for an error of the operating system that reached the terminal's edge; said where it is not the
    program's own fault, raised again where it may be."""
    if error.errno == errno.EPIPE:  # `... | head` has seen enough
        _silence(sys.stdout)
        return 0
    if error.errno not in _SYSTEM:
        raise error
    _silence(sys.stdout)
    where = "" if error.filename is None else f"{str(error.filename)[:200]}: "
    print(f"error {where}{_SYSTEM[error.errno]}", file=sys.stderr)
    return 2


@contextmanager
def streams() -> Iterator[None]:
    """Standard streams that take any text, exist even when they were closed, and are written out before the end.

    What is left to the interpreter's own last flush ends, when it fails, in a traceback that nobody can catch.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (open to the end)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    try:
        try:
            yield
        except SystemExit as stop:
            # rich and typer make a closed pipe an exit with code 1, before anybody else sees it
            if isinstance(stop.__context__, BrokenPipeError):
                raise stop.__context__ from None
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except OSError as error:
        sys.exit(_of_the_system(error))


def _silence(stream: TextIO) -> None:
    """Sends what the stream still holds nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    from ..model.resources import kept, let_threads_sleep

    let_threads_sleep(os.environ)
    with ctrl_c_waits(), kept():
        from ..methods import train  # noqa: F401  (and with it everything else)


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
    if os.path.exists(path) and not force:
        raise OptimaError("exists already", where=path, hint="--force to replace it, or another path")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptimaError(f"cannot be written: {error.strerror}", where=path) from error
    Console(highlight=False).print(f"wrote {escape(str(path))}")
