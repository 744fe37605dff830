"""What is worth learning from: the best dialogue of N a question, the better of two messages of a tree, and of many
demonstrations those that are unlike one another. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..records import Demonstration, Ending, PreferencePair, Rollouts, Tree, Turn
from ..settings.sections import RewardSettings, SelectionSettings
from ..team.tree import best, children, turns, worst


def demonstrations(ranked: Sequence[Rollouts], *, settings: SelectionSettings) -> list[Demonstration]:
    """Best-of-N selection of iSFT (paper section 3.3, algorithm 1).

    Of each question the dialogue with the highest reward (the first on ties; truncated ones never); of these, those
    over `min_reward`; of the survivors, less the first `drop_easiest`, the best `keep_fraction`, at least one if any
    survived. With `order: share_first` both shares are of all questions, and the threshold comes last. Highest reward
    first.
    """
    best = [champion for rollouts in ranked if (champion := _best(rollouts)) is not None]
    best.sort(key=lambda d: -d.reward.total)  # stable: ties keep the order of the questions
    if settings.order == "share_first":
        best = _share(best, settings)
    survivors = [d for d in best if d.reward.total > settings.min_reward]
    return _share(survivors, settings) if settings.order == "threshold_first" else survivors


def _share(ordered: list[Demonstration], settings: SelectionSettings) -> list[Demonstration]:
    drop, keep, n = settings.drop_easiest, settings.keep_fraction, len(ordered)
    first = int(drop * n)
    last = int((round(drop + keep, 9) if drop else keep) * n)  # 0.1 + 0.7 is less than 0.8
    return ordered[first : max(first + 1, last)]


def _best(rollouts: Rollouts) -> Demonstration | None:
    pairs = zip(rollouts.dialogues, rollouts.rewards, strict=True)
    whole = [(dialogue, reward) for dialogue, reward in pairs if dialogue.ending is not Ending.TRUNCATED]
    if not whole:
        return None
    dialogue, reward = max(whole, key=lambda pair: pair[1].total)
    return Demonstration(rollouts.question, dialogue, reward)


def worth_learning(
    credit: Sequence[float | None], *, reward: RewardSettings, settings: SelectionSettings
) -> frozenset[int]:
    """The numbers of the turns of a selected dialogue that are trained on: those of agents with credit enough.

    credit: by turn, see `credit.credits`. Enough is `min_credit`; without one 0, which a message reaches that took
    nothing away, or 0.5 where an answer's own score decides, which a wrong one does not reach.
    """
    enough = settings.min_credit
    if enough is None:
        enough = 0.5 if reward.credit == "own_step" else 0.0
    return frozenset(number for number, value in enumerate(credit) if value is not None and value >= enough)


def pairs(trees: Sequence[Tree], *, settings: SelectionSettings) -> list[PreferencePair]:
    """Pairs of sibling messages for iDPO (paper section 3.4).

    Under each node the best child against the worst (`pairing: official`), or every two (`paper`); of these, pairs
    whose better message is worth more than `pair_min_reward` and the other less by more than `min_gap`; of these the
    best `pair_keep_fraction` by the better message's worth, of all of them or of each tree, at least one if there is
    any. Best first, within each tree where the share is the tree's. A message cut at its token limit is never
    preferred, and one that a model elsewhere has said is in no pair.
    """
    found = [[pair for pair in _siblings(tree, settings) if _teaches(pair, settings)] for tree in trees]
    if settings.keep_scope == "global":
        found = [[pair for own in found for pair in own]]
    return [pair for own in found for pair in _top(own, settings.pair_keep_fraction)]


def _siblings(tree: Tree, settings: SelectionSettings) -> Iterator[PreferencePair]:
    for parent, following in enumerate(children(tree)):
        enough = [child for child in following if tree.nodes[child].visits >= settings.min_visits]
        known = [child for child in enough if (turn := tree.nodes[child].turn) is not None and not turn.spoken_by]
        whole = [child for child in known if (turn := tree.nodes[child].turn) is not None and turn.finished]
        if settings.pairing == "paper":
            candidates = [(better, worse) for better in whole for worse in known]
        else:
            candidates = [(best(tree, whole), worst(tree, known))] if whole else []
        prefix = turns(tree, parent)
        for better, worse in candidates:
            yield _pair(tree, prefix, better, worse)


def _pair(tree: Tree, prefix: tuple[Turn, ...], better: int, worse: int) -> PreferencePair:
    chosen, rejected = tree.nodes[better], tree.nodes[worse]
    assert chosen.turn and chosen.reward and rejected.turn and rejected.reward  # visited, and not the root
    return PreferencePair(
        tree.question,
        prefix,
        chosen.turn,
        rejected.turn,
        chosen.reward,
        rejected.reward,
        chosen.visits,
        rejected.visits,
    )


def _teaches(pair: PreferencePair, settings: SelectionSettings) -> bool:
    """Whether a pair obeys the thresholds; so no message is paired with itself or with a better one."""
    early = pair.chosen.answer is not None and all(turn.speaker == pair.speaker for turn in pair.prefix)
    return (
        pair.chosen_value > settings.pair_min_reward
        and pair.gap > settings.min_gap
        and not (early and settings.skip_early_answers)
    )


def _top(found: Sequence[PreferencePair], share: float) -> list[PreferencePair]:
    ordered = sorted(found, key=lambda pair: -pair.chosen_value)  # stable: ties keep the order of the trees
    return ordered[: max(1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is looked at of a demonstration. way: through the workflow. tokens: of it all. score: of its answer."""

    way: tuple[str, ...]
    tokens: int
    score: float


def diverse(candidates: Sequence[Candidate], count: int) -> list[int]:
    """The places of `count` candidates that are unlike one another, of all where there are no more; in their order.

    They lie in strata, by the way and by length: the shortest, the middle and the longest third of all. Each stratum
    gives one in turn, the largest first, of its own the better answered first, then the shorter; those whose answers
    are worth nothing come after all others.
    """
    if len(candidates) <= count:
        return [*range(len(candidates))]
    lengths = sorted(one.tokens for one in candidates)
    borders = [lengths[len(lengths) // 3], lengths[2 * len(lengths) // 3]]
    strata: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for place, one in enumerate(candidates):
        strata.setdefault((one.way, bisect_right(borders, one.tokens)), []).append(place)
    for own in strata.values():
        own.sort(key=lambda place: (-candidates[place].score, candidates[place].tokens))  # stable: ties keep the order
    by_size = sorted(strata.values(), key=len, reverse=True)
    in_turn = [place for places in zip_longest(*by_size) for place in places if place is not None]
    in_turn.sort(key=lambda place: candidates[place].score <= 0)
    return sorted(in_turn[:count])
