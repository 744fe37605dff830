"""Variants of a recipe side by side on several seeds, with paired bootstrap differences on the same held-out questions.

    python scripts/measure.py quickstart --seeds 0,1,2 --with schedule=isft --with schedule=isft-dpo

Each `--with` is one line of the table: overrides with commas between. Runs are kept under --folder, so a second call
only reads them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import optima_lite

RESAMPLES = 10_000


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--with", dest="variants", action="append", default=[], help="overrides of one line")
    parser.add_argument("--folder", type=Path, default=Path("runs/measure"))
    given = parser.parse_args()
    seeds, variants = [int(seed) for seed in given.seeds.split(",")], given.variants or [""]
    runs = {(variant, seed): run(given.recipe, variant, seed, given.folder) for variant in variants for seed in seeds}
    print_table(runs, variants, seeds)
    print_differences(runs, variants, seeds, given.folder)


def run(recipe: str, variant: str, seed: int, folder: Path) -> dict[str, Any]:
    """The summary of one run, computed unless it is there."""
    overrides = [*filter(None, variant.split(",")), f"seed={seed}"]
    return optima_lite.train(recipe, overrides=overrides, run=folder / name(variant, seed))


def name(variant: str, seed: int) -> str:
    """The run's folder."""
    return f"{variant.replace('=', '-').replace(',', '_') or 'as-it-is'}-seed{seed}"


def print_table(runs: dict[tuple[str, int], dict[str, Any]], variants: list[str], seeds: list[int]) -> None:
    """Before and after, for each run."""
    head = f"{'variant':<44} {'seed':>4} {'untrained':>18} {'after':>18} {'greedy':>13} {'gain':>6} {'tokens':>7}"
    print(f"{head} {'loss':>5} {'train tokens':>12} {'seconds':>8}")
    for variant in variants:
        for seed in seeds:
            summary = runs[variant, seed]
            rows = {(row["name"], row["decoding"]): row for row in summary["evaluations"]}
            last = max(int(key.split("_")[1]) for key, _ in rows if key.startswith("iteration"))
            before, after = rows["untrained", "sampled"], rows[f"iteration_{last}", "sampled"]
            greedy = rows[f"iteration_{last}", "greedy"]
            print(
                f"{variant or 'as it is':<44} {seed:>4} {before['score']:>9.3f} /{before['tokens']:>6.1f} "
                f"{after['score']:>9.3f} /{after['tokens']:>6.1f} {greedy['score']:>6.3f} /{greedy['tokens']:>5.1f} "
                f"{after['score'] - before['score']:>+6.3f} {after['tokens'] / before['tokens']:>6.1%} "
                f"{after['readability_loss']:>5.2f} {summary['training_tokens'] or 0:>12,} {summary['seconds']:>8.1f}"
            )


def print_differences(
    runs: dict[tuple[str, int], dict[str, Any]], variants: list[str], seeds: list[int], folder: Path
) -> None:
    """Each variant after training against the first, over all seeds and questions; 95 % paired bootstrap intervals."""
    if len(variants) < 2:
        return
    scores = {variant: [last_scores(folder / name(variant, seed)) for seed in seeds] for variant in variants}
    print(f"\nafter training, against {variants[0] or 'as it is'}: score and tokens a dialogue, 95 % intervals")
    for variant in variants[1:]:
        parts = []
        for column in (0, 1):
            pairs = zip(scores[variant], scores[variants[0]], strict=True)
            delta = np.concatenate([one[:, column] - other[:, column] for one, other in pairs])
            draws = np.random.default_rng(0).integers(0, len(delta), size=(RESAMPLES, len(delta)))
            low, high = np.percentile(delta[draws].mean(axis=1), [2.5, 97.5])
            parts.append(f"{delta.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
        print(f"{variant:<44} score {parts[0]}   tokens {parts[1]}")


def last_scores(folder: Path) -> np.ndarray:
    """(questions, 2): score and tokens of the last iteration's sampled evaluation, in the order of the questions."""
    path = sorted((folder / "evaluation").glob("iteration_*_sampled.jsonl"))[-1]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tokens = [sum(len(turn["ids"]) for turn in row["dialogues"][0]["turns"]) for row in rows]
    return np.array([[row["rewards"][0]["task"], count] for row, count in zip(rows, tokens, strict=True)])


if __name__ == "__main__":
    main()
