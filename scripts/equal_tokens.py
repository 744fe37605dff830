"""Score against sampled tokens: where each line of runs stands when all have sampled as many.

    python scripts/measure.py quickstart --folder runs/equal --with schedule=isft --with schedule=idpo --with schedule=isft-dpo
    python scripts/measure.py reinforce_quickstart --folder runs/equal --with evaluation.every=1
    python scripts/equal_tokens.py runs/equal

Reads the folders that scripts/measure.py has left, of which those that differ by the seed alone are a line. Sampled are
the dialogues and searches that are learnt from and those of validation; what a trainer read is not, and stands beside
it under `prepared`. The budget is what the cheapest run sampled in all; every run is taken at its last evaluation within
it, since what came later it had not yet paid for.
"""  # noqa: E501

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import answers_of, shown

from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.runs.steps import imitations, preferences, reinforcements
from optima_lite.runs.summary import preparation_tokens, validation_tokens
from optima_lite.statistics import of_scores, over_seeds


@dataclass(frozen=True, slots=True)
class Point:
    """How a run answered after an iteration, None untrained: score and tokens of each held-out question. sampled,
    prepared: tokens up to then."""

    iteration: int | None
    sampled: int
    prepared: int
    answers: Sequence[tuple[float, int]]


def main() -> None:
    """Prints every line's curve, then all lines at the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    lines = read_lines(parser.parse_args().folder)
    print_curves(lines)
    print_at(budget(lines), lines)


def read_lines(folder: Path) -> dict[str, list[list[Point]]]:
    """The curve of each seed of each line, by the line's name."""
    lines: dict[str, list[list[Point]]] = {}
    for place in sorted(folder.glob("*-seed*/summary.json")):
        lines.setdefault(place.parent.name.rpartition("-seed")[0], []).append(curve(read_run(place.parent)))
    return lines


def curve(run: RunFolder) -> list[Point]:
    """A run's evaluations in their order, untrained first."""
    steps = [*imitations(run), *preferences(run), *reinforcements(run)]
    prepared, judged = preparation_tokens(run), validation_tokens(run)
    points = [Point(None, 0, 0, answers_of(run, "evaluation/untrained_sampled"))]
    for place in sorted((run.folder / "evaluation").glob("iteration_*_sampled.jsonl")):
        iteration = int(place.stem.split("_")[1])
        sampled = sum(step.tokens for step in steps if step.iteration <= iteration) + judged[iteration]
        told = answers_of(run, f"evaluation/{place.stem}")
        points.append(Point(iteration, sampled, prepared[iteration] or 0, told))
    return points


def budget(lines: dict[str, list[list[Point]]]) -> int:
    """The tokens that the cheapest run sampled in all."""
    return min(points[-1].sampled for seeds in lines.values() for points in seeds)


def within(points: Sequence[Point], most: int) -> Point:
    """The last evaluation for which no more than so many tokens were sampled."""
    return [point for point in points if point.sampled <= most][-1]


def print_curves(lines: dict[str, list[list[Point]]]) -> None:
    """After each iteration the means over the seeds."""
    print(f"{'line':<60} {'iteration':>9} {'sampled':>10} {'prepared':>10} {'score':>6} {'tokens':>7}")
    for line, seeds in lines.items():
        for points in zip(*seeds, strict=True):
            said = [answer for point in points for answer in point.answers]
            score, tokens = (sum(one[column] for one in said) / len(said) for column in (0, 1))
            sampled, prepared = (sum(column) / len(points) for column in zip(*map(_spent, points), strict=True))
            name = "none" if points[0].iteration is None else points[0].iteration
            print(f"{line:<60} {name:>9} {sampled:>10,.0f} {prepared:>10,.0f} {score:>6.3f} {tokens:>7.1f}")


def print_at(most: int, lines: dict[str, list[list[Point]]]) -> None:
    """All lines within a budget."""
    print(f"\nwithin {most:,} sampled tokens; iteration, score, tokens a question, tokens sampled and prepared")
    for line, seeds in lines.items():
        points = [within(one, most) for one in seeds]
        score = over_seeds([[one for one, _ in point.answers] for point in points], interval=of_scores)
        tokens = over_seeds([[one for _, one in point.answers] for point in points])
        reached = " ".join("none" if point.iteration is None else str(point.iteration) for point in points)
        sampled, prepared = (sum(column) / len(points) for column in zip(*map(_spent, points), strict=True))
        print(f"{line:<60} {reached}   {shown(score, 3)}   {shown(tokens, 1)}   {sampled:,.0f}   {prepared:,.0f}")


def _spent(point: Point) -> tuple[int, int]:
    return point.sampled, point.prepared


if __name__ == "__main__":
    main()
