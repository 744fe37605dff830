"""The reward of a dialogue among its siblings (paper section 3.1, equation 1), pure, every part kept for the report.

    R = R_task - token_weight * tokens / max sibling tokens + readability_weight * readability(worst message loss)

The worst message decides because one unreadable message is enough to lose the partner; where models elsewhere speak
for roles it is the worst of ours, since nobody here learns to say theirs. A dialogue that was cut at its token limit
does not count as the longest sibling, as in the authors' code: one runaway would make all others look short, and the
token term vanish. Options, none on by default:

    max_tokens            the token term is absolute: token_weight * max(0, 1 - tokens / max_tokens) is added
    format_weight         times the share of messages that are valid by the JSON schema of their speaker is added
    min_tokens            the token term is 1 for a dialogue of at most so many tokens, which cannot have said enough
    repeated: zero        the readability term is 0 when a message is said twice
    confusion: zero       R_task is 0 when a message speaks for several agents, or announces its own twice
    turn_cost             is subtracted for every message
    plugin_weight         times what the user's own function says is added
    gate_by_correctness   all but R_task is multiplied by R_task: a wrong dialogue is worth 0, however it was said
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from ..errors import ConfigError
from ..records import Dialogue, Ending, Question, Reward, Rollouts, Turn
from ..settings import schemas
from ..settings.sections import RewardSettings
from ..tasks import forms

Own = Callable[[Question, Dialogue], float]
"""A term of the user's: a question and a finished dialogue in, its value before its weight out."""


def rank(
    dialogues: Sequence[Dialogue],
    *,
    scores: Sequence[float],
    losses: Sequence[float],
    settings: RewardSettings,
    normaliser: int | None = None,
    best_loss: float | None = None,
    roles: Sequence[str] = (),
    own: Sequence[float] = (),
) -> tuple[Reward, ...]:
    """The rewards of all dialogues sampled for one question, in their order.

    scores: the task score of each in [0, 1]. losses: the worst message's mean nats per token under the base model.
    normaliser: the tokens that make a token share of 1, where siblings come one by one (see `normaliser`); longer
    dialogues then have a share above 1. best_loss: what `relative` readability compares with there. None: the longest
    of these dialogues that was not cut (of all, where all were), and the lowest. A cut sibling pays for a whole share.
    roles: the agents' names, for `confusion` and `schemas`. own: the user's own term for each; none without weight.
    """
    longest = settings.max_tokens or normaliser or max((one.tokens for one in _uncut(dialogues)), default=0)
    siblings = not (settings.max_tokens or normaliser)
    floored = [max(loss, settings.loss_floor) for loss in losses]
    readable = readability(floored, form=settings.readability, best=best_loss)
    rewards = []
    added = own or [0.0] * len(dialogues)
    for dialogue, score, loss, ease, extra in zip(dialogues, scores, losses, readable, added, strict=True):
        share = dialogue.tokens / max(longest, 1)
        share = min(share, 1.0) if siblings else share
        if settings.repeated == "zero" and repeats(dialogue):
            ease = 0.0
        solved = 0.0 if settings.confusion == "zero" and confuses(dialogue, roles) else score
        gate = solved if settings.gate_by_correctness else 1.0
        form = format_share(dialogue, settings=settings, roles=roles) if settings.format_weight else 0.0
        tokens = token_cost(dialogue.tokens, share=share, settings=settings)
        turns = settings.turn_cost * len(dialogue.messages)
        total = solved - gate * tokens + gate * (settings.readability_weight * ease) - gate * turns
        total += gate * (settings.format_weight * form + settings.plugin_weight * extra)
        rewards.append(Reward(total, score, share, ease, loss, format=form))
    return tuple(rewards)


def _uncut(dialogues: Sequence[Dialogue]) -> Sequence[Dialogue]:
    """The dialogues that were not cut at their token limit; all, where all were."""
    return [one for one in dialogues if one.ending is not Ending.TRUNCATED] or dialogues


def token_cost(tokens: int, *, share: float, settings: RewardSettings) -> float:
    """The weighted token term, to be subtracted; of `max_tokens` (which makes share = tokens / max_tokens) it is what
    is left that counts, so that the cost is negative."""
    if settings.min_tokens is not None and tokens <= settings.min_tokens:
        return 1.0
    return settings.token_weight * (share if settings.max_tokens is None else -max(0.0, 1 - share))


def format_share(dialogue: Dialogue, *, settings: RewardSettings, roles: Sequence[str]) -> float:
    """The share of valid messages among those whose speaker has a schema; 0 where nobody has.

    Raises ConfigError when the extra `schema` is not installed.
    """
    require(settings)
    by_turn = [(turn.text, settings.schemas.get(roles[turn.speaker])) for turn in dialogue.messages]
    valid = [forms.valid(text, schema) for text, schema in by_turn if schema is not None]
    return sum(valid) / len(valid) if valid else 0.0


