"""Held-out score, tokens and agreement with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from .. import statistics
from ..learn.ranking import flexible_score, ranked
from ..learn.rollout import Agents, Speakers, sample
from ..model.sampling import Sampling
from ..records import Ending, EvalRow, Question, Rollouts
from ..runs.evaluations import DECODINGS
from ..runs.progress import Advance, Evaluated, Observer, phase
from ..runs.rows import Pieces
from ..settings.recipe import Recipe
from ..settings.sections import RewardSettings
from ..tasks.answers import Scoring, hotpot_f1
from ..tasks.questions import questions
from .cast import Cast, Spoken


@dataclass(frozen=True)
class Examination:
    """A job: see `examine`."""

    speakers: Speakers
    sampling: Sampling
    seed: int
    settings: RewardSettings

    def do(self, cast: Cast, items: Sequence[Question], advance: Advance) -> list[Rollouts]:
        """See `crew.Job`."""
        agents, sampling = cast.agents(self.speakers), self.sampling
        return examine(agents, items, sampling=sampling, seed=self.seed, settings=self.settings, advance=advance)


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
    ask, read = parts_of(len(agents.workflow.roles))

    def asked(done: int, tokens: int) -> None:
        advance(done, tokens=tokens, part=ask)

    talked = sample(agents, questions, rollouts=1, sampling=sampling, seed=(seed, "evaluation"), advance=asked)
    scored = ranked(agents, talked, settings=settings)
    advance(len(scored), part=read)
    return scored


def parts_of(roles: int) -> tuple[str, str]:
    """The kinds of work that an evaluation is made of, by the number of agents: one alone is quicker than a talk."""
    return ("sample alone", "read alone") if roles == 1 else ("sample", "read")


def decodings(recipe: Recipe, iteration: int, *, last: bool) -> tuple[str, ...]:
    """How the held-out questions are asked after an iteration; not at all where its turn has not come."""
    if last:
        return DECODINGS
    return DECODINGS[:1] if (iteration + 1) % recipe.evaluation.every == 0 else ()


def summarise(
    examined: Sequence[Rollouts], *, name: str, decoding: str, scoring: Scoring, agrees: bool = True
) -> EvalRow:
    """The means over questions with their intervals; at least one question is needed. scoring: of the answers that a
    dialogue gives without marking them. agrees: whether the team's dialogues can end in agreement."""
    dialogues = [group.dialogues[0] for group in examined]
    rewards = [group.rewards[0] for group in examined]
    row = table_row(
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
        hotpot=[
            hotpot_f1(dialogue.answer, group.question.answers)
            for group, dialogue in zip(examined, dialogues, strict=True)
        ]
        if scoring.metric == "f1" and scoring.own is None
        else None,
    )
    return row if agrees else replace(row, agreement=None)


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
    hotpot: Sequence[float] | None = None,
) -> EvalRow:
    """The row of what was measured on each question, in one order; see `EvalRow`."""
    score_low, score_high = statistics.of_scores(scores)
    tokens_low, tokens_high = statistics.of_mean(tokens) or (None, None)
    total = sum(scores)
    return EvalRow(
        name=name,
        decoding=decoding,
        questions=len(scores),
        score=fmean(scores),
        score_low=score_low,
        score_high=score_high,
        tokens=fmean(tokens),
        tokens_low=tokens_low,
        tokens_high=tokens_high,
        turns=fmean(turns),
        agreement=fmean(agreed),
        tokens_per_correct=sum(tokens) / total if total > 0 else None,
        readability_loss=fmean(losses),
        flexible_score=fmean(flexible),
        undecided=undecided,
        hotpot_f1=fmean(hotpot) if hotpot else None,
    )


def evaluate_again(
    cast: Cast,
    *,
    name: str,
    questions_wanted: int | None,
    seed: int | None,
    observe: Observer,
    others: Sequence[Spoken] = (),
) -> list[EvalRow]:
    """The team's row sampled and its row greedy, on the recipe's held-out questions, and both of the others; no row is
    stored. others: the team as models elsewhere speak it."""
    recipe = cast.recipe
    drawn = questions(recipe.task, "held_out", questions_wanted or recipe.evaluation.questions, seed=0)
    fitted, _ = cast.fit(cast.team, drawn)

    def row(name: str, agents: Agents, decoding: str) -> EvalRow:
        label, parts = f"evaluate {name} {decoding}", parts_of(len(agents.workflow.roles))
        with phase(observe, label, iteration=None, total=len(fitted), unit="questions", parts=parts) as advance:
            job = Examination(
                agents.speakers,
                sampling=cast.sampling(agents, greedy=decoding == "greedy"),
                seed=recipe.seed if seed is None else seed,
                settings=recipe.reward,
            )
            pieces = Pieces(fitted, [range(len(fitted))]).split(cast.parts)
            talking = replace(cast, team=agents)
            examined = [made for piece in pieces for made in job.do(talking, piece, advance)]
        agrees = agents.workflow.agrees
        found = summarise(examined, name=name, decoding=decoding, scoring=agents.scoring, agrees=agrees)
        observe(Evaluated(found))
        return found

    teams = {name: cast.team} | {f"spoken_by_{one.name}": one.agents for one in others}
    return [row(label, agents, decoding) for label, agents in teams.items() for decoding in DECODINGS]
