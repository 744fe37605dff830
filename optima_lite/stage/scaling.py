"""What more samples of a question are worth: the answer of the majority, and whether any sample was right.

Majority: answers are grouped one after the other; an answer joins the first group that holds any answer like it, else
it begins one. The largest group wins, the first of equals, and scores what its members score on average (the authors'
rule). Coverage: the score of the best sample, which only an oracle could pick (paper section 4, inference scaling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import CODE_METRICS, Metric
from ..tasks import answers

ALIKE = 0.9  # similarity from which two answers count as one


@dataclass(frozen=True, slots=True)
class Sample:
    """What one dialogue about a question came to. answer: None when it gave none. tokens: all that were sampled."""

    answer: str | None
    score: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ScalingRow:
    """Means over `questions` when each is asked `samples` times, with 95 % intervals.

    name: who answers. tokens: of all samples of a question. majority, coverage: scores in [0, 1].
    """

    name: str
    samples: int
    questions: int
    tokens: float
    majority: float
    majority_low: float
    majority_high: float
    coverage: float
    coverage_low: float
    coverage_high: float


def largest_group(stated: Sequence[str | None], *, metric: Metric) -> list[int]:
    """Positions of the answers that agree with the most others, in order; none when there is no answer at all.

    A sample without an answer has no vote.
    """
    groups: list[list[int]] = []
    for position, answer in enumerate(stated):
        if answer is None:
            continue
        for group in groups:
            if any(alike(answer, stated[member] or "", metric=metric) for member in group):
                group.append(position)
                break
        else:
            groups.append([position])
    return max(groups, key=len, default=[])


def alike(one: str, other: str, *, metric: Metric) -> bool:
    """Whether two answers count as one: a word F1 of at least 0.9, or equal by the task's metric.

    Formulas are only brought to one spelling, since every two answers are compared; programs by their spelling.
    """
    if metric == "math" or metric in CODE_METRICS:
        return answers.agree(one, other, metric=metric)
    return answers.score(metric, one, [other]) >= ALIKE


def majority(samples: Sequence[Sample], *, metric: Metric) -> float:
    """The mean score of the largest group; 0 without any answer."""
    group = largest_group([sample.answer for sample in samples], metric=metric)
    return sum(samples[position].score for position in group) / len(group) if group else 0.0


def coverage(samples: Sequence[Sample]) -> float:
    """The score of the best sample; 0 without samples."""
    return max((sample.score for sample in samples), default=0.0)


def sizes(samples: int) -> list[int]:
    """How many samples to look at: 1, 2, 4, ... and all of them; at least one is needed."""
    powers = [1 << k for k in range(samples.bit_length()) if 1 << k < samples]
    return [*powers, samples]
