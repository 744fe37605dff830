"""The signalling game with a transformer and LoRA, under three maps of roles to adapters, and with one side learning.

    python scripts/signalling_seeds.py MODEL [--seeds 0,1,2,3,4] [--lines shared,partial] [--folder runs/signalling]

MODEL is where scripts/signalling.py wrote one; it is written if it is not there. Each line is the recipe
examples/signalling/signalling.yaml; until all agree (greedy, all are right) or four rounds are over, its variant
`loosened` and the recipe again, each from where the last has ended; and then its variant `settled`. Where one side
alone learns, who never agree, there is one round. All runs are kept under --folder, so that a second call only reads
them. Out: rounds; the share of right answers to 100 questions, sampled, before, after the last round and at the end,
and greedy at the end; chance is a quarter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import signalling

import optima_lite

RECIPE = Path(__file__).parents[1] / "examples" / "signalling" / "signalling.yaml"
ROUNDS = 4
MAPS = {
    "shared": (),  # as the recipe stands
    "partial": ("team.adapters={Sender: mouth, Left: ears, Right: ears}",),
    "separate": ("team.adapters=separate",),
}
LINES = MAPS | {
    "sender": ("team.adapters=separate", "reinforce.roles=[Sender]"),
    "receivers": ("team.adapters=separate", "reinforce.roles=[Left, Right]"),
}


def main() -> None:
    """Runs what is missing, and prints a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--lines", default=",".join(LINES), help="which of them")
    parser.add_argument("--folder", type=Path, default=Path("runs/signalling"))
    given = parser.parse_args()
    if not given.model.exists():
        signalling.write(given.model)
    print(f"| {'learning':<9} | seed | rounds | before | held | settled | settled, greedy | seconds |")
    for line in given.lines.split(","):
        for seed in map(int, given.seeds.split(",")):
            *held, settled = played(given.model, line, seed, given.folder / f"{line}-seed{seed}")
            before, after = score(held[0], "untrained"), score(held[-1], "iteration_29")
            last, greedy = score(settled, "iteration_24"), score(settled, "iteration_24", "greedy")
            spent = sum(one["seconds"] for one in (*held, settled))
            found = " | ".join(f"{one:.2f}" for one in (before, after, last, greedy))
            print(f"| {line:<9} | {seed} | {len(held)} | {found} | {spent:.0f} |", flush=True)


def played(model: Path, line: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The summaries of the rounds that are held to the base, and of the run that goes on without."""
    how, found = (*LINES[line], f"model.name={model.resolve()}"), list[dict[str, Any]]()
    begun: tuple[str, ...] = ()

    def goes_on(run: Path, drawn: int, *variants: str) -> dict[str, Any]:
        nonlocal begun
        told = optima_lite.train(RECIPE, overrides=(*how, f"seed={drawn}", *begun), variants=variants, run=run)
        begun = (f"start={run.resolve()}",)
        return told

    for number in range(ROUNDS if line in MAPS else 1):
        if number:
            goes_on(folder / f"loosened{number}", seed + 100 * number, "loosened")
        found.append(goes_on(folder / f"held{number or ''}", seed + 100 * number))
        if score(found[-1], "iteration_29", "greedy") == 1:
            break
    return [*found, goes_on(folder / "settled", seed, "settled")]


def score(summary: dict[str, Any], name: str, decoding: str = "sampled") -> float:
    """The score of one evaluation."""
    rows = {(row["name"], row["decoding"]): row["score"] for row in summary["evaluations"]}
    return float(rows[name, decoding])


if __name__ == "__main__":
    main()
