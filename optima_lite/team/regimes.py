"""What handing on early is worth in theory: which of streaming, serial and a single agent is best, and by how much.

An agent upstream says S steps; the jth is right with probability p_j. Every right step that stands before a step of an
agent downstream makes that one right more often by `gain`, every wrong one less often by `loss`. A single agent has
none before it. Serial it has all of them before all of its own; streaming it has the first j before its jth, so the jth
of them reaches S - j + 1 of its steps. The head of a message counts more in a stream, its tail less.

All of it is about the sign of p_j - p*, where p* = loss / (gain + loss) is the chance at which a step neither helps nor
harms. The three means below are all that decides; the two ways to reach an order are compared in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Order = tuple[str, str, str]
"""Stream, serial and single, the best first."""


@dataclass(frozen=True, slots=True)
class Lift:
    """How much more often a step downstream is right than a single agent's, on average over its steps."""

    stream: float
    serial: float
    single: float = 0.0

    @property
    def order(self) -> Order:
        """The best first."""
        worth = {"stream": self.stream, "serial": self.serial, "single": self.single}
        first, second, third = sorted(worth, key=lambda name: -worth[name])
        return first, second, third


def lift(right: Sequence[float], *, gain: float, loss: float) -> Lift:
    """What each way is worth, summed over the steps that reach each other. right: p_1 to p_S."""
    count = len(right)
    worth = [gain * p - loss * (1 - p) for p in right]
    reached = [count - j for j in range(count)]  # steps downstream that come after the jth upstream
    stream = sum(one * times for one, times in zip(worth, reached, strict=True))
    return Lift(stream / count, sum(worth))


def regime(right: Sequence[float], *, gain: float, loss: float) -> Order:
    """The order of the three ways, from whether the head, the whole and the tail of a message are above p*.

    right: p_1 to p_S, of two steps or more. Of six regimes two have a single agent first.
    """
    even = loss / (gain + loss)
    count = len(right)
    head = _mean(right, [count - j for j in range(count)]) > even
    whole = _mean(right, [1] * count) > even
    tail = _mean(right, [*range(count)]) > even
    if head and not tail:
        return ("stream", "serial", "single") if whole else ("stream", "single", "serial")
    if whole:  # and the tail with it
        return ("serial", "stream", "single") if head else ("serial", "single", "stream")
    return ("single", "serial", "stream") if tail else ("single", "stream", "serial")


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def speedup(agents: int, steps: int, *, cost: float = 0.0) -> float:
    """How many times shorter a chain takes as a stream, where decoding is all there is. cost: of every further row in a
    batch, as a share of a single row's; 0 where rows side by side cost nothing, 1 where they gain nothing."""
    alone = agents * steps
    ticks = [min(tick, agents, steps, agents + steps - tick) for tick in range(1, agents + steps)]
    return alone / sum(1 + cost * (rows - 1) for rows in ticks)
