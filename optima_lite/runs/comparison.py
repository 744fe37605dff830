"""Runs side by side: score and tokens of each, and the paired differences from the first on the same questions."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean

from rich.table import Table
from rich.text import Text

from .. import statistics
from ..errors import RunError
from ..records import Rollouts
from .cells import table_of
from .evaluations import evaluation_stage, evaluations, undone_remark
from .folder import RunFolder
from .replies import replies_in


@dataclass(frozen=True, slots=True)
class Compared:
    """One run's last evaluation, and how it differs from the first run's on the questions that both were asked.

    Every low and high is an end of a 95 % interval, None where there is none. shared: those questions. The changes are
    None for the first run itself, and where no question is shared. remark: what to know, such as an undone step.
    elsewhere_tokens: read and said by models elsewhere in all commands of the run, by their own count.
    """

    run: str
    evaluation: str
    decoding: str
    questions: int
    score: float
    score_low: float | None
    score_high: float | None
    tokens: float
    shared: int | None = None
    score_change: float | None = None
    score_change_low: float | None = None
    score_change_high: float | None = None
    tokens_change: float | None = None
    tokens_change_low: float | None = None
    tokens_change_high: float | None = None
    remark: str = ""
    elsewhere_tokens: int = 0


def compare(runs: Sequence[RunFolder], *, decoding: str = "sampled") -> list[Compared]:
    """A line for each run, in their order. Raises RunError for a run that has evaluated no iteration this way."""
    first: dict[str, tuple[float, int]] = {}
    lines = []
    for run in runs:
        line, asked = _last(run, decoding)
        lines.append(_against(line, first, asked) if first else line)
        first = first or asked
    return lines


def _last(run: RunFolder, decoding: str) -> tuple[Compared, dict[str, tuple[float, int]]]:
    """A run's line without changes, and for each question the score and the tokens of its dialogue."""
    rows = [row for row in evaluations(run) if row.decoding == decoding and row.name.startswith("iteration_")]
    if not rows:
        raise RunError(
            f"has evaluated no iteration {decoding} yet", where=run.folder, hint="finish it: the same command"
        )
    row = rows[-1]
    groups = run.read(evaluation_stage(row.name, decoding), Rollouts)
    asked = {one.question.id: (one.rewards[0].task, one.dialogues[0].tokens) for one in groups if one.rewards}
    remark = undone_remark(run, int(row.name.removeprefix("iteration_")))
    low, high = row.score_low, row.score_high
    taken = sum(replies.prompt_tokens + replies.completion_tokens for replies in replies_in(run.folder).values())
    line = Compared(
        *(run.folder.name, row.name, decoding, row.questions, row.score, low, high, row.tokens),
        remark=remark,
        elsewhere_tokens=taken,
    )
    return line, asked


def _against(line: Compared, first: dict[str, tuple[float, int]], asked: dict[str, tuple[float, int]]) -> Compared:
    shared = [question for question in first if question in asked]
    values = asdict(line) | {"shared": len(shared)}
    if shared:
        for k, name in enumerate(("score", "tokens")):
            before, after = ([float(of[question][k]) for question in shared] for of in (first, asked))
            change = statistics.of_score_change if name == "score" else statistics.of_change
            low, high = change(before, after) or (None, None)
            values |= {f"{name}_change": fmean(after) - fmean(before)}
            values |= {f"{name}_change_low": low, f"{name}_change_high": high}
    return Compared(**values)


def comparison_table(lines: Sequence[Compared]) -> Table:
    """A line each, with how many questions were asked; the changes are against the first run on the questions shared,
    with 95 % intervals below them; fits 80 columns."""
    table = table_of("run")
    for heading in ("score", "tokens", "score against\nthe first", "tokens against\nthe first"):
        table.add_column(heading, justify="right")
    for line in lines:
        about = f"\n  {line.evaluation} {line.decoding} ({line.questions})"
        remark = f"\n  {line.remark}" if line.remark else ""
        taken = f"\n  {line.elsewhere_tokens:,} tokens elsewhere" if line.elsewhere_tokens else ""
        few = f"\n  {line.shared} shared" if line.shared not in (None, line.questions) else ""
        table.add_row(
            Text.assemble(line.run, (about, "dim"), (taken, "dim"), (remark, "yellow"), (few, "yellow")),
            _with_bounds(f"{line.score:.3f}", line.score_low, line.score_high, ".2f"),
            f"{line.tokens:.1f}",
            _change(line.score_change, line.score_change_low, line.score_change_high, "+.3f", "+.2f"),
            _change(line.tokens_change, line.tokens_change_low, line.tokens_change_high, "+.1f", "+.1f"),
        )
    return table


def _change(value: float | None, low: float | None, high: float | None, form: str, bounds: str) -> Text:
    return Text("-") if value is None else _with_bounds(format(value, form), low, high, bounds)


def _with_bounds(value: str, low: float | None, high: float | None, form: str) -> Text:
    bounds = "" if low is None or high is None else f"\n[{format(low, form)}, {format(high, form)}]"
    return Text.assemble(value, (bounds, "dim"))


def as_csv(lines: Sequence[Compared]) -> str:
    """The lines under the names of their fields."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=[field.name for field in fields(Compared)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return stream.getvalue()
