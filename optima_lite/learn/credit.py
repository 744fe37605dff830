"""Credit: what each message of a dialogue is worth to whoever said it. Pure functions over frozen records.

    trajectory   every message gets what the dialogue is worth (Optima)
    split        every message gets an equal part of it
    difference   a message that states an answer gets that answer's score; any other what the next answer gains on the
                 answer before it (M-ASK in UnityMAS-O, arXiv 2605.26646)
    code         every message gets what its round gains: who writes a program what it gains on the one before it, and
                 who reviewed that one the same (code workflow of UnityMAS-O)
    own_step     a message that states an answer gets that answer's score; any other what the dialogue is worth

A round is all that is said from one stated answer to the next, that one included. Steps side by side stand in one
round. Before the first answer the score is 0, after the last one it is the dialogue's, so that the gains add up to the
dialogue's score. What is said after the last answer hence gains 0, and loses it all where the dialogue was cut. An
answer that does not come ends no round: the team still has the one before. Under the last three schemes a message that
does not hold what its step is to say gets at most 0: nobody could read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from ..records import Dialogue, Reward
from ..settings.sections import CreditScheme
from ..settings.workflow import Step, Workflow
from ..team.dialogue import taken
from ..team.parsing import valid


def credits(
    dialogue: Dialogue,
    *,
    workflow: Workflow,
    scheme: CreditScheme,
    final: float,
    score_of: Callable[[str], float],
    parse_weight: float = 0.0,
) -> tuple[float | None, ...]:
    """One number for every turn: None for a tool's, which nobody learns, and for all of a dialogue that has not ended.

    final: what the dialogue is worth: its task score (0 for one that was cut), or under `trajectory` and `split` any
    reward. score_of: the task score of a stated answer. parse_weight: is subtracted for every message that was cut, or
    does not hold what its step is to say (a list, a verdict, code, JSON by its schema, an answer; text that is not
    empty). So `trajectory` with a weight of 1 is accuracy plus format.
    """
    if dialogue.ending is None:
        return (None,) * len(dialogue.turns)
    steps = [step for step, _, _ in taken(dialogue.turns, workflow)]
    readable = [turn.finished and _holds(step, turn.text) for step, turn in zip(steps, dialogue.turns, strict=True)]
    worth = _worth(dialogue, workflow, scheme, final, score_of)
    if scheme not in ("trajectory", "split"):
        worth = [value if fine else min(value, 0.0) for value, fine in zip(worth, readable, strict=True)]
    return tuple(
        None if step.tool else value - (0.0 if fine else parse_weight)
        for step, value, fine in zip(steps, worth, readable, strict=True)
    )


def _holds(step: Step, text: str) -> bool:
    return bool(text.strip()) if step.tool else valid(step, text)


def _worth(
    dialogue: Dialogue, workflow: Workflow, scheme: CreditScheme, final: float, score_of: Callable[[str], float]
) -> list[float]:
    """What every turn is worth by the scheme, whatever it looks like."""
    turns = dialogue.turns
    if scheme == "trajectory":
        return [final] * len(turns)
    if scheme == "split":
        return [final / max(1, len(dialogue.messages))] * len(turns)
    own = [None if turn.answer is None or not turn.finished else score_of(turn.answer) for turn in turns]
    if scheme == "own_step":
        return [final if score is None else score for score in own]
    gains = _gains(dialogue, workflow, own, final)
    if scheme == "code":
        return gains
    return [gain if score is None else score for gain, score in zip(gains, own, strict=True)]


def _gains(dialogue: Dialogue, workflow: Workflow, own: Sequence[float | None], final: float) -> list[float]:
    """For every turn what its round gains; for one that states an answer what this very answer does."""
    numbered = enumerate(len(done) for _, _, done in taken(dialogue.turns, workflow))
    gains = [0.0] * len(own)
    waiting: list[int] = []  # said since the last answer
    before = 0.0
    for _, group in groupby(numbered, key=lambda one: one[1]):  # steps side by side have the same turns before them
        beside = [k for k, _ in group]
        waiting += beside
        stated = [score for k in beside if (score := own[k]) is not None]
        if stated and all(dialogue.turns[k].finished for k in beside):
            for k in waiting:
                gains[k] = (stated[-1] if (score := own[k]) is None else score) - before
            before, waiting = stated[-1], []
    for k in waiting:
        gains[k] = final - before
    return gains


def of_turns(reward: Reward, credit: Sequence[float | None]) -> list[Reward]:
    """The dialogue's reward as each of its turns gets it: the credit in place of the task score. A tool's turn keeps
    the dialogue's."""
    return [
        reward if value is None else replace(reward, task=value, total=reward.total + (value - reward.task))
        for value in credit
    ]
