"""A run folder to one picture: what came out, what training saw, and how the agents talk now.

Nothing that the run has stored is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from ..settings.machine import Speaker
from .chosen import PASTE
from .dialogue_view import printable, typical_pair
from .evaluation_view import Curve, evaluation_table, gain_table, remarks
from .evaluations import evaluations, undone_remarks
from .folder import RunFolder
from .market_view import market_parts
from .search_view import search_parts
from .searches import prompt_search
from .spoken_view import spoken_lines
from .step_view import (
    format_lines,
    imitation_table,
    preference_table,
    reinforcement_table,
    taught_lines,
    verdict_lines,
)
from .steps import imitations, preferences, reinforcements
from .summary import work


def overview(run: RunFolder, speakers: Mapping[str, Speaker] | None = None) -> RenderableType:
    """Everything that `optima-lite report` shows. speakers: of the machine file, for their prices."""
    rows = evaluations(run)
    imitated, preferred, reinforced = imitations(run), preferences(run), reinforcements(run)
    variants = "".join(f", {variant}" for variant in run.manifest.get("variants", ()))
    title = f"{run.manifest.get('recipe_name')}{variants}, seed {run.manifest['recipe'].get('seed')}, in {run.folder}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if rows:
        gain = gain_table(run, rows)
        parts += [evaluation_table(rows, undone_remarks(run)), *remarks(rows), Text(""), Curve(rows)]
        parts += [Text(""), gain] if gain else []
    else:
        parts.append(Text("nothing has been evaluated yet"))
    if imitated:
        parts += [Text(""), imitation_table(imitated), *format_lines(imitated), *taught_lines(imitated)]
    if preferred:
        parts += [Text(""), preference_table(preferred)]
    if reinforced:
        parts += [Text(""), reinforcement_table(reinforced)]
    if search := prompt_search(run):
        parts += [Text(""), *search_parts(search)]
    if (run.folder / PASTE).exists():
        pasted = (run.folder / PASTE).read_text(encoding="utf-8")
        parts += [
            Text(""),
            Text(f"to paste into a recipe, also in {PASTE}:\n", style="dim"),
            Text(printable(pasted), no_wrap=True, overflow="ignore"),
        ]
    parts += verdict_lines(run)
    parts += [part for table in market_parts(run) for part in (Text(""), table)]
    parts += spoken_lines(run, speakers)
    pair, line = typical_pair(run, rows), work_line(run)
    parts += [Text(""), pair] if pair else []
    parts += [Text(""), line] if line else []
    return Group(*parts)


def result(run: RunFolder, speakers: Mapping[str, Speaker] | None = None) -> RenderableType:
    """What `optima-lite train` ends with: the table, the gain, and how the pair talked before and after. speakers: as
    in `overview`."""
    rows = evaluations(run)
    said = [*remarks(rows), *verdict_lines(run), *spoken_lines(run, speakers)]
    evaluated = Group(evaluation_table(rows, undone_remarks(run)), *said)
    search = prompt_search(run)
    told = Group(*search_parts(search)) if search else None
    after = (told, *market_parts(run), typical_pair(run, rows), work_line(run))
    parts: list[RenderableType | None] = [evaluated, gain_table(run, rows), *after]
    return Group(*[line for part in parts if part is not None for line in (Text(""), part)])


def work_line(run: RunFolder) -> Text | None:
    """The same in a sentence."""
    tokens = work(run)
    if tokens is None:
        return None
    read = f"{tokens['computed']:,} tokens read by the model, {tokens['reused']:,} found in its cache"
    elsewhere = " by a server, so that what is computed again may differ" if run.manifest.get("sampler") else ""
    return Text(f"{read}, {tokens['sampled']:,} sampled{elsewhere}", style="dim")
