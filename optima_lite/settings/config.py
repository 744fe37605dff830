"""Loading a recipe or a machine file: where it lies, what is laid over it, and where each value came from.

A recipe (YAML) is the science and means the same on every machine; `optima_lite.toml` is the machine. No key lives in
both. A value is the schema's default unless the recipe's `preset`, then the recipe, then a chosen variant, then
`key.sub=value` on the command line says otherwise. All mistakes of a load are reported together, each with its origin,
its key and the nearest real one.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import presets, strict_yaml, teams
from .consistency import idle
from .grammar import At
from .keys import checked, reference, validated
from .layers import (
    LONGEST_LINE,
    Layer,
    Mistake,
    Setting,
    combine,
    cut,
    flatten,
    mistaken,
    near_names,
    nearest,
    variant_layers,
)
from .machine import MACHINE_FILE, MACHINE_KEYS, Machine
from .plugin import load as load_plugin
from .recipe import RECIPE_KEYS, Recipe, recipe_advice

COMMAND_LINE = "command line"
_OF_ANY_TEAM = (
    "team.adapters",
    "team.spoken_by",
    "team.transfer",
    "team.stream",
)  # may be set without the team being written out
_FROM_PRESET = "preset "
_LARGEST_FILE = 100_000  # bytes; a recipe of one line for every setting has a tenth of that


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe and where it comes from.

    name: the file's stem. variants: the chosen ones, in order; available: all that the file offers. origins: for each
    dotted key its file and line, `command line`, `preset NAME`, or `default`.
    """

    recipe: Recipe
    name: str
    variants: tuple[str, ...]
    available: tuple[str, ...]
    path: Path
    origins: Mapping[str, str]


