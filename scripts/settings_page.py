"""Writes docs/settings.md: every setting of a recipe with its default, as the schema has it.

python scripts/settings_page.py
"""

from __future__ import annotations

from pathlib import Path

from optima_lite.settings.keys import Key, reference
from optima_lite.settings.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings of a recipe

Every setting with its default; a recipe needs to say only what it wants otherwise. `optima-lite recipes show RECIPE`
tells the values of one recipe, and where each comes from. A mistake is told with file, line and the nearest real key.
The settings of the machine are those of `optima_lite.toml`, which `optima-lite init` writes with comments; what stands
below `team` is a page of its own, [teams](teams.md).
"""


def page() -> str:
    """The page, a table for each section; settings without one come first."""
    sections: dict[str, list[Key]] = {"": []}
    for key in reference(Recipe):
        sections.setdefault(key.path.rpartition(".")[0], []).append(key)
    return "\n".join([HEAD, *(table(name, keys) for name, keys in sections.items())])


def table(section: str, keys: list[Key]) -> str:
    """The rows of a section. section: its name, empty for the settings outside of one."""
    title = [f"## {section}", ""] if section else []
    rows = [f"| `{key.path}` | {shown(key.default)} | {key.description.replace('|', chr(92) + '|')} |" for key in keys]
    return "\n".join([*title, "| setting | default | what it is |", "|---|---|---|", *rows, ""])


def shown(default: str | None) -> str:
    """A default as a recipe writes it; one that is long is told by its length."""
    if default is None:
        return "required"
    return f"`{default}`" if len(default) <= 60 else "see `recipes show`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
