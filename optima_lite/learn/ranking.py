"""What dialogues are worth: answers scored, messages read by the base model, credit given to turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..model.render import Rendered
from ..records import Dialogue, Ending, Metric, Question, Reward, Rollouts
from ..settings.sections import RewardSettings
from ..tasks import answers
from ..tasks.answers import Scoring
from .credit import credits
from .reward import Scale, alone, rank
from .rollout import Agents


def ranked(agents: Agents, rollouts: Sequence[Rollouts], *, settings: RewardSettings) -> list[Rollouts]:
    """The same rollouts with their rewards: answers scored, every message read by the base model."""
    agents.generator.forget()  # a chunk's batches must not depend on the chunks before it
    pairs = [(group.question, dialogue) for group in rollouts for dialogue in group.dialogues]
    losses = iter(worst_losses(agents, pairs, condition=settings.loss_condition))
    results = []
    roles = agents.workflow.names
    for group in rollouts:
        scores = [score(group.question, dialogue, scoring=agents.scoring) for dialogue in group.dialogues]
        worst = [next(losses) for _ in group.dialogues]
        own = [agents.own(group.question, dialogue) for dialogue in group.dialogues] if agents.own else ()
        rewards = rank(group.dialogues, scores=scores, losses=worst, settings=settings, roles=roles, own=own)
        scored = zip(rewards, group.dialogues, strict=True)
        marked = tuple(_marked(reward, group.question, dialogue, agents.scoring) for reward, dialogue in scored)
        results.append(replace(group, rewards=marked))
    return results


def _marked(reward: Reward, question: Question, dialogue: Dialogue, scoring: Scoring) -> Reward:
    """The reward, marked where its task score could not be decided."""
    undecided = scoring.undecided(dialogue.answer, question.answers)
    return replace(reward, undecided=1.0) if undecided else reward


def search_rewards(
    agents: Agents,
    pairs: Sequence[tuple[Question, Dialogue]],
    *,
    settings: RewardSettings,
    scale: Scale,
) -> list[Reward]:
    """The rewards of dialogues that come one by one, as a tree search finds them, on a given scale.

    A dialogue that ran out of steps scores 0, as one without agreement does in the official search; an agent alone
    needs nobody's.
    """
    losses = worst_losses(agents, pairs, condition=settings.loss_condition)
    rewards = []
    for (question, dialogue), loss in zip(pairs, losses, strict=True):
        agreed = dialogue.ending in (Ending.AGREED, Ending.DONE) or agents.workflow.max_steps == 1
        task = score(question, dialogue, scoring=agents.scoring) if agreed else 0.0
        own = agents.own(question, dialogue) if agents.own else 0.0
        roles = agents.workflow.names
        reward = alone(dialogue, score=task, loss=loss, scale=scale, settings=settings, roles=roles, own=own)
        rewards.append(_marked(reward, question, dialogue, agents.scoring) if agreed else reward)
    return rewards


def credited(
    agents: Agents, question: Question, dialogue: Dialogue, *, settings: RewardSettings, final: float
) -> tuple[float | None, ...] | None:
    """What each turn gets of a finished dialogue's task score `final`, by the recipe (see `credit.credits`); None where
    each gets all of it."""
    if settings.credit == "trajectory" and not settings.parse_weight:
        return None
    return credits(
        dialogue,
        workflow=agents.workflow,
        scheme=settings.credit,
        final=final,
        score_of=lambda answer: agents.scoring.score(answer, question.answers),
        parse_weight=settings.parse_weight,
    )


def score(question: Question, dialogue: Dialogue, *, scoring: Scoring) -> float:
    """The task score in [0, 1] of the answer stated last; 0 for a truncated dialogue."""
    return scoring.score(dialogue.answer, question.answers)


def flexible_score(question: Question, dialogue: Dialogue, *, scoring: Scoring) -> float:
    """The task score where also counts what was not marked, or said before a dialogue was cut; for reports."""
    return scoring.score(flexible_answer(dialogue, metric=scoring.metric), question.answers)


def flexible_answer(dialogue: Dialogue, *, metric: Metric = "f1") -> str | None:
    """The answer marked last, else the last number of the latest message that holds one; None without either."""
    latest = dialogue.turns[::-1]
    marked = next((turn.answer for turn in latest if turn.answer is not None), None)
    if marked is not None:
        return marked
    stated = (answers.extract_flexibly(turn.text, metric=metric) for turn in latest)
    return next((answer for answer in stated if answer is not None), None)


def worst_losses(agents: Agents, pairs: Sequence[tuple[Question, Dialogue]], *, condition: str) -> list[float]:
    """For each dialogue the largest mean message loss in nats under the base model (paper section 3.1, R_loss).

    condition: `dialogue` reads every message after what its speaker saw, without a format instruction; `message`
    reads it alone, as the official code does.
    """
    rows: list[Rendered] = []
    owner: list[int] = []
    for k, (question, dialogue) in enumerate(pairs):
        if condition == "message":
            ours = [turn for turn in dialogue.messages if not turn.spoken_by]
            own = [agents.renderer.alone(turn) for turn in ours or dialogue.messages]
        else:
            own = agents.views(question, dialogue)
        rows += own
        owner += [k] * len(own)
    worst = [0.0] * len(pairs)
    for k, losses in zip(owner, agents.generator.losses(rows), strict=True):
        worst[k] = max(worst[k], *losses)
    return worst
