"""What an iteration of an 8B would take on 1 to 4,096 GPUs: the schedule of a cluster on a clock that is made up.

    python scripts/simulate_cluster.py

Every rate below is an assumption, named here, until somebody has measured it on cards; what the driver takes was
measured on a CPU. Not in it: the network, downloads of the model, limits of Ray's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from optima_lite.stage.simulation import Circumstances, simulate

DECODE, READ, TRAIN = 1_500.0, 12_000.0, 9_000.0  # tokens a second of a card with full batches: assumed
PROMPT, SAID = 700, 200  # tokens of a view's beginning, and of a dialogue
ROLLOUTS, KEPT, EPOCHS = 8, 0.7, 3
SEARCHES, OF_A_SEARCH = 8, 3
STREAM = 40.0  # tokens a second of a single row: no piece takes less than its rows one after the other
HOW = Circumstances(start=90.0, lost_after=500 * 3600.0, driver=0.02, paces=((1.0, 0.94), (1.3, 0.05), (3.0, 0.01)))


@dataclass(frozen=True)
class Phase:
    """A phase of an iteration: dialogues, seconds that one takes a card, and the least that a piece takes."""

    name: str
    dialogues: int
    each: float
    least: float

    def pieces(self, chunk: int) -> list[float]:
        """What the pieces of so many dialogues take."""
        sizes = [min(chunk, self.dialogues - begin) for begin in range(0, self.dialogues, chunk)]
        return [max(self.least, size * self.each) for size in sizes]


def iteration(questions: int) -> list[Phase]:
    """The phases of isft-dpo on so many questions, without training."""
    once = SAID / STREAM
    reading = (2 * PROMPT / ROLLOUTS + SAID) / READ
    sampling = SAID / DECODE + reading
    trees = questions // 3 * SEARCHES * OF_A_SEARCH
    return [
        Phase("generate", questions * ROLLOUTS, sampling, once),
        Phase("rank", questions * ROLLOUTS, reading + SAID / READ, 0.0),
        Phase("search", trees, sampling + reading, SEARCHES * once),
        Phase("validate", 1_000, sampling + reading, once),
        Phase("evaluate", 2_000, sampling + reading, once),
    ]


def training(questions: int, trainers: int) -> float:
    """Seconds of SFT and DPO on so many cards."""
    tokens = KEPT * questions * 2 * (PROMPT + SAID) * EPOCHS + 0.5 * (questions // 3) * 4 * 2.4 * (PROMPT + SAID)
    return tokens / TRAIN / trainers * (1 + 0.02 * (trainers - 1) ** 0.5)


def main() -> None:
    """The table."""
    print(
        "| questions | GPUs | trainers | chunk | iteration | GPUs busy | "
        + " | ".join(p.name for p in iteration(3))
        + " | train |"
    )
    print("|" + "---|" * 12)
    for questions, rows in {
        2_000: ((1, 1, 400), (8, 1, 64), (8, 8, 64), (64, 16, 24), (1_024, 16, 24)),
        20_000: ((8, 8, 400), (64, 32, 400), (1_024, 64, 64)),
        200_000: ((64, 64, 400), (1_024, 512, 400), (4_096, 512, 200)),
    }.items():
        for workers, trainers, chunk in rows:
            rng = Random(0)
            found = [(p.name, simulate(p.pieces(chunk), workers, HOW, rng)) for p in iteration(questions)]
            trained = training(questions, trainers)
            whole = sum(one.seconds for _, one in found) + trained
            busy = sum(one.busy for _, one in found) + trained * trainers
            parts = " | ".join(f"{one.seconds / 60:.1f}" for _, one in found)
            told = f"{questions:,} | {workers:,} | {trainers} | {chunk} | {whole / 60:.1f} min"
            print(f"| {told} | {busy / whole / workers:.0%} | {parts} | {trained / 60:.1f} |", flush=True)


if __name__ == "__main__":
    main()
