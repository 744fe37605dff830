"""The signalling game with a transformer and LoRA, under three maps of roles to adapters, and with one side learning.

    python scripts/signalling_seeds.py MODEL [--seeds 0,1,2,3,4] [--lines shared,partial] [--folder runs/signalling]

MODEL is where scripts/signalling.py wrote one; it is written if it is not there. Each line is the recipe
examples/signalling/signalling.yaml and then its variant `settled`. Where they do not agree in the end (greedy, not all
are right), another round follows, four at most: the recipe's run is loosened by the variant of that name, held again
and settled again. Where one side alone learns, who never agree, there is one round. All runs are kept under --folder,
so that a second call only reads them. Out: rounds; the share of right answers to 100 questions, sampled, before, after
the last hold and at the end, and greedy at the end; chance is a quarter.
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
            runs = played(given.model, line, seed, given.folder / f"{line}-seed{seed}")
            *_, held, settled = runs
            before, after = score(runs[0], "untrained"), score(held, "iteration_29")
            last, greedy = score(settled, "iteration_24"), score(settled, "iteration_24", "greedy")
            spent = sum(one["seconds"] for one in runs)
            found = " | ".join(f"{one:.2f}" for one in (before, after, last, greedy))
            print(f"| {line:<9} | {seed} | {len(runs) // 3 + 1} | {found} | {spent:.0f} |", flush=True)


def played(model: Path, line: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The summaries of all runs: two of the first round, three of each other one, the settled one last."""
    how, found = (*LINES[line], f"model.name={model.resolve()}"), list[dict[str, Any]]()

    def run(name: str, drawn: int, *variants: str, after: str | None = None) -> None:
        begun = (f"start={(folder / after).resolve()}",) if after else ()
        told = (*how, f"seed={drawn}", *begun)
        found.append(optima_lite.train(RECIPE, overrides=told, variants=variants, run=folder / name))

    for number in range(ROUNDS if line in MAPS else 1):
        now, before, drawn = str(number or ""), str(number - 1 or ""), seed + 100 * number
        if number:
            run(f"loosened{now}", drawn, "loosened", after=f"held{before}")
        run(f"held{now}", drawn, after=f"loosened{now}" if number else None)
        run(f"settled{now}", seed, "settled", after=f"held{now}")
        if score(found[-1], "iteration_24", "greedy") == 1:
            break
    return found


def score(summary: dict[str, Any], name: str, decoding: str = "sampled") -> float:
    """The score of one evaluation."""
    rows = {(row["name"], row["decoding"]): row["score"] for row in summary["evaluations"]}
    return float(rows[name, decoding])


if __name__ == "__main__":
    main()
