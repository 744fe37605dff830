"""`import`: trajectories that exist, made demonstrations for a recipe's team."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import DataError, OptimaError
from .arguments import ConfigOption, Overrides, Variant, load
from .console import console_of, errors, import_libraries, progress

if TYPE_CHECKING:
    from ..stage.importing import Imported

_HINTS = {  # where nothing can be used, by what most of its rows want
    "unknown role": "--roles says who is who, such as --roles user=Alice,assistant=Bob (docs/teacher.md)",
    "not JSON": "a JSON object a line, in UTF-8; a list of objects in brackets is none",
}
_SHOWN = 20  # refused rows that are told one by one; all of them are in the file of the refused


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Rows of messages: OpenAI's layout or ShareGPT's.")
    ],
    overrides: Overrides = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="Whose team, model and task they are for.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of the file, such as CC-BY-4.0; `unknown` where nobody says.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Where the file comes from, such as its address.")
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--roles",
            metavar="ROLE=WHO,...",
            help="Who says the messages of a role or name of the file: one of the team, `question` or `nobody`.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; default: FILE.demonstrations.jsonl, here.")
    ] = None,
    variant: Variant = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make demonstrations of dialogues that exist; `teacher.demonstrations` in a recipe then begins with them."""
    with errors():
        if recipe is None:
            raise OptimaError("for which team, model and task?", where="--recipe", hint="--recipe hotpotqa")
        if not licence:
            hint = "--licence CC-BY-4.0, or --licence unknown; it stays with every row and with what is trained on it"
            raise OptimaError("under which licence may the file be used?", where="--licence", hint=hint)
        loaded, machine = load(recipe, overrides, variant, config)
        mapped = _mapped(roles or [])
        path = output or Path(f"{file.stem}.demonstrations.jsonl")
        _require_places(file, path, force=force)
        import_libraries()
        from ..runs.demonstrations import write_demonstrations
        from ..stage.importing import import_file

        console = console_of(machine)
        with progress(console, quiet=not console.is_terminal, as_json=False) as observe:
            found = import_file(
                *(file, loaded.recipe),
                machine=machine,
                roles=mapped,
                licence=licence.strip(),
                source=source,
                observe=observe,
            )
        if found.rows:
            write_demonstrations(path, found.rows)
            console.print(f"wrote {escape(str(path))}: {len(found.rows):,} demonstrations", soft_wrap=True)
        if found.unread:
            console.print(f"{found.unread:,} messages of these are nobody's, such as system prompts: not read")
        _tell_refused(console, found, path)
        if not found.rows:
            most = next(iter(found.counts), "")
            hint = _HINTS.get(most, "docs/teacher.md tells what a row needs")
            raise DataError("none of its rows can be used" if most else "holds no row", where=file, hint=hint)


def _mapped(stated: list[str]) -> dict[str, str]:
    """What --roles says, by the role of the file."""
    pairs = [pair.strip().partition("=") for one in stated for pair in one.split(",") if pair.strip()]
    for role, _, who in pairs:
        if not role or not who:
            raise OptimaError("must be such as user=Alice,assistant=Bob", where="--roles")
    return {role.strip(): who.strip() for role, _, who in pairs}


def _require_places(file: Path, path: Path, *, force: bool) -> None:
    if not os.path.isfile(file):
        raise DataError("no such file", where=file)
    if not os.path.getsize(file):
        raise DataError("is empty", where=file)
    if os.path.exists(path) and (not force or os.path.samefile(path, file)):
        raise OptimaError("exists already", where=path, hint="--force to replace it, or --output OTHER")


def _tell_refused(console: Console, found: Imported, path: Path) -> None:
    """How many rows are refused and why, the first of them one by one, and all in a file."""
    if not found.refused:
        return
    counts = ", ".join(f"{count:,} {why}" for why, count in found.counts.items())
    console.print(f"refused {len(found.refused):,} rows: {counts}", soft_wrap=True)
    for one in found.refused[:_SHOWN]:
        console.print(f"  line {one.line}: {one.why}: {one.what[:300]}", markup=False, soft_wrap=True)
    if len(found.refused) > _SHOWN:
        beside = path.with_suffix(".refused.jsonl")
        lines = (json.dumps(asdict(one)) + "\n" for one in found.refused)
        beside.write_text("".join(lines), encoding="utf-8")
        console.print(f"  and {len(found.refused) - _SHOWN:,} more, all in {escape(str(beside))}", soft_wrap=True)
