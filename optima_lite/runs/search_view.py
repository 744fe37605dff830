"""A prompt search for people: how good the best was after so many evaluations, what was chosen, who looks at whom."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .cells import count, table_of
from .dialogue_view import printable
from .searches import PromptSearch

_SHOWN = (1, 2, 5, 10, 20, 35, 50, 100, 200, 500)  # evaluations after which the best so far is told


def search_parts(search: PromptSearch) -> Iterator[RenderableType]:
    """Everything that a report tells of a search."""
    yield _progress_table(search)
    yield Text(_sentence(search))
    if search.chosen:
        yield Text("")
        yield _prompt_table(search)
    if len(search.attention) > 1:
        yield Text("")
        yield _attention_table(search)


def _progress_table(search: PromptSearch) -> Table:
    """Best so far and its regret: how much lower it is than the best of all evaluations."""
    found = search.best_so_far()
    shown = [n for n in _SHOWN if n < len(found)] + [len(found)]
    spent: list[int] = []
    known: set[tuple[int, ...]] = set()
    for one in search.trials:
        spent.append(sum(spent[-1:]) + (0 if one.combination in known else one.sampled))
        known.add(one.combination)
    table = table_of("prompt search, evaluations")
    for heading in ("best so far", "regret", "tokens"):
        table.add_column(heading, justify="right")
    for n in shown:
        table.add_row(str(n), f"{found[n - 1]:.3f}", f"{found[-1] - found[n - 1]:.3f}", count(spent[n - 1]))
    return table


def _sentence(search: PromptSearch) -> str:
    combinations = 1
    for size in search.sizes:
        combinations *= size
    tried = len({one.combination for one in search.trials})
    told = f"{tried:,} of {combinations:,} combinations evaluated, {search.tokens:,} tokens"
    if search.written:
        told += f", {search.written:,} of them to write prompts"
    if search.verdict is None:
        return told
    verdict, seen = search.verdict, max(one.value for one in search.trials)
    kept = "kept" if verdict.verdict == "keep" else "given up"
    return (
        f"{told}; the best looked like {seen:.3f}, on fresh questions it is {verdict.after:.3f}, everybody's own "
        f"prompts {verdict.before:.3f}: {kept}"
    )


def _prompt_table(search: PromptSearch) -> Table:
    table = table_of("role")
    table.add_column("chosen prompt", overflow="fold")
    for role, prompt in search.chosen.items():
        table.add_row(role, Text.assemble(printable(prompt.system), "\n", (f"  {prompt.origin}", "dim")))
    return table


def _attention_table(search: PromptSearch) -> Table:
    table = table_of("attention of")
    for role in search.roles:
        table.add_column(f"to {role}", justify="right")
    for role, row in zip(search.roles, search.attention, strict=True):
        table.add_row(role, *(f"{one:.2f}" if one else "-" for one in row))
    return table
