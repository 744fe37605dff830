"""Dialogues for people: how the agents talked on a typical question, before training and now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..records import Dialogue, Ending, EvalRow, Question, Reward, Rollouts, Turn
from ..settings.teams import speakers
from . import market
from .evaluations import DECODINGS, evaluation_stage, iteration_of
from .folder import RunFolder

SIDE_BY_SIDE = 100  # columns from which two dialogues stand next to each other
ENDINGS = {
    Ending.AGREED: "agreed",
    Ending.DONE: "done",
    Ending.MAX_TURNS: "out of turns",
    Ending.TRUNCATED: "truncated",
}


@dataclass(frozen=True)
class DialoguePair:
    """Two dialogues on the same question: side by side where there is room, else one under the other.

    titles: what each panel is called. roles: display names of the speakers in each.
    """

    question: Question
    dialogues: tuple[Dialogue, Dialogue]
    rewards: tuple[Reward, Reward]
    titles: tuple[str, str]
    roles: tuple[Sequence[str], Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(f"{printable(self.question.text)}  (answer: {printable(' or '.join(self.question.answers))})")
        panels = [
            Panel(_talk(dialogue, reward, roles), title=Text(title), title_align="left")
            for dialogue, reward, title, roles in zip(
                self.dialogues, self.rewards, self.titles, self.roles, strict=True
            )
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
        text.append(f"{who(turn, roles)}: ", style="bold")
        text.append(f"{printable(turn.text.strip())}\n")
    ending = f", {ENDINGS[dialogue.ending]}" if dialogue.ending else ""
    text.append(f"score {reward.task:.2f}, {dialogue.tokens} tokens{ending}", style="dim")
    return text


def who(turn: Turn, roles: Sequence[str]) -> str:
    """Who says a turn, and by whose voice where it is not our model's."""
    return f"{roles[turn.speaker]} (by {turn.spoken_by})" if turn.spoken_by else roles[turn.speaker]


def typical_pair(run: RunFolder, rows: Sequence[EvalRow]) -> DialoguePair | None:
    """The untrained and the last trained dialogue on a typical question, or None while either is missing.

    Typical: both dialogues are together as near as possible to the mean score and tokens of their evaluations.
    """
    sampled = [row for row in rows if row.decoding == DECODINGS[0]]
    ends = [row for row in sampled if row.name == "untrained"] + [
        row for row in sampled if iteration_of(row) is not None
    ]
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
    ends_with = iteration_of(last)
    names = (market.speakers(run, None), market.speakers(run, ends_with)) if market.is_market(run) else (roles, roles)
    return DialoguePair(
        old.question,
        (old.dialogues[0], new.dialogues[0]),
        (old.rewards[0], new.rewards[0]),
        (first.name, last.name),
        names,
    )


def _oddity(rollouts: Rollouts, row: EvalRow) -> float:
    tokens = abs(rollouts.dialogues[0].tokens - row.tokens) / row.tokens if row.tokens else 0.0
    return tokens + abs(rollouts.rewards[0].task - row.score)


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates escaped: models may sample what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
