"""Who said what when: a dialogue on the virtual clock, whether its steps were handed on one by one or message by
message."""

from __future__ import annotations

from itertools import groupby

from ..records import Dialogue, Turn
from ..settings.workflow import Streaming, Workflow
from .dialogue import stand, taken
from .segments import parts
from .stream import Beat


def timeline(dialogue: Dialogue, workflow: Workflow) -> list[Beat]:
    """Every step of a dialogue, by its tick. Handed on whole, a message takes as many ticks as it has steps, and one
    where messages are not told to have any; those side by side take theirs together."""
    if workflow.streams:
        return list(stand(dialogue.turns, workflow).stream.beats)
    beats, tick = [], 0
    for heard, group in groupby(taken(dialogue.turns, workflow), key=lambda one: len(one[2])):
        longest = 1
        for step, turn, _ in group:
            steps = _steps(turn, workflow.stream)
            beats += [Beat(tick + k, step.name, text, heard) for k, text in enumerate(steps, start=1)]
            longest = max(longest, len(steps))
        tick += longest
    return sorted(beats, key=lambda beat: beat.tick)


def _steps(turn: Turn, how: Streaming | None) -> list[str]:
    """The steps of a whole message; such as only a limit of tokens would have made are without a text."""
    if how is None:
        return [turn.text]
    found = parts(turn.text, how)[: how.most] or [""]
    most = -(-len(turn.ids) // how.step_tokens) if how.step_tokens else 0
    return found + [""] * (min(most, how.most) - len(found))


def ticks(beats: list[Beat]) -> int:
    """How many ticks a timeline has."""
    return max((beat.tick for beat in beats), default=0)
