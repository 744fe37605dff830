"""Rewarded dialogues to what reinforcement learns from: what each message was worth, and the rows that it stands in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ..model.render import Rendered
from ..records import Dialogue, Payment, Question, Reward, Rollouts
from ..settings.sections import RewardSettings
from .advantage import grouped, places
from .credit import of_turns
from .ranking import credited
from .rollout import Agents


@dataclass(frozen=True, slots=True)
class Episode:
    """All that one agent says in one view of a dialogue, and how well it did.

    row: what it saw, each message that is learnt as a span. rewards, advantages: one for each span; the advantages are
    of the group, and not read where a value head gives them.
    """

    row: Rendered
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]


def paid(agents: Agents, group: Rollouts, *, settings: RewardSettings) -> Payment:
    """What every message of a question's ranked dialogues is worth: the dialogue's reward, its task score replaced by
    the message's credit."""
    workflow = agents.workflow
    pairs = zip(group.dialogues, group.rewards, strict=True)
    rewards = tuple(_of_messages(agents, group.question, dialogue, reward, settings) for dialogue, reward in pairs)
    found = grouped([places(dialogue, workflow) for dialogue in group.dialogues], rewards)
    return Payment(group.question.id, rewards, found.advantages, found.groups, found.flat)


def _of_messages(
    agents: Agents, question: Question, dialogue: Dialogue, reward: Reward, settings: RewardSettings
) -> tuple[float | None, ...]:
    credit = credited(agents, question, dialogue, settings=settings, final=reward.task)
    ours = [bool(turn.ids) and not turn.spoken_by for turn in dialogue.turns]  # what somebody can learn from
    if credit is None:
        return tuple(reward.total if own else None for own in ours)
    each = of_turns(reward, credit)
    return tuple(one.total if own and to is not None else None for own, to, one in zip(ours, credit, each, strict=True))


def episodes(
    agents: Agents, group: Rollouts, payment: Payment, *, roles: Collection[str], flat: bool
) -> list[tuple[str, Episode]]:
    """The episodes of a question's dialogues, each with the adapter that learns from it.

    roles: the names of those who learn. flat: whether messages of groups without spread are learnt from, too.
    """
    found = []
    for dialogue, rewards, advantages in zip(group.dialogues, payment.rewards, payment.advantages, strict=True):
        for who, own, row in agents.readings(group.question, dialogue):
            role = agents.workflow.roles[who]
            learnt = [
                (span, reward, advantage)
                for span, number in zip(row.spans, own, strict=True)
                if (reward := rewards[number]) is not None
                and (advantage := advantages[number]) is not None
                and (flat or advantage)
            ]
            if learnt and role.name in roles:
                spans, worth, better = zip(*learnt, strict=True)
                found.append((role.adapter, Episode(replace(row, spans=spans), worth, better)))
    return found
