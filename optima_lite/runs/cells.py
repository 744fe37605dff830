"""How the tables of a run look: a frame without lines, and numbers with a dash where nothing is known."""

from __future__ import annotations

from rich.table import Column, Table
from rich.text import Text


def table_of(first: str) -> Table:
    """An empty table with its first column's heading."""
    return Table(Column(first, overflow="fold"), box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")


def with_interval(value: str, low: float | None, high: float | None, *, decimals: int) -> Text:
    """The value, and below it the interval that it has, dimmed; low and high: its ends, None where there is none."""
    if low is None or high is None:
        return Text(value)
    return Text.assemble(value, "\n", (f"[{low:.{decimals}f}-{high:.{decimals}f}]", "dim"))


def count(value: int | None) -> str:
    """A whole number with its thousands apart."""
    return "-" if value is None else f"{value:,}"


def signed(value: float | None, *, decimals: int = 2) -> str:
    """A number with its sign."""
    return "-" if value is None else f"{value:+.{decimals}f}"
