"""Variants of a recipe side by side on several seeds, with paired differences on the same held-out questions.

    python scripts/measure.py quickstart --seeds 0,1,2 --with schedule=isft --with schedule=isft-dpo --single

Each `--with` is one line of the table: overrides with commas between (a comma within braces or brackets is part of a
value). `--single` also trains the single agent by each recipe, the control of what a team is worth. Runs are kept under
--folder, so a second call only reads them. The seeds answer the same questions, so an interval is over the questions
(clusters), and what the seeds differ by stands beside it. Choose settings by `--split validation`: who chooses by the
held-out questions fits them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optima_lite
from optima_lite.methods.train import train_alone
from optima_lite.records import Rollouts
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.runs.summary import preparation_tokens
from optima_lite.settings.config import load_machine
from optima_lite.stage.baselines import ALONE
from optima_lite.stage.cast import recall
from optima_lite.statistics import OverSeeds, of_scores, over_seeds

_BETWEEN = re.compile(r",(?![^{]*\})(?![^\[]*\])")
_ODD = re.compile(r"[^\w.-]")  # in a folder's name


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--variant", action="append", default=[], help="a variant of the recipe, for every line")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--with", dest="variants", action="append", default=[], help="overrides of one line")
    parser.add_argument("--single", action="store_true", help="train the single agent, too")
    parser.add_argument("--split", choices=("held_out", "validation"), default="held_out", help="of the differences")
    parser.add_argument("--folder", type=Path, default=Path("runs/measure"))
    given = parser.parse_args()
    seeds, variants = [int(seed) for seed in given.seeds.split(",")], given.variants or [""]
    runs = {
        (variant, seed): run(given.recipe, variant, seed, given.folder, named=given.variant)
        for variant in variants
        for seed in seeds
    }
    print_table(runs, variants, seeds)
    folders = {variant: [read_run(given.folder / name(variant, seed)) for seed in seeds] for variant in variants}
    print_gains(folders)
    if given.single:
        folders |= {f"{variant} single agent".strip(): [alone(one) for one in folders[variant]] for variant in variants}
    print_differences(folders, given.split)


def run(recipe: str, variant: str, seed: int, folder: Path, *, named: Sequence[str] = ()) -> dict[str, Any]:
    """The summary of one run, computed unless it is there. named: the recipe's own variants."""
    overrides = [*filter(None, _BETWEEN.split(variant)), f"seed={seed}"]
    return optima_lite.train(recipe, overrides=overrides, variants=named, run=folder / name(variant, seed))


def alone(run: RunFolder) -> RunFolder:
    """The run that trained the single agent of a run, computed unless it is there."""
    folder = run.folder / ALONE
    if not (folder / "summary.json").exists():
        train_alone(recall(run, machine=load_machine(None), iteration=None), run, observe=lambda event: None)
    return read_run(folder)


def name(variant: str, seed: int) -> str:
    """The run's folder."""
    plain = _ODD.sub("", variant.replace("=", "-").replace(",", "_"))
    return f"{plain or 'as-it-is'}-seed{seed}"


def print_table(runs: dict[tuple[str, int], dict[str, Any]], variants: list[str], seeds: list[int]) -> None:
    """Before and after, for each run."""
    head = f"{'variant':<44} {'seed':>4} {'untrained':>18} {'after':>18} {'greedy':>13} {'gain':>6} {'tokens':>7}"
    print(f"{head} {'loss':>5} {'prepared':>12} {'seconds':>8}")
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
                f"{after['readability_loss']:>5.2f} {preparation(summary):>12,} {summary['seconds']:>8.1f}"
            )


def preparation(summary: dict[str, Any]) -> int:
    """Tokens sampled and trained on before the last pair was there, those of its validation included."""
    return int(summary["training_tokens"] or 0) + int(summary.get("validation_tokens", 0))


def print_gains(folders: dict[str, list[RunFolder]]) -> None:
    """Each line before training, and what training changed, on the held-out questions."""
    print("\nbefore training, and what training changes; score, tokens a question")
    for line, runs in folders.items():
        before = [answers_of(run, "evaluation/untrained_sampled") for run in runs]
        after = [answered(run, "held_out") for run in runs]
        score = over_seeds([[one for one, _ in seed] for seed in before], interval=of_scores)
        tokens = over_seeds([[one for _, one in seed] for seed in before])
        gain, saved = (
            over_seeds(
                [
                    [b[column] - a[column] for a, b in zip(*pair, strict=True)]
                    for pair in zip(before, after, strict=True)
                ]
            )
            for column in (0, 1)
        )
        print(f"{line or 'as it is':<44} {shown(score, 3)}   {shown(tokens, 1)}")
        print(f"{'':<44} {shown(gain, 3, sign='+')}   {shown(saved, 1, sign='+')}")


def print_differences(folders: dict[str, list[RunFolder]], split: str) -> None:
    """Each line after training, and against the first: score and tokens with 95 % intervals over the questions, which
    are clusters of the seeds' answers, and each seed's own mean."""
    read = {line: [answered(one, split) for one in runs] for line, runs in folders.items()}
    first = next(iter(read))
    print(f"\nafter training, on the {split} questions; score, tokens a question, tokens to prepare")
    for line, answers in read.items():
        spent = [[*preparation_tokens(one).values()][-1] or 0 for one in folders[line]]
        score = over_seeds([[one for one, _ in seed] for seed in answers], interval=of_scores)
        tokens = over_seeds([[one for _, one in seed] for seed in answers])
        print(f"{line or 'as it is':<44} {shown(score, 3)}   {shown(tokens, 1)}   {sum(spent) / len(spent):,.0f}")
    for line in [*read][1:]:
        pairs = [*zip(read[line], read[first], strict=True)]
        score, tokens = (
            over_seeds([[a[column] - b[column] for a, b in zip(*pair, strict=True)] for pair in pairs])
            for column in (0, 1)
        )
        print(f"{line}, less {first or 'as it is'}: {shown(score, 3, sign='+')}   {shown(tokens, 1, sign='+')}")


def shown(found: OverSeeds, decimals: int, *, sign: str = "") -> str:
    """Mean, interval, and the seeds."""
    form = f"{sign}.{decimals}f"
    low, high = found.interval or (float("nan"), float("nan"))
    seeds = " ".join(f"{one:{form}}" for one in found.by_seed)
    return f"{found.mean:{form}} [{low:{form}}, {high:{form}}] (seeds {seeds})"


def answered(run: RunFolder, split: str) -> Sequence[tuple[float, int]]:
    """Score and tokens of every question as the run's last pair answered it when sampled, in the questions' order."""
    if split == "held_out":
        stage = f"evaluation/{sorted((run.folder / 'evaluation').glob('iteration_*_sampled.jsonl'))[-1].stem}"
    else:
        adapter = run.adapter(run.trained()[-1])
        step = {"4_adapter": "5_validation", "8_adapter": "9_validation"}
        stage = f"{adapter.parent.name}/{step[adapter.name]}" if adapter else "validation/untrained"
    return answers_of(run, stage)


def answers_of(run: RunFolder, stage: str) -> Sequence[tuple[float, int]]:
    """Score and tokens of every question of a stage of evaluation."""
    return [(group.rewards[0].task, group.dialogues[0].tokens) for group in run.read(stage, Rollouts)]


if __name__ == "__main__":
    main()