def load_recipe(source: str | Path, *, overrides: Sequence[str] = (), variants: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe in a file, or the shipped one of that name, with variants and `key.sub=value` overrides laid over it.

    variants: names, also several in one string with commas between. Raises ConfigError with every mistake found.
    """
    path = _find_recipe(source)
    document = strict_yaml.load(_read(path))
    mistakes = [Mistake(_at(path, m.line), ".".join(m.path), m.what) for m in document.mistakes]
    overriding = _overrides(overrides, mistakes)
    if document.value is None:
        raise mistaken(mistakes)

    def origin(keys: tuple[str, ...]) -> str:
        return _at(path, document.lines.get(keys))

    # a section whose every line is commented out is null
    values = {key: value for key, value in document.value.items() if value is not None or not RECIPE_KEYS.get(key)}
    blocks = variant_layers(values.pop("variants", None), RECIPE_KEYS, origin, mistakes, advice=recipe_advice)
    base = flatten(values, RECIPE_KEYS, origin, mistakes, advice=recipe_advice)
    _resolve_team(base, origin, ("team",), mistakes)
    of_team = {key: overriding.pop(key) for key in [*overriding] if _of_any_team(key)}
    _resolve_team(overriding, lambda _: COMMAND_LINE, ("team",), mistakes)
    for name, block in blocks.items():
        _resolve_team(block, origin, ("variants", name, "team"), mistakes)
    named = (name.strip() for names in variants for name in names.split(","))
    chosen = tuple(dict.fromkeys(name for name in named if name))
    for name in chosen:
        if name not in blocks:
            what = f"no such variant; {near_names(name, [*blocks])}"
            mistakes.append(Mistake(COMMAND_LINE, f"--variant {name}", what))
    layer = _on_preset(base | combine([blocks[name] for name in chosen if name in blocks], mistakes) | overriding)
    if of_team:
        _change_team(layer, of_team, mistakes)
    for block in blocks.values():  # a variant that nobody chose may be wrong too
        mistakes += [
            wrong for wrong in validated(Recipe, _on_preset(base | block), str(path))[1] if wrong.path in block
        ]
    recipe = checked(Recipe, layer, str(path), mistakes)
    origins = {key.path: layer[key.path].origin if key.path in layer else "default" for key in reference(Recipe)}
    _refuse_idle(recipe, origins, path)
    recipe = recipe.with_code(load_plugin(path, recipe.plugin) if recipe.plugin else None)
    return LoadedRecipe(recipe, path.stem, chosen, tuple(blocks), path, origins)


def _resolve_team(layer: Layer, at: At, above: tuple[str, ...], mistakes: list[Mistake]) -> None:
    """Puts the keys of a team in the place of its name; one that is none is taken out, its mistakes being told."""
    stated = layer.pop("team", None)
    if stated is None or stated.value is None:
        return
    beside = "is not read beside a team, which says who speaks and when"
    mistakes += [Mistake(one.origin, key, beside) for key, one in layer.items() if key.startswith("protocol.")]
    team = teams.resolved(stated.value, at, mistakes, above=above)
    if team is not None:
        layer["team"] = Setting(team, stated.origin)


def _of_any_team(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in _OF_ANY_TEAM)


def _change_team(layer: Layer, settings: Layer, mistakes: list[Mistake]) -> None:
    """Puts other settings into the layer's team."""
    if "team" not in layer:
        what = "there is no team that could have them; add team=exchange"
        mistakes += [Mistake(one.origin, key, what) for key, one in settings.items()]
        return
    changed = dict(layer["team"].value)
    for key, one in settings.items():
        _, name, *inside = key.split(".", 2)
        section = changed.get(name)
        changed[name] = (
            {**(section if isinstance(section, dict) else {}), inside[0]: one.value} if inside else one.value
        )
    team = teams.resolved(changed, lambda _: COMMAND_LINE, mistakes, above=("team",))
    if team is not None:
        layer["team"] = Setting(team, COMMAND_LINE)


def _refuse_idle(recipe: Recipe, origins: Mapping[str, str], path: Path) -> None:
    """ConfigError for what somebody set to another value than the default, and nothing would read."""
    values = recipe.to_dict()
    defaults = {key.path: json.loads(key.default) for key in reference(Recipe) if key.default is not None}
    written = [key for key, origin in origins.items() if origin != "default" and not origin.startswith(_FROM_PRESET)]
    stated = [key for key in written if _at_key(values, key) != defaults.get(key)]
    wrong = [Mistake(origins[key] if key in written else str(path), key, why) for key, why in idle(values, stated)]
    if wrong:
        raise mistaken(wrong)


def _at_key(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values[part]
    return values


def _on_preset(layer: Layer) -> Layer:
    """The layer over the preset that it names, if it names one; a wrong name is left for the schema to refuse."""
    stated = ("preset", "task.name", "schedule", "method")
    name, task, schedule, method = (layer[key].value if key in layer else None for key in stated)
    if not isinstance(name, str) or name not in presets.PRESETS:
        return layer
    of_search = name == "official" and method == "prompts"
    values = presets.official_search() if of_search else presets.PRESETS[name](task, schedule)
    return {key: Setting(value, _FROM_PRESET + name) for key, value in values.items()} | layer


def load_machine(path: Path | None = None) -> Machine:
    """The machine settings from `path`, else from where `find_machine_file` looks, else the defaults.

    Raises ConfigError with every mistake found.
    """
    found = path or find_machine_file()
    if found is None:
        return Machine()
    text = _read(found)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ConfigError(f"not valid TOML: {error}", where=found) from None
    mistakes: list[Mistake] = []
    layer = flatten(
        values, MACHINE_KEYS, lambda keys: _at(found, _toml_line(text, keys[0])), mistakes, advice=_machine_advice
    )
    return checked(Machine, layer, str(found), mistakes)


def find_machine_file() -> Path | None:
    """`optima_lite.toml` in the working folder, else in the user's config folder, else None."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
    places = (Path(MACHINE_FILE), home / "optima_lite" / MACHINE_FILE)
    return next((place for place in places if os.path.isfile(place)), None)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    try:
        folder = Path(str(importlib.resources.files("optima_lite.recipes")))
    except ModuleNotFoundError:  # a source tree that is not installed
        folder = Path(__file__).parents[2] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find_recipe(source: str | Path) -> Path:
    path = Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    if os.path.isdir(path):
        raise ConfigError("a folder, not a recipe", where=path, hint="give the recipe's YAML file")
    beside = [str(file) for file in sorted(path.parent.glob("*.y*ml"))] if os.path.isdir(path.parent) else []
    name = str(source)[:LONGEST_LINE]
    near = [path.stem] if path.stem in shipped else difflib.get_close_matches(name, [*shipped, *beside])
    near = near or difflib.get_close_matches(path.stem[:100], shipped)
    hint = " or ".join(near) if near else f"a path, or a shipped recipe: {', '.join(shipped)}"
    raise ConfigError("no such recipe", where=cut(source), hint=hint)


def _read(path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError("not a file", where=path)
        if about.st_size > _LARGEST_FILE:
            raise ConfigError(f"larger than {_LARGEST_FILE // 1000} kB, so it holds no settings", where=path)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("not a text file in UTF-8", where=path, hint="save it as UTF-8") from error
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=path) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=cut(path)) from error
    except ValueError as error:
        raise ConfigError("no file can have this name", where=cut(path)) from error


def _at(path: Path, line: int | None) -> str:
    return f"{path}:{line}" if line else str(path)


def _toml_line(text: str, key: str) -> int | None:
    """Line of a top-level key or table; tomllib does not keep it."""
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(key)}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def _overrides(texts: Sequence[str], mistakes: list[Mistake]) -> Layer:
    layer: Layer = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if len(text) > _LARGEST_FILE:
            mistakes.append(Mistake(COMMAND_LINE, text, "too long for a setting"))
            continue
        if not (equals and all(part.strip() for part in key.split("."))) or key.count(".") > 10:
            mistakes.append(Mistake(COMMAND_LINE, text, "not of the form key.sub=value"))
            continue
        new = _override(key.strip(), value, mistakes)
        mistakes += [Mistake(COMMAND_LINE, repeated, "given twice") for repeated in new if repeated in layer]
        layer |= new
    return layer


def _override(key: str, text: str, mistakes: list[Mistake]) -> Layer:
    document = strict_yaml.load_value(text)
    if document.mistakes:
        mistakes += [Mistake(COMMAND_LINE, key, f"{m.what}; quote the value twice") for m in document.mistakes]
        return {}
    parts = key.split(".")
    if parts[:2] == ["reward", "schemas"] and parts[2:]:  # it would take the place of the other roles' schemas
        mistakes.append(Mistake(COMMAND_LINE, key, "the schemas are set all at once: reward.schemas='{Alice: {...}}'"))
        return {}
    values: Any = document.value
    for part in reversed(parts):
        values = {part: values}
    if _of_any_team(key):  # of whatever team the recipe has
        return {key: Setting(document.value, COMMAND_LINE)}

    def whole(dotted: str) -> str:  # an unknown section is reported with the key that was meant to be in it
        return key if key.startswith(dotted) else dotted

    wrong: list[Mistake] = []
    layer = flatten(
        values, RECIPE_KEYS, lambda _: COMMAND_LINE, wrong, advice=lambda dotted: recipe_advice(whole(dotted))
    )
    mistakes += [Mistake(m.origin, whole(m.path), m.what) for m in wrong]
    return layer


def _machine_advice(dotted: str) -> str:
    if dotted == "serve.key":
        return "; it stands in the environment as OPTIMA_LITE_API_KEY, never in a file"
    if dotted in RECIPE_KEYS:
        return "; it belongs in the recipe"
    near = nearest(dotted, MACHINE_KEYS)
    if near:
        return f"; did you mean {near}?"
    near = nearest(dotted, RECIPE_KEYS)
    return f"; {near} belongs in the recipe" if near else ""
