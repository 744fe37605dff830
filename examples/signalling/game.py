"""The signalling game as a task: one of four symbols is shown to the sender alone, and has to come out at the end."""

from __future__ import annotations

from optima_lite import Question

SYMBOLS = ("one", "two", "three", "four")
MARKED = r"\boxed{{{}}}"  # a symbol as it is shown and said; so marked, it also counts as an answer


def questions(split: str, count: int, *, seed: int, start: int) -> list[Question]:
    """There are only four questions, asked in turn; what is learnt is no fact but an agreement."""
    return [
        Question(f"{split}-{number}", MARKED.format(SYMBOLS[number % 4]), (SYMBOLS[number % 4],), ((), ()))
        for number in range(start, start + count)
    ]
