"""Evaluations for people: a table of them, of what training gained, of other ways to answer, and a curve of bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from .. import statistics
from ..records import Contender, EvalRow, Rollouts
from .cells import count, table_of, with_interval
from .evaluations import DECODINGS, evaluation_stage, iteration_of, undecided_note
from .folder import RunFolder


def evaluation_table(rows: Sequence[EvalRow], remarks: Mapping[str, str] | None = None) -> Table:
    """One row an evaluation, with 95 % intervals below score and tokens; fits 80 columns. remarks: what to know, by the
    row's name (see `undone_remarks`)."""
    table = table_of("evaluation")
    for heading in ("score", "tokens", "turns", "agreement", "tokens per\ncorrect", "readability\nloss"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        table.add_row(
            Text.assemble(row.name, "\n", (f"  {row.decoding}", "dim"), _below((remarks or {}).get(row.name, ""))),
            with_interval(f"{row.score:.3f}", row.score_low, row.score_high, decimals=2),
            with_interval(f"{row.tokens:.1f}", row.tokens_low, row.tokens_high, decimals=1),
            f"{row.turns:.1f}",
            "-" if row.agreement is None or row.turns <= 1 else f"{row.agreement:.0%}",  # nobody to agree with
            "-" if row.tokens_per_correct is None else f"{row.tokens_per_correct:.1f}",
            f"{row.readability_loss:.2f}",
        )
    return table


def _below(remark: str) -> tuple[str, str]:
    return (f"\n  {remark}" if remark else "", "yellow")


def remarks(rows: Sequence[EvalRow]) -> list[Text]:
    """What to know about the scores of a table: what answers that were not marked would add, what HotpotQA's own F1
    would be, and which answers could not be compared. Nothing where there is nothing to say."""
    flexible = [
        f"{row.name} {row.decoding} {row.flexible_score:.3f}"
        for row in rows
        if row.flexible_score is not None and f"{row.flexible_score:.3f}" != f"{row.score:.3f}"
    ]
    hotpot = [
        f"{row.name} {row.decoding} {row.hotpot_f1:.3f}"
        for row in rows
        if row.hotpot_f1 is not None and f"{row.hotpot_f1:.3f}" != f"{row.score:.3f}"
    ]
    lines = [f"{row.name} {row.decoding}: {undecided_note(row.undecided)}" for row in rows if row.undecided]
    asked = [row for row in rows if row.name in ("untrained", "prompts_only") or iteration_of(row) is not None]
    if asked and not any(row.score for row in asked):
        lines.insert(0, "not one answer of the team was right: these scores say nothing about training")
    if hotpot:
        lines.insert(0, f"F1 by HotpotQA's own evaluation: {', '.join(hotpot)}")
    if flexible:
        lines.insert(0, f"score when unmarked answers count, too: {', '.join(flexible)}")
    return [Text(line, style="dim") for line in lines]


def baseline_table(contenders: Sequence[Contender]) -> Table:
    """One row a way to answer, with 95 % intervals below score and tokens, and what was spent beforehand; fits 80
    columns."""
    table = table_of("way to answer")
    for heading in ("score", "tokens", "tokens per\ncorrect", "tokens to\nprepare"):
        table.add_column(heading, justify="right")
    for one in contenders:
        row = one.row
        table.add_row(
            Text.assemble(row.name, "\n", (f"  {row.decoding}, {row.turns:.1f} messages", "dim")),
            with_interval(f"{row.score:.3f}", row.score_low, row.score_high, decimals=2),
            with_interval(f"{row.tokens:.1f}", row.tokens_low, row.tokens_high, decimals=1),
            "-" if row.tokens_per_correct is None else f"{row.tokens_per_correct:.1f}",
            count(one.preparation),
        )
    return table


@dataclass(frozen=True, slots=True)
class Gain:
    """What training changed: an evaluation against an earlier one, decoded the same way.

    score: the difference, interval: its 95 %, paired by question, None where not both sides' rows exist. tokens: the
    share by which they grew, None without any before.
    """

    after: str
    before: str
    decoding: str
    score: float
    interval: statistics.Interval | None
    tokens: float | None


def gains(run: RunFolder, rows: Sequence[EvalRow]) -> list[Gain]:
    """The last iteration against the untrained team and the single agent, for each decoding; none while there is
    nothing to compare."""
    trained = {row.decoding: row for row in rows if iteration_of(row) is not None}
    return [
        Gain(
            after.name,
            before.name,
            before.decoding,
            after.score - before.score,
            paired_interval(_scores(run, before), _scores(run, after)),
            after.tokens / before.tokens - 1 if before.tokens else None,
        )
        for name in ("untrained", "single_agent")
        for before in rows
        if before.name == name and (after := trained.get(before.decoding))
    ]


def gain_table(run: RunFolder, rows: Sequence[EvalRow]) -> Table | None:
    """The gains as a table, None where there are none."""
    found = gains(run, rows)
    if not found:
        return None
    table = table_of("gain")
    table.add_column("score", justify="right")
    table.add_column("tokens", justify="right")
    for one in found:
        bounds = f" [{one.interval[0]:+.2f}, {one.interval[1]:+.2f}]" if one.interval else ""
        share = "-" if one.tokens is None else f"{one.tokens:+.0%}"
        table.add_row(f"{one.after} against {one.before}, {one.decoding}", f"{one.score:+.3f}{bounds}", share)
    return table


def _scores(run: RunFolder, row: EvalRow) -> dict[str, float]:
    rollouts = run.read(evaluation_stage(row.name, row.decoding), Rollouts)
    return {one.question.id: one.rewards[0].task for one in rollouts if one.rewards}


def paired_interval(before: Mapping[str, float], after: Mapping[str, float]) -> statistics.Interval | None:
    """The interval of the mean change of scores by question; None unless both hold the same questions."""
    if not before or before.keys() != after.keys():
        return None
    return statistics.of_score_change([*before.values()], [after[question] for question in before])


@dataclass(frozen=True)
class Curve:
    """Score and tokens of the sampled evaluations over the iterations, as bars; in ASCII where blocks cannot be."""

    rows: Sequence[EvalRow]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        decoding = DECODINGS[0] if any(row.decoding == DECODINGS[0] for row in self.rows) else DECODINGS[1]
        rows = [row for row in self.rows if row.decoding == decoding]
        if not rows:
            return
        label = max(len(row.name) for row in rows)
        most = max(row.tokens for row in rows)
        figures = max(len(f"{row.tokens:.1f}") for row in rows)
        width = max(4, (options.max_width - label - figures - len("  0.000    ")) // 2)
        head = f"{'':{label}}  {'score':{width + 6}}  tokens per dialogue ({decoding})"
        yield Text(head.rstrip(), style="dim", no_wrap=True)
        for row in rows:
            yield Text.assemble(
                f"{row.name:{label}}  ",
                (bar(row.score, width, ascii_only=options.ascii_only), "green"),
                f" {row.score:.3f}  ",
                (bar(row.tokens / most if most else 0.0, width, ascii_only=options.ascii_only), "cyan"),
                f" {row.tokens:{figures}.1f}",
                no_wrap=True,
            )


def bar(share: float, width: int, *, ascii_only: bool) -> str:
    """A bar of `share` in [0, 1] of `width` cells, padded with spaces; in eighths of a cell unless `ascii_only`."""
    share = min(1.0, max(0.0, share))
    if ascii_only:
        return ("#" * round(share * width)).ljust(width)
    cells, eighths = divmod(round(share * width * 8), 8)
    return ("█" * cells + " ▏▎▍▌▋▊▉"[eighths]).ljust(width)[:width]
