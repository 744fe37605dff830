"""Advances a batch of dialogues turn by turn until they end. Knows no model: whoever speaks is passed in as a
callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..records import Dialogue, Ending, InteractionProtocol, Metric, StopRule, Turn
from ..tasks.answers import agree

Speak = Callable[[Sequence[Dialogue]], Sequence[Turn]]
"""Unfinished dialogues in, the next turn of each out, in the same order."""


def exchange(roles: Sequence[str], max_turns: int, *, metric: Metric = "f1") -> InteractionProtocol:
    """Information exchange (paper section 3): each agent holds a part of the facts; the talk ends in agreement.

    metric: how the task scores answers; it decides what counts as the same answer.
    """
    return InteractionProtocol("exchange", tuple(roles), StopRule.PARTNER, True, max_turns, metric)


def debate(roles: Sequence[str], max_turns: int, *, metric: Metric = "f1") -> InteractionProtocol:
    """Debate (paper section 3): everyone sees everything; the talk ends when an answer is stated again, by anyone.

    Of two roles the first solves and the second criticises, mostly without an answer of its own, so the solver's
    confirmation ends the talk; three or more roles (paper, appendix) solve together. metric: as in `exchange`.
    """
    return InteractionProtocol("debate", tuple(roles), StopRule.ANYONE, False, max_turns, metric)


def solo(*, metric: Metric = "f1") -> InteractionProtocol:
    """One agent with all the facts says everything in a single message. metric: as in `exchange`."""
    return InteractionProtocol("solo", ("Solo",), StopRule.ANYONE, split=False, max_turns=1, metric=metric)


def converse(dialogues: Sequence[Dialogue], *, protocol: InteractionProtocol, speak: Speak) -> list[Dialogue]:
    """Every dialogue carried on to its end, in the order given; one call of `speak` a turn serves all that still
    talk."""
    current = list(dialogues)
    while active := [i for i, dialogue in enumerate(current) if dialogue.ending is None]:
        turns = speak([current[i] for i in active])
        for i, turn in zip(active, turns, strict=True):
            current[i] = extend(current[i], turn, protocol=protocol)
    return current


def extend(dialogue: Dialogue, turn: Turn, *, protocol: InteractionProtocol) -> Dialogue:
    """The dialogue with one more turn, and with its ending if this turn ends it."""
    turns = (*dialogue.turns, turn)
    ending: Ending | None = None
    if not turn.finished:
        ending = Ending.TRUNCATED
    elif _agrees(dialogue.turns, turn, protocol):
        ending = Ending.AGREED
    elif len(turns) >= protocol.max_turns:
        ending = Ending.MAX_TURNS
    return replace(dialogue, turns=turns, ending=ending)


def _agrees(earlier: Sequence[Turn], turn: Turn, protocol: InteractionProtocol) -> bool:
    if turn.answer is None:
        return False
    counts = [t for t in earlier if protocol.stop is StopRule.ANYONE or t.speaker != turn.speaker]
    stated = next((t.answer for t in reversed(counts) if t.answer is not None), None)
    return stated is not None and agree(stated, turn.answer, metric=protocol.metric)
