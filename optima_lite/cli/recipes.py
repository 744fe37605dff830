"""`recipes list`, `recipes show` and `recipes copy`: the recipes that come along, and what they set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .arguments import AsJson, Overrides, RecipeName, Variant
from .console import errors, write_new


def recipes_list(as_json: AsJson = False) -> None:
    """The recipes that come with optima-lite, the one to begin with first."""
    with errors():
        from ..settings.config import shipped_recipes

        table = Table("recipe", "what it does", box=None)
        for name, path in sorted(shipped_recipes().items(), key=lambda item: item[0] != "quickstart"):
            what = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            table.add_row(name, escape(what))
            if as_json:
                print(json.dumps({"recipe": name, "what": what, "path": str(path)}))
        if not as_json:
            Console().print(table)


def recipes_show(recipe: RecipeName, overrides: Overrides = None, variant: Variant = None) -> None:
    """Every setting of a recipe with its value, where the value comes from, and what it means."""
    with errors():
        from ..settings.config import load_recipe
        from ..settings.keys import reference
        from ..settings.recipe import Recipe

        loaded = load_recipe(recipe, overrides=overrides or (), variants=variant or ())
        values = loaded.recipe.to_dict()
        console = Console(highlight=False, soft_wrap=True)
        for key in reference(Recipe):
            value = values
            for part in key.path.split("."):
                value = value[part]
            shown = escape(json.dumps(value, ensure_ascii=False))
            where = escape(loaded.origins[key.path].replace(str(loaded.path), loaded.path.name))
            console.print(f"[bold]{key.path}[/bold]: {shown}  [dim]({where})[/dim]\n    {escape(key.description)}")
        if loaded.available:
            console.print(f"variants: {', '.join(loaded.available)}")


def recipes_copy(
    recipe: RecipeName,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Where to; default: here, under its own name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Copy a recipe to edit it."""
    with errors():
        from ..settings.config import load_recipe

        source = load_recipe(recipe).path
        write_new(path or Path(source.name), source.read_text(encoding="utf-8"), force=force)
