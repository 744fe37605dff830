"""A run folder to tables and pictures: what came out, what training saw, and how the agents talk now.

Every function takes a run folder opened for reading, or records read from it, and returns something that `rich` can
draw; `summary` and `write_adapter_card` return and write plain data. Nothing that the run has stored is computed again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from .. import statistics
from ..errors import RunError
from ..learn.reward import mean
from ..records import (
    Contender,
    Demonstration,
    Dialogue,
    Ending,
    EvalRow,
    PreferencePair,
    Question,
    Record,
    Reward,
    Rollouts,
    Tree,
    from_json,
    to_json,
)
from ..settings.teams import speakers
from .folder import IMITATED, PREFERRED, RunFolder, stage_name

DECODINGS = ("sampled", "greedy")
SIDE_BY_SIDE = 100  # columns from which two dialogues stand next to each other
ITERATIONS_A_TABLE = 7  # as many as 80 columns hold
ENDINGS = {
    Ending.AGREED: "agreed",
    Ending.DONE: "done",
    Ending.MAX_TURNS: "out of turns",
    Ending.TRUNCATED: "truncated",
}


def evaluation_stage(name: str, decoding: str) -> str:
    """The stage of an evaluation: its rows are in `<stage>.jsonl`, their means in `<stage>.json`.

    name: untrained, single_agent, or iteration_3 (stored as iteration_03, so that files sort as they came).
    """
    padded = re.sub(r"(?<=^iteration_)\d+$", lambda number: number[0].zfill(2), name)
    return f"evaluation/{padded}_{decoding}"


def overview(run: RunFolder) -> RenderableType:
    """Everything that `optima-lite report` shows."""
    rows = evaluations(run)
    imitated, preferred = imitations(run), preferences(run)
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
        parts += [Text(""), imitation_table(imitated), *format_lines(imitated)]
    if preferred:
        parts += [Text(""), preference_table(preferred)]
    parts += verdict_lines(run)
    pair, line = typical_pair(run, rows), work_line(run)
    parts += [Text(""), pair] if pair else []
    parts += [Text(""), line] if line else []
    return Group(*parts)


def result(run: RunFolder) -> RenderableType:
    """What `optima-lite train` ends with: the table, the gain, and how the pair talked before and after."""
    rows = evaluations(run)
    evaluated = Group(evaluation_table(rows, undone_remarks(run)), *remarks(rows), *verdict_lines(run))
    parts: list[RenderableType | None] = [evaluated, gain_table(run, rows), typical_pair(run, rows), work_line(run)]
    return Group(*[line for part in parts if part is not None for line in (Text(""), part)])


# --- Evaluations ----------------------------------------------------------------------------------


def evaluations(run: RunFolder) -> list[EvalRow]:
    """The evaluations so far: untrained, single agent, then the iterations; sampled before greedy."""
    rows = []
    for path in run.folder.glob("evaluation/*.json"):
        if path.stem.rpartition("_")[2] in DECODINGS:
            try:
                rows.append(from_json(EvalRow, run.read_json(f"evaluation/{path.name}")))
            except (KeyError, TypeError, ValueError) as error:
                hint = f"delete it and {path.stem}.jsonl, and run the same command again"
                raise RunError("is not an evaluation of this version", where=path, hint=hint) from error
    return sorted(rows, key=_order)


def _order(row: EvalRow) -> tuple[int, int, str, int]:
    iteration = _iteration(row)
    first = {"untrained": 0, "single_agent": 1}.get(row.name, 2 if iteration is None else 3)
    return first, iteration or 0, row.name, DECODINGS.index(row.decoding)


def _iteration(row: EvalRow) -> int | None:
    found = re.fullmatch(r"iteration_(\d+)", row.name)
    return int(found[1]) if found else None


def evaluation_table(rows: Sequence[EvalRow], remarks: Mapping[str, str] | None = None) -> Table:
    """One row an evaluation, with 95 % intervals below score and tokens; fits 80 columns. remarks: what to know, by the
    row's name (see `undone_remarks`)."""
    table = _table("evaluation")
    for heading in ("score", "tokens", "turns", "agreement", "tokens per\ncorrect", "readability\nloss"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        table.add_row(
            Text.assemble(row.name, "\n", (f"  {row.decoding}", "dim"), _below((remarks or {}).get(row.name, ""))),
            _with_interval(f"{row.score:.3f}", row.score_low, row.score_high, decimals=2),
            _with_interval(f"{row.tokens:.1f}", row.tokens_low, row.tokens_high, decimals=1),
            f"{row.turns:.1f}",
            f"{row.agreement:.0%}" if row.turns > 1 else "-",  # nobody to agree with
            "-" if row.tokens_per_correct is None else f"{row.tokens_per_correct:.1f}",
            f"{row.readability_loss:.2f}",
        )
    return table


def undone_remark(run: RunFolder, iteration: int) -> str:
    """What to know of an iteration with a step that was taken back; empty for others."""
    steps = run.undone(iteration)
    return f"{' and '.join(steps)} undone" if steps else ""


def undone_remarks(run: RunFolder) -> dict[str, str]:
    """`undone_remark` for each iteration's name."""
    return {f"iteration_{iteration}": undone_remark(run, iteration) for iteration in run.iterations()}


def _below(remark: str) -> tuple[str, str]:
    return (f"\n  {remark}" if remark else "", "yellow")


def undecided_note(count: int) -> str:
    """What the user should know about so many undecided answers."""
    return (
        f"{count} {'answer' if count == 1 else 'answers'} could not be compared with the right one within the limits "
        "of time and memory, and count as wrong"
    )


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
    asked = [row for row in rows if row.name == "untrained" or _iteration(row) is not None]
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
    table = _table("way to answer")
    for heading in ("score", "tokens", "tokens per\ncorrect", "tokens to\nprepare"):
        table.add_column(heading, justify="right")
    for one in contenders:
        row = one.row
        table.add_row(
            Text.assemble(row.name, "\n", (f"  {row.decoding}, {row.turns:.1f} messages", "dim")),
            _with_interval(f"{row.score:.3f}", row.score_low, row.score_high, decimals=2),
            _with_interval(f"{row.tokens:.1f}", row.tokens_low, row.tokens_high, decimals=1),
            "-" if row.tokens_per_correct is None else f"{row.tokens_per_correct:.1f}",
            _count(one.preparation),
        )
    return table


def _table(first: str) -> Table:
    return Table(Column(first, overflow="fold"), box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")


def _with_interval(value: str, low: float | None, high: float | None, *, decimals: int) -> Text:
    if low is None or high is None:
        return Text(value)
    return Text.assemble(value, "\n", (f"[{low:.{decimals}f}-{high:.{decimals}f}]", "dim"))


def gain_table(run: RunFolder, rows: Sequence[EvalRow]) -> Table | None:
    """What training gained: the last iteration against the untrained pair and the single agent, for each decoding.

    The score's difference has a 95 % interval, paired by question, where both sides' rows exist. None while there is
    nothing to compare.
    """
    trained = {row.decoding: row for row in rows if _iteration(row) is not None}
    pairs = [
        (before, trained[before.decoding])
        for name in ("untrained", "single_agent")
        for before in rows
        if before.name == name and before.decoding in trained
    ]
    if not pairs:
        return None
    table = _table("gain")
    table.add_column("score", justify="right")
    table.add_column("tokens", justify="right")
    for before, after in pairs:
        interval = paired_interval(_scores(run, before), _scores(run, after))
        bounds = f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
        share = f"{after.tokens / before.tokens - 1:+.0%}" if before.tokens else "-"
        label = f"{after.name} against {before.name}, {before.decoding}"
        table.add_row(label, f"{after.score - before.score:+.3f}{bounds}", share)
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


# --- Training -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a training step: the validation reward before and after it; verdict: keep, revert or stop.

    interval: 95 %, of the change, paired by question; None with one question, and in runs of earlier versions.
    """

    before: float
    after: float
    verdict: str
    interval: statistics.Interval | None = None

    @property
    def change(self) -> float:
        """By how much the reward rose."""
        return self.after - self.before

    def __str__(self) -> str:
        sign = -1 if self.change < 0 else 1
        low, high = sorted(sign * bound for bound in self.interval) if self.interval else (None, None)
        bounds = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        return f"the validation reward {'fell' if sign < 0 else 'rose'} by {sign * self.change:.3f}{bounds}"


@dataclass(frozen=True, slots=True)
class Imitation:
    """What an imitation step sampled, selected and trained on. None: not stored (yet).

    tokens: sampled in all dialogues. reward: the mean of each part. endings: share of the dialogues that ended so.
    two_messages: share of dialogues of only two messages; when it nears 1 the talk has collapsed to a bare exchange.
    formats: the pool's formats among the selected dialogues, most frequent first. trainer_tokens: over all epochs.
    shortened: questions whose facts did not fit the model. formatted: whether the reward asked for a form.
    """

    iteration: int
    dialogues: int
    tokens: int
    endings: Mapping[Ending, float]
    two_messages: float
    reward: Reward | None
    selected: int | None
    formats: tuple[tuple[str, int], ...]
    trainer_tokens: int | None
    shortened: int | None
    verdict: Verdict | None
    formatted: bool = False


@dataclass(frozen=True, slots=True)
class Preference:
    """What a preference step searched, paired and trained on. None: not stored (yet).

    tokens: sampled in all trees. depths: share of the pairs after so many messages, by their number. gap: mean
    difference in worth of chosen and rejected. The shifts are means over the training steps, in nats a message against
    the reference. stopped: whether the guard ended the step early. trainer_tokens, shortened: as in `Imitation`.
    """

    iteration: int
    trees: int
    tokens: int
    pairs: int | None
    depths: Mapping[int, float]
    gap: float | None
    trainer_tokens: int | None
    chosen_shift: float | None
    rejected_shift: float | None
    stopped: bool | None
    shortened: int | None
    verdict: Verdict | None


def imitations(run: RunFolder) -> list[Imitation]:
    """The imitation steps that have dialogues, in the order of the iterations."""
    found = []
    for iteration in run.iterations():
        rollouts = run.read(stage_name(iteration, "2_rewards"), Rollouts)
        rollouts = rollouts or run.read(stage_name(iteration, "1_dialogues"), Rollouts)
        if any(one.dialogues for one in rollouts):
            found.append(_imitation(run, iteration, rollouts))
    return found


def _imitation(run: RunFolder, iteration: int, rollouts: Sequence[Rollouts]) -> Imitation:
    # of each dialogue only what is counted: all of them may not fit in memory
    dialogues = [(each.tokens, len(each.turns), each.ending) for one in rollouts for each in one.dialogues]
    rewards = [reward for one in rollouts for reward in one.rewards]
    selected = _stored(run, stage_name(iteration, "3_demonstrations"), Demonstration)
    formats = Counter(one.dialogue.format for one in selected or () if one.dialogue.format)
    training = _training(run, iteration, IMITATED)
    return Imitation(
        iteration,
        dialogues=len(dialogues),
        tokens=sum(tokens for tokens, _, _ in dialogues),
        endings={ending: _share(how is ending for _, _, how in dialogues) for ending in Ending},
        two_messages=_share(turns == 2 for _, turns, _ in dialogues),
        reward=mean(rewards) if rewards else None,
        selected=None if selected is None else len(selected),
        formats=tuple(formats.most_common()),
        trainer_tokens=_trainer_tokens(training),
        shortened=_shortened(run, stage_name(iteration, "0_questions")),
        verdict=verdict_of(run, stage_name(iteration, "5_verdict")),
        formatted=bool(run.manifest["recipe"].get("reward", {}).get("format_weight")),
    )


def preferences(run: RunFolder) -> list[Preference]:
    """The preference steps that have trees, in the order of the iterations."""
    found = []
    for iteration in run.iterations():
        trees = run.read(stage_name(iteration, "6_trees"), Tree)
        if trees:
            found.append(_preference(run, iteration, trees))
    return found


def _preference(run: RunFolder, iteration: int, trees: Sequence[Tree]) -> Preference:
    pairs = _stored(run, stage_name(iteration, "7_pairs"), PreferencePair)
    depths = Counter(pair.depth for pair in pairs or ())
    training = _training(run, iteration, PREFERRED)
    return Preference(
        iteration,
        trees=len(trees),
        tokens=sum(tree.sampled for tree in trees),
        pairs=None if pairs is None else len(pairs),
        depths={depth: depths[depth] / depths.total() for depth in sorted(depths)},
        gap=fmean(pair.gap for pair in pairs) if pairs else None,
        trainer_tokens=_trainer_tokens(training),
        chosen_shift=training.get("chosen_shift"),
        rejected_shift=training.get("rejected_shift"),
        stopped=training.get("stopped"),
        shortened=_shortened(run, stage_name(iteration, "6_questions")),
        verdict=verdict_of(run, stage_name(iteration, "9_verdict")),
    )


def _stored(run: RunFolder, stage: str, kind: type[Record]) -> Sequence[Record] | None:
    return run.read(stage, kind) if (run.folder / f"{stage}.jsonl").exists() else None


def _training(run: RunFolder, iteration: int, adapter: str) -> dict[str, Any]:
    return run.read_json(f"{stage_name(iteration, adapter)}/training.json") or {}


def _trainer_tokens(training: Mapping[str, Any]) -> int | None:
    return int(training["trainer_tokens"] * training["epochs"]) if training else None


def _shortened(run: RunFolder, stage: str) -> int | None:
    return (run.read_json(f"{stage}.json") or {}).get("shortened")


def verdict_of(run: RunFolder, stage: str) -> Verdict | None:
    """The verdict that is stored under this name, such as iteration_00/5_verdict; None before there is one."""
    stored = run.read_json(f"{stage}.json")
    if not stored:
        return None
    interval = stored.get("interval")
    bounds = (interval[0], interval[1]) if interval else None
    return Verdict(stored["before"], stored["after"], stored["verdict"], bounds)


def _share(of: Iterable[bool]) -> float:
    return fmean(map(float, of))


Step = TypeVar("Step", Imitation, Preference)
Lines = list[tuple[str, list[str]]]
"""Rows of a table of steps: a quantity's name, and its value in each iteration."""


def imitation_table(steps: Sequence[Imitation]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns."""
    return Group(*(_columns("imitation, iteration", part, _imitation_lines(part)) for part in _parts(steps)))


def _imitation_lines(steps: Sequence[Imitation]) -> Lines:
    def parts(name: str) -> list[str]:
        return ["-" if one.reward is None else f"{getattr(one.reward, name):.3f}" for one in steps]

    forms: Lines = [("  format", parts("format"))] if any(one.formatted for one in steps) else []
    return [
        ("dialogues", [f"{one.dialogues:,}" for one in steps]),
        ("tokens per dialogue", [f"{one.tokens / one.dialogues:.1f}" for one in steps]),
        ("reward among siblings", parts("total")),
        ("  task", parts("task")),
        ("  token share", parts("token_share")),
        ("  readability", parts("readability")),
        *forms,
        *(
            (f"ended: {name}", [f"{one.endings[ending]:.0%}" for one in steps])
            for ending, name in ENDINGS.items()
            if ending is not Ending.DONE or any(one.endings[ending] for one in steps)  # talks are never just done
        ),
        ("only two messages", [f"{one.two_messages:.0%}" for one in steps]),
        ("selected", [_count(one.selected) for one in steps]),
        *_last_lines(steps),
    ]


def preference_table(steps: Sequence[Preference]) -> RenderableType:
    """A column an iteration, a row a quantity; several tables when the iterations do not fit 80 columns.

    Where pairs branch off, as shares of all; the shifts are of a whole message's log-probability.
    """
    return Group(*(_columns("preference, iteration", part, _preference_lines(part)) for part in _parts(steps)))


def _preference_lines(steps: Sequence[Preference]) -> Lines:
    depths = sorted({depth for one in steps for depth in one.depths})
    lines: Lines = [
        ("trees", [f"{one.trees:,}" for one in steps]),
        ("tokens per tree", [f"{one.tokens / one.trees:,.1f}" for one in steps]),
        ("pairs", [_count(one.pairs) for one in steps]),
        *((f"  at message {d + 1}", [f"{one.depths.get(d, 0.0):.0%}" for one in steps]) for d in depths),
        ("mean gap", ["-" if one.gap is None else f"{one.gap:.3f}" for one in steps]),
        ("chosen shift (nats)", [_signed(one.chosen_shift) for one in steps]),
        ("rejected shift (nats)", [_signed(one.rejected_shift) for one in steps]),
    ]
    if any(one.stopped for one in steps):
        lines.append(("stopped early", ["yes" if one.stopped else "no" for one in steps]))
    return [*lines, *_last_lines(steps)]


def verdict_lines(run: RunFolder) -> list[Text]:
    """What is told of the steps that were undone: by how much the reward fell, and how sure that is."""
    judged = [
        (iteration, step, verdict_of(run, stage_name(iteration, stage)))
        for iteration in run.iterations()
        for step, stage in (("imitation", "5_verdict"), ("preference", "9_verdict"))
    ]
    undone = [(i, step, verdict) for i, step, verdict in judged if verdict and verdict.verdict != "keep"]
    return [Text(f"iteration {i}, {step} undone: {verdict}", style="dim") for i, step, verdict in undone]


_VERDICTS = {"keep": "kept", "revert": "undone", "stop": "undone"}


def _last_lines(steps: Sequence[Imitation] | Sequence[Preference]) -> Lines:
    """What is known of both kinds of step."""
    verdicts = [one.verdict for one in steps]
    lines = [("trained tokens", [_count(one.trainer_tokens) for one in steps])]
    if any(verdicts):
        lines += [
            ("validation reward", ["-" if one is None else f"{one.after:.3f}" for one in verdicts]),
            ("  change", [_signed(one.change if one else None, decimals=3) for one in verdicts]),
        ]
        if any(one.interval for one in verdicts if one):
            bounds = [one.interval if one and one.interval else (None, None) for one in verdicts]
            lines += [
                ("    at least", [_signed(low, decimals=3) for low, _ in bounds]),
                ("    at most", [_signed(high, decimals=3) for _, high in bounds]),
            ]
        lines.append(
            ("  verdict", ["-" if one is None else _VERDICTS.get(one.verdict, one.verdict) for one in verdicts])
        )
    if any(one.shortened for one in steps):
        lines.append(("questions shortened", [_count(one.shortened) for one in steps]))
    return lines


def _parts(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    return (steps[i : i + ITERATIONS_A_TABLE] for i in range(0, len(steps), ITERATIONS_A_TABLE))


def _columns(heading: str, steps: Sequence[Imitation] | Sequence[Preference], lines: Lines) -> Table:
    table = _table(heading)
    for one in steps:
        table.add_column(str(one.iteration), justify="right", min_width=7)
    for name, cells in lines:
        table.add_row(name, *cells)
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _signed(value: float | None, *, decimals: int = 2) -> str:
    return "-" if value is None else f"{value:+.{decimals}f}"


def format_lines(steps: Sequence[Imitation]) -> list[Text]:
    """Which formats of the pool won in the iterations that used it."""
    lines = []
    for one in steps:
        if one.formats:
            counts = ", ".join(f"{name} {count}" for name, count in one.formats)
            lines.append(Text(f"formats selected in iteration {one.iteration}: {counts}"))
    return lines


# --- Dialogues ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DialoguePair:
    """Two dialogues on the same question: side by side where there is room, else one under the other.

    titles: what each panel is called. roles: display names of the speakers.
    """

    question: Question
    dialogues: tuple[Dialogue, Dialogue]
    rewards: tuple[Reward, Reward]
    titles: tuple[str, str]
    roles: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(f"{printable(self.question.text)}  (answer: {printable(' or '.join(self.question.answers))})")
        panels = [
            Panel(_talk(dialogue, reward, self.roles), title=Text(title), title_align="left")
            for dialogue, reward, title in zip(self.dialogues, self.rewards, self.titles, strict=True)
        ]
        if options.max_width < SIDE_BY_SIDE:
            yield from panels
            return
        grid = Table.grid(expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*panels)
        yield grid


def _talk(dialogue: Dialogue, reward: Reward, roles: Sequence[str]) -> Text:
    text = Text()
    for turn in dialogue.turns:
        text.append(f"{roles[turn.speaker]}: ", style="bold")
        text.append(f"{printable(turn.text.strip())}\n")
    ending = f", {ENDINGS[dialogue.ending]}" if dialogue.ending else ""
    text.append(f"score {reward.task:.2f}, {dialogue.tokens} tokens{ending}", style="dim")
    return text


def typical_pair(run: RunFolder, rows: Sequence[EvalRow]) -> DialoguePair | None:
    """The untrained and the last trained dialogue on a typical question, or None while either is missing.

    Typical: both dialogues are together as near as possible to the mean score and tokens of their evaluations.
    """
    sampled = [row for row in rows if row.decoding == DECODINGS[0]]
    ends = [row for row in sampled if row.name == "untrained"] + [row for row in sampled if _iteration(row) is not None]
    if len(ends) < 2 or ends[0].name != "untrained":
        return None
    first, last = ends[0], ends[-1]
    before, after = (
        {one.question.id: one for one in run.read(evaluation_stage(row.name, row.decoding), Rollouts) if one.rewards}
        for row in (first, last)
    )
    shared = [question for question in before if question in after]
    if not shared:
        return None
    found = min(shared, key=lambda question: _oddity(before[question], first) + _oddity(after[question], last))
    old, new = before[found], after[found]
    roles = speakers(run.manifest["recipe"])
    return DialoguePair(
        old.question,
        (old.dialogues[0], new.dialogues[0]),
        (old.rewards[0], new.rewards[0]),
        (first.name, last.name),
        roles,
    )


def _oddity(rollouts: Rollouts, row: EvalRow) -> float:
    tokens = abs(rollouts.dialogues[0].tokens - row.tokens) / row.tokens if row.tokens else 0.0
    return tokens + abs(rollouts.rewards[0].task - row.score)


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates escaped: models may sample what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


# --- Plain data -----------------------------------------------------------------------------------


def summary(run: RunFolder) -> dict[str, Any]:
    """The content of summary.json; what is not known is None.

    adapter: the one in force, relative to the run folder; None untrained. seconds: time spent in all phases, over all
    starts. work: see `work`. training_tokens: tokens sampled for training, plus the trainer's tokens times its epochs;
    None unless every step that has begun, and one in every iteration, has stored both. validation_tokens: sampled to
    judge the steps.
    """
    timings, trained = run.timings(), run.trained()
    adapter = run.adapter(trained[-1]) if trained else None
    return {
        "recipe": run.manifest.get("recipe_name"),
        "seed": run.manifest["recipe"].get("seed"),
        "adapter": None if adapter is None else adapter.relative_to(run.folder).as_posix(),
        "seconds": round(sum(timing.seconds for timing in timings), 3) if timings else None,
        "work": work(run),
        "training_tokens": next(reversed(training_tokens(run).values()), None),
        "validation_tokens": next(reversed(validation_tokens(run).values()), 0),
        "evaluations": [to_json(row) for row in evaluations(run)],
    }


def work(run: RunFolder) -> dict[str, int] | None:
    """What the run has taken of the model besides training, over all starts: see `meter.Counts`. None for runs of
    before this was kept."""
    total: Counter[str] = Counter()
    for timing in run.timings():
        total.update(timing.counts)
    return dict(total) or None


def work_line(run: RunFolder) -> Text | None:
    """The same in a sentence."""
    tokens = work(run)
    if tokens is None:
        return None
    read = f"{tokens['computed']:,} tokens read by the model, {tokens['reused']:,} found in its cache"
    return Text(f"{read}, {tokens['sampled']:,} sampled", style="dim")


def training_tokens(run: RunFolder) -> dict[int, int | None]:
    """For each iteration that has begun, what its adapter has cost with those before; see `summary`."""
    steps: list[Imitation | Preference] = [*imitations(run), *preferences(run)]
    spent: dict[int, int | None] = {}
    total: int | None = 0
    for iteration in run.iterations():
        costs = [_training_cost(one) for one in steps if one.iteration == iteration] or [None]
        for cost in costs:
            total = None if total is None or cost is None else total + cost
        spent[iteration] = total
    return spent


def validation_tokens(run: RunFolder) -> dict[int, int]:
    """For each iteration that has begun, what was sampled to judge the steps up to then, and the untrained pair."""
    spent: dict[int, int] = {}
    total = _sampled(run, "validation/untrained")
    for iteration in run.iterations():
        total += sum(_sampled(run, stage_name(iteration, stage)) for stage in ("5_validation", "9_validation"))
        spent[iteration] = total
    return spent


def _sampled(run: RunFolder, stage: str) -> int:
    return sum(dialogue.tokens for group in run.read(stage, Rollouts) for dialogue in group.dialogues)


def preparation_tokens(run: RunFolder) -> dict[int, int | None]:
    """For each iteration that has begun, all that was spent on its adapter: to train, and to judge what was trained."""
    judged = validation_tokens(run)
    return {i: None if spent is None else spent + judged[i] for i, spent in training_tokens(run).items()}


def _training_cost(step: Imitation | Preference) -> int | None:
    return None if step.trainer_tokens is None else step.tokens + step.trainer_tokens


def write_adapter_card(
    folder: Path,
    recipe: Mapping[str, Any],
    *,
    team: str,
    speakers: Sequence[str] = (),
    iteration: int,
    facts: Mapping[str, Any],
) -> None:
    """Write README.md into an adapter folder: what it is, what it was trained with, and the lines that load it.

    recipe: the plain recipe. team: the name of those who were trained. speakers: the roles whose adapter it is, where
    the others have their own. facts: what the training step tells of itself, by name; None is left out.
    """
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items() if value is not None]
    (folder / "README.md").write_text(
        CARD.format(
            iteration=iteration,
            base=recipe["model"]["name"],
            seed=recipe["seed"],
            task=recipe["task"]["name"],
            team=team,
            who=f"It speaks for {', '.join(speakers)} alone."
            if speakers
            else "Every agent of the team speaks with this adapter.",
            facts="\n".join(lines),
        ),
        encoding="utf-8",
    )


CARD = """---
library_name: peft
tags: [optima-lite, lora]
---

# Adapter of iteration {iteration}

A LoRA adapter for `{base}`, trained by optima-lite to solve more and say less: task `{task}`, team `{team}`, seed
{seed}. {who} The run's manifest.json holds the whole recipe and the
versions it ran with.

{facts}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("path/to/the/base")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

Where the base is named by its id on the hub, `AutoPeftModelForCausalLM.from_pretrained` finds it by itself.
"""
