"""Advantages: how much better a message did than was to be expected. Pure.

group   against the other runs of the question: the reward of a message less the mean of those that stand at the same
        place of the workflow (role, step and round), over their standard deviation plus 1e-4
value   against what a value head foretold: generalised advantage estimation over the message's tokens, of which the
        last one gets the reward (Schulman et al. 2016, equation 16; discount and lambda are 1 in UnityMAS-O)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ..records import Dialogue
from ..settings.workflow import Workflow
from ..team.dialogue import taken

Place = tuple[str, str, int]
"""Where a message stands in a workflow: its role, its step, and how often that step was taken before."""

_FLOOR = 1e-4  # beside the standard deviation, as published; differences far above it count alike, however small
_EQUAL = 1e-9  # rewards as near as this are the same number, computed in another order


@dataclass(frozen=True, slots=True)
class Grouped:
    """advantages: in the order of the rewards, None where there is no reward. groups: places that some run has come to.
    flat: those of them whose rewards are all the same, so that nothing is learnt there."""

    advantages: tuple[tuple[float | None, ...], ...]
    groups: int
    flat: int


def places(dialogue: Dialogue, workflow: Workflow) -> list[Place]:
    """The place of every turn of a dialogue."""
    seen: Counter[str] = Counter()
    found = []
    for step, turn, _ in taken(dialogue.turns, workflow):
        found.append((workflow.names[turn.speaker], step.name, seen[step.name]))
        seen[step.name] += 1
    return found


def grouped(where: Sequence[Sequence[Place]], rewards: Sequence[Sequence[float | None]]) -> Grouped:
    """The advantage of every message among the runs of one question.

    where, rewards: of each run, turn by turn. Whoever reaches a place alone has nothing to compare with: its group is
    flat. The advantages of a group add up to 0.
    """
    groups: dict[Place, list[float]] = {}
    for run, paid in zip(where, rewards, strict=True):
        for place, reward in zip(run, paid, strict=True):
            if reward is not None:
                groups.setdefault(place, []).append(reward)
    scales = {place: _scale(paid) for place, paid in groups.items()}

    def advantage(place: Place, reward: float | None) -> float | None:
        if reward is None:
            return None
        mean, spread = scales[place]
        return (reward - mean) / (spread + _FLOOR) if spread else 0.0

    advantages = (
        tuple(advantage(place, reward) for place, reward in zip(run, paid, strict=True))
        for run, paid in zip(where, rewards, strict=True)
    )
    return Grouped(tuple(advantages), len(groups), sum(not spread for _, spread in scales.values()))


def _scale(rewards: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; a deviation of 0 where there is nothing to tell the rewards apart by."""
    if max(rewards) - min(rewards) <= _EQUAL:
        return rewards[0], 0.0
    return fmean(rewards), stdev(rewards)


def gae(reward: float, values: Sequence[float], *, discount: float, gae_lambda: float) -> list[float]:
    """The advantage of every token of a message whose end is rewarded.

    values: what was foretold before each token; after the last one nothing is left to come.
    """
    advantages: list[float] = []
    after, running = 0.0, 0.0
    for k in range(len(values) - 1, -1, -1):
        surprise = (reward if k == len(values) - 1 else 0.0) + discount * after - values[k]
        running = surprise + discount * gae_lambda * running
        advantages.append(running)
        after = values[k]
    return advantages[::-1]
