"""The signalling game with tables in place of a transformer: what the game itself takes to be learnt, in seconds.

    python scripts/signalling_tables.py [--seeds 16]

A sender and two receivers are tables of logits, one row for each thing they can be told. They learn as in the recipe
examples/signalling/signalling.yaml: as many dialogues, advantages within the runs of a question, sign-like steps of an
Adam that begins anew in each iteration, held to where they began while they agree, then let go. Out: of each line,
over its seeds, how many agree (the likeliest answer to the likeliest message is right, for all symbols and both
receivers), and the share of right answers, all sampled, of the second receiver, whose answer counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

SYMBOLS, QUESTIONS, ROLLOUTS, BATCHES = 4, 48, 8, 8
HELD_RATE, SETTLED_RATE, FLOOR = 0.2, 0.08, 1e-4  # of learning; logits
SENDER, RECEIVERS = "Sender", ("Left", "Right")


@dataclass(frozen=True, slots=True)
class Line:
    """What is tried. whims: spread of the logits at the beginning. hold: weight of the KL term of the first `held`
    iterations, 0 afterwards. learn: the roles that are updated."""

    name: str
    whims: float = 0.5
    hold: float = 0.3
    held: int = 30
    iterations: int = 55
    learn: tuple[str, ...] = (SENDER, *RECEIVERS)


LINES = (
    Line("as in the recipe"),
    Line("without the hold", hold=0.0),
    Line("without whims", whims=0.0),
    Line("only the sender learns", learn=(SENDER,)),
    Line("only the receivers learn", learn=RECEIVERS),
    Line("the sender, no whims", whims=0.0, learn=(SENDER,)),
    Line("the receivers, no whims", whims=0.0, learn=RECEIVERS),
)


def main() -> None:
    """A row for each line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    seeds = range(parser.parse_args().seeds)
    print(f"{'':<26} {'agree':>7} {'sampled, mean':>14} {'least':>6} {'most':>6}")
    for line in LINES:
        found = [played(line, seed) for seed in seeds]
        right = [score for _, score in found]
        agree = sum(agreed for agreed, _ in found)
        print(
            f"{line.name:<26} {agree:>3}/{len(seeds):<3} {np.mean(right):>14.3f} {min(right):>6.3f} {max(right):>6.3f}"
        )


def played(line: Line, seed: int) -> tuple[bool, float]:
    """Whether all agree at the end, and the share of right answers."""
    draw = np.random.default_rng(seed)
    tables = {role: draw.normal(0, line.whims, (SYMBOLS, SYMBOLS)) for role in (SENDER, *RECEIVERS)}
    base = {role: shares(table) for role, table in tables.items()}
    for iteration in range(line.iterations):
        hold, rate = (line.hold, HELD_RATE) if iteration < line.held else (0.0, SETTLED_RATE)
        moments = {role: (np.zeros((SYMBOLS, SYMBOLS)), np.zeros((SYMBOLS, SYMBOLS))) for role in line.learn}
        for step, batch in enumerate(dialogues(tables, draw), start=1):
            for role in line.learn:
                told, said, advantages = batch[role]
                odds = shares(tables[role])
                uphill = np.zeros((SYMBOLS, SYMBOLS))
                np.add.at(uphill, (told, said), advantages)
                uphill -= odds * np.bincount(told, weights=advantages, minlength=SYMBOLS)[:, None]
                uphill = uphill / len(told) - hold * (odds - base[role]) / SYMBOLS
                tables[role] += rate * adam(moments[role], uphill, step)
    said = tables[SENDER].argmax(1)
    agreed = all((tables[role].argmax(1)[said] == np.arange(SYMBOLS)).all() for role in RECEIVERS)
    right = (shares(tables[SENDER]) @ shares(tables[RECEIVERS[-1]])).trace() / SYMBOLS
    return bool(agreed), float(right)


def dialogues(tables: dict[str, Table], draw: np.random.Generator) -> Iterator[dict[str, tuple[Table, Table, Table]]]:
    """An iteration's batches: what each role was told, what it said, and how much better that was than its like."""
    shown = np.repeat(np.arange(QUESTIONS) % SYMBOLS, ROLLOUTS)
    sent = said_to(tables[SENDER], shown, draw)
    heard = {role: said_to(tables[role], sent, draw) for role in RECEIVERS}
    worth = {role: better(heard[role] == shown) for role in RECEIVERS}
    rows = {SENDER: (shown, sent, worth[RECEIVERS[-1]])} | {
        role: (sent, heard[role], worth[role]) for role in RECEIVERS
    }
    for part in np.array_split(draw.permutation(len(shown)), BATCHES):
        yield {role: (told[part], said[part], advantages[part]) for role, (told, said, advantages) in rows.items()}


def said_to(table: Table, told: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
    """What is sampled in answer to each."""
    return (shares(table)[told].cumsum(1) > draw.random((len(told), 1))).argmax(1)


def better(right: NDArray[np.bool_]) -> Table:
    """The advantages within the runs of each question; 0 where all were worth the same."""
    runs = right.astype(float).reshape(-1, ROLLOUTS)
    return ((runs - runs.mean(1, keepdims=True)) / (runs.std(1, ddof=1, keepdims=True) + FLOOR)).ravel()


def shares(logits: Table) -> Table:
    """The probabilities of each row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def adam(moments: tuple[Table, Table], uphill: Table, step: int) -> Table:
    """The direction of an update, the moments changed in place (Kingma and Ba 2015, algorithm 1)."""
    first, second = moments
    first += 0.1 * (uphill - first)
    second += 0.001 * (uphill**2 - second)
    return (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)


if __name__ == "__main__":
    main()