def require(settings: RewardSettings) -> None:
    """Raises ConfigError when the reward needs a library that is not installed."""
    if settings.format_weight and not schemas.installed():
        hint = "in the clone: pip install '.[schema]', or set reward.format_weight=0"
        raise ConfigError("reward.format_weight needs the library jsonschema, which is not installed", hint=hint)


def repeats(dialogue: Dialogue) -> bool:
    """Whether a message is said twice, by anyone; case and white space do not count."""
    said = [" ".join(turn.text.casefold().split()) for turn in dialogue.messages]
    return len(set(said)) < len(said)


def confuses(dialogue: Dialogue, roles: Sequence[str]) -> bool:
    """Whether a message speaks for another agent ("Bob:" in one of Alice's), or announces its own speaker twice."""
    return any(_labels(turn, roles) > 1 for turn in dialogue.messages) if roles else False


def _labels(turn: Turn, roles: Sequence[str]) -> int:
    own = f"{roles[turn.speaker]}:"  # said, whether the message itself or only its place in the chat says so
    text = turn.text if turn.text.lstrip().startswith(own) else own + turn.text
    return sum(text.count(f"{role}:") for role in roles)


def readability(losses: Sequence[float], *, form: str, best: float | None = None) -> list[float]:
    """The readability of each sibling from its worst message loss L > 0, in nats.

    inverse: 1/L, the paper's; right where losses are 1 to 3 nats. capped: min(1/L, 1), for models so sure of themselves
    that 1/L would drown the other terms. relative: the best sibling's L (or `best`) over this one's, at most 1:
    compares within the question only.
    """
    if form == "inverse":
        return [1 / loss for loss in losses]
    if form == "capped":
        return [min(1 / loss, 1.0) for loss in losses]
    best = best or min(losses, default=1.0)
    return [min(best / loss, 1.0) for loss in losses]


def normaliser(tokens: Sequence[int], percentile: int) -> int:
    """The tokens that count as a whole dialogue in a search tree: a percentile of a probe's dialogue lengths, plus 1.

    The official code's rule, with linear interpolation. Raises ValueError for an empty probe.
    """
    if not tokens:
        raise ValueError("a percentile of no dialogues")
    ordered = sorted(tokens)
    below, part = divmod((len(ordered) - 1) * percentile, 100)
    above = ordered[min(below + 1, len(ordered) - 1)]
    return (ordered[below] * (100 - part) + above * part) // 100 + 1


@dataclass(frozen=True, slots=True)
class Scale:
    """What counts as one for dialogues without siblings: a length in tokens, and a loss that is fully readable."""

    tokens: int
    best_loss: float


def scale(probe: Sequence[Rollouts], *, percentile: int, settings: RewardSettings) -> Scale:
    """The scale that a sample of ranked dialogues gives: the lengths of those that were not cut at `percentile`
    (official code), the losses of all at the opposite one."""
    lengths = [one.tokens for one in _uncut([dialogue for group in probe for dialogue in group.dialogues])]
    losses = sorted(reward.worst_loss for group in probe for reward in group.rewards)
    best_loss = losses[(len(losses) - 1) * (100 - percentile) // 100]
    return Scale(normaliser(lengths, percentile), max(settings.loss_floor, best_loss))


def alone(
    dialogue: Dialogue,
    *,
    score: float,
    loss: float,
    scale: Scale,
    settings: RewardSettings,
    roles: Sequence[str] = (),
    own: float = 0.0,
) -> Reward:
    """The reward of a dialogue without siblings, on a given scale. roles, own: as in `rank`."""
    (reward,) = rank(
        [dialogue],
        scores=[score],
        losses=[loss],
        settings=settings,
        normaliser=scale.tokens,
        best_loss=scale.best_loss,
        roles=roles,
        own=[own],
    )
    return reward


def mean(rewards: Sequence[Reward]) -> Reward:
    """Each part averaged over the rewards given; at least one is needed."""
    names = [part.name for part in fields(Reward)]
    return Reward(**{name: sum(getattr(reward, name) for reward in rewards) / len(rewards) for name in names})


def rewards(
    probe: Sequence[Rollouts],
    *,
    scale: Scale,
    settings: RewardSettings,
    roles: Sequence[str] = (),
    own: Own | None = None,
) -> list[Reward]:
    """The rewards of ranked dialogues, each anew on a given scale, so that samples compare. roles: as in `rank`."""
    return [
        alone(
            dialogue,
            score=one.task,
            loss=one.worst_loss,
            scale=scale,
            settings=settings,
            roles=roles,
            own=own(group.question, dialogue) if own else 0.0,
        )
        for group in probe
        for dialogue, one in zip(group.dialogues, group.rewards, strict=True)
    ]
