"""The signalling game with a transformer and LoRA, under three maps of roles to adapters, and with one side learning.

    python scripts/signalling_seeds.py MODEL [--seeds 0,1,2,3,4] [--lines shared,partial] [--folder runs/signalling]

MODEL is where scripts/signalling.py wrote one; it is written if it is not there. Each line is the recipe
examples/signalling/signalling.yaml and then its variant `settled`, both kept under --folder, so that a second call only
reads them. Out: the share of right answers to 100 questions, sampled, before, after each of the two, and greedy at the
end; chance is a quarter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import signalling

import optima_lite

RECIPE = Path(__file__).parents[1] / "examples" / "signalling" / "signalling.yaml"
LINES = {
    "shared": (),  # as the recipe stands
    "partial": ("team.adapters={Sender: mouth, Left: ears, Right: ears}",),
    "separate": ("team.adapters=separate",),
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
    print(f"| {'learning':<9} | seed | before | held | settled | settled, greedy | seconds |")
    for line in given.lines.split(","):
        for seed in map(int, given.seeds.split(",")):
            held, settled = played(given.model, line, seed, given.folder / f"{line}-seed{seed}")
            before, after = score(held, "untrained"), score(held, "iteration_29")
            last, greedy = score(settled, "iteration_24"), score(settled, "iteration_24", "greedy")
            spent = held["seconds"] + settled["seconds"]
            found = " | ".join(f"{one:.2f}" for one in (before, after, last, greedy))
            print(f"| {line:<9} | {seed} | {found} | {spent:.0f} |", flush=True)


def played(model: Path, line: str, seed: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summaries of the run that is held to the base, and of the one that goes on without."""
    how = (*LINES[line], f"model.name={model.resolve()}", f"seed={seed}")
    held = optima_lite.train(RECIPE, overrides=how, run=folder / "held")
    begun = f"start={(folder / 'held').resolve()}"
    return held, optima_lite.train(RECIPE, overrides=(*how, begun), variants=("settled",), run=folder / "settled")


def score(summary: dict[str, Any], name: str, decoding: str = "sampled") -> float:
    """The score of one evaluation."""
    rows = {(row["name"], row["decoding"]): row["score"] for row in summary["evaluations"]}
    return float(rows[name, decoding])


if __name__ == "__main__":
    main()
