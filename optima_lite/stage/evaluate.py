"""Held-out score, tokens and agreement with 95 % bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..learn.rollout import Agents, flexible_score, ranked, sample
from ..model.sampling import Sampling
from ..records import Ending, EvalRow, Question, Rollouts
from ..runs.progress import Advance, Evaluated, Observer, phase
from ..settings.config import RewardSettings
from ..tasks.answers import Scoring
from ..tasks.questions import questions
from .cast import Cast

_RESAMPLES = 2000


def examine(
    agents: Agents,
    questions: Sequence[Question],
    *,
    sampling: Sampling,
    seed: int,
    settings: RewardSettings,
    advance: Advance,
) -> list[Rollouts]:
    """One scored dialogue for every question. Greedy when the sampling's temperature is 0.

    advance: of a phase with the parts `parts_of(agents)`.
    """
    ask, read = parts_of(len(agents.protocol.roles))

    def asked(done: int, tokens: int) -> None:
        advance(done, tokens=tokens, part=ask)

    talked = sample(agents, questions, rollouts=1, sampling=sampling, seed=(seed, "evaluation"), advance=asked)
    scored = ranked(agents, talked, settings=settings)
    advance(len(scored), part=read)
    return scored


def parts_of(roles: int) -> tuple[str, str]:
    """The kinds of work that an evaluation is made of, by the number of agents: one alone is quicker than a talk."""
    return ("sample alone", "read alone") if roles == 1 else ("sample", "read")


def summarise(examined: Sequence[Rollouts], *, name: str, decoding: str, scoring: Scoring) -> EvalRow:
    """The means over questions, with percentile-bootstrap intervals from a fixed seed; at least one question is
    needed. scoring: of the answers that a dialogue gives without marking them."""
    dialogues = [group.dialogues[0] for group in examined]
    rewards = [group.rewards[0] for group in examined]
    return table_row(
        name,
        decoding,
        scores=[reward.task for reward in rewards],
        tokens=[dialogue.tokens for dialogue in dialogues],
        turns=[len(dialogue.turns) for dialogue in dialogues],
        agreed=[dialogue.ending is Ending.AGREED for dialogue in dialogues],
        losses=[reward.worst_loss for reward in rewards],
        flexible=[
            flexible_score(group.question, dialogue, scoring=scoring) if dialogue.answer is None else reward.task
            for group, dialogue, reward in zip(examined, dialogues, rewards, strict=True)
        ],
        undecided=round(sum(reward.undecided for reward in rewards)),
    )


def undecided(examined: Sequence[Rollouts]) -> int:
    """How many answers count as wrong only because they could not be compared in time."""
    return round(sum(reward.undecided for group in examined for reward in group.rewards))


def table_row(
    name: str,
    decoding: str,
    *,
    scores: Sequence[float],
    tokens: Sequence[int],
    turns: Sequence[int],
    agreed: Sequence[float],
    losses: Sequence[float],
    flexible: Sequence[float],
    undecided: int,
) -> EvalRow:
    """The row of what was measured on each question, in one order; see `EvalRow`."""
    score_low, score_high = interval(np.array(scores))
    tokens_low, tokens_high = interval(np.array(tokens, dtype=float))
    total = float(np.sum(scores))
    return EvalRow(
        name=name,
        decoding=decoding,
        questions=len(scores),
        score=float(np.mean(scores)),
        score_low=score_low,
        score_high=score_high,
        tokens=float(np.mean(tokens)),
        tokens_low=tokens_low,
        tokens_high=tokens_high,
        turns=float(np.mean(turns)),
        agreement=float(np.mean(agreed)),
        tokens_per_correct=float(np.sum(tokens)) / total if total > 0 else None,
        readability_loss=float(np.mean(losses)),
        flexible_score=float(np.mean(flexible)),
        undecided=undecided,
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the means of resamples with replacement. values: one a question."""
    rows = np.random.default_rng(0).integers(0, len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def evaluate_again(
    cast: Cast, *, name: str, questions_wanted: int | None, seed: int | None, observe: Observer
) -> list[EvalRow]:
    """The pair's row sampled and its row greedy, on the recipe's held-out questions; nothing is stored."""
    recipe = cast.recipe
    drawn = questions(recipe.task, "held_out", questions_wanted or recipe.evaluation.questions, seed=0)
    fitted, _ = cast.fit(cast.pair, drawn)

    def row(decoding: str) -> EvalRow:
        label, parts = f"evaluate {name} {decoding}", parts_of(len(cast.pair.protocol.roles))
        with phase(observe, label, iteration=None, total=len(fitted), unit="questions", parts=parts) as advance:
            examined = examine(
                cast.pair,
                fitted,
                sampling=cast.sampling(cast.pair, greedy=decoding == "greedy"),
                seed=recipe.seed if seed is None else seed,
                settings=recipe.reward,
                advance=advance,
            )
        found = summarise(examined, name=name, decoding=decoding, scoring=cast.pair.scoring)
        observe(Evaluated(found))
        return found

    return [row("sampled"), row("greedy")]
