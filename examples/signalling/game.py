"""The signalling game as a task: one of four symbols is shown to the sender alone, and has to come out at the end."""

from __future__ import annotations

from optima_lite import Question

SYMBOLS = ("one", "two", "three", "four")


def questions(split: str, count: int, *, seed: int, start: int) -> list[Question]:
    """There are only four questions, asked in turn; what is learnt is no fact but an agreement."""
    return [
        Question(f"{split}-{number}", f"<A>{SYMBOLS[number % 4]}</A>", (SYMBOLS[number % 4],), ((), ()))
        for number in range(start, start + count)
    ]
