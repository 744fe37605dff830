"""What the training steps of a run have stored, in plain numbers: what was sampled, chosen, trained on and decided.

Nothing that the run has stored is computed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .. import statistics
from ..learn.reward import mean
from ..records import Demonstration, Ending, Payment, PreferencePair, Record, Reward, Rollouts, Tree, from_json
from ..settings.teams import speakers
from .folder import IMITATED, PREFERRED, STARTED, RunFolder, stage_name


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a training step: the validation reward before and after it; verdict: keep, revert or stop.

    interval: 95 %, of the change, paired by question; None with one question, and in runs of earlier versions.
    """

    before: float
    after: float
    verdict: str
    interval: statistics.Interval | None = None

    @property
    def change(self) -> float:
        """By how much the reward rose."""
        return self.after - self.before

    def __str__(self) -> str:
        sign = -1 if self.change < 0 else 1
        low, high = sorted(sign * bound for bound in self.interval) if self.interval else (None, None)
        bounds = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        return f"the validation reward {'fell' if sign < 0 else 'rose'} by {sign * self.change:.3f}{bounds}"


@dataclass(frozen=True, slots=True)
class Taught:
    """What an iteration had from one teacher. teacher, licence, source: see `Origin`. dialogues: demonstrations, of so
    many tokens by our tokenizer. selected: of these; None: not stored (yet)."""

    teacher: str
    licence: str
    source: str | None
    dialogues: int
    tokens: int
    selected: int | None


@dataclass(frozen=True, slots=True)
class Imitation:
    """What an imitation step sampled, selected and trained on. None: not stored (yet).

    tokens: of all dialogues. reward: the mean of each part. endings: share of the dialogues that ended so.
    two_messages: share of dialogues of only two messages; when it nears 1 the talk has collapsed to a bare exchange.
    formats: the pool's formats among the selected dialogues, most frequent first. trainer_tokens: over all epochs.
    shortened: questions whose facts did not fit the model. formatted: whether the reward asked for a form. taught: what
    came from teachers, which is among the dialogues.
    """

    iteration: int
    dialogues: int
    tokens: int
    endings: Mapping[Ending, float]
    two_messages: float
    reward: Reward | None
    selected: int | None
    formats: tuple[tuple[str, int], ...]
    trainer_tokens: int | None
    shortened: int | None
    verdict: Verdict | None
    formatted: bool = False
    taught: tuple[Taught, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """What a preference step searched, paired and trained on. None: not stored (yet).

    tokens: sampled in all trees. depths: share of the pairs after so many messages, by their number. gap: mean
    difference in worth of chosen and rejected. The shifts are means over the training steps, in nats a message against
    the reference. stopped: whether the guard ended the step early. trainer_tokens, shortened: as in `Imitation`.
    """

    iteration: int
    trees: int
    tokens: int
    pairs: int | None
    depths: Mapping[int, float]
    gap: float | None
    trainer_tokens: int | None
    chosen_shift: float | None
    rejected_shift: float | None
    stopped: bool | None
    shortened: int | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Reinforcement:
    """What a step of reinforcement sampled, paid and trained on. None: not stored (yet).

    paid: what a message was worth on average, by who said it. groups: places of the workflow at which the dialogues
    about a question were compared; flat: those where all were worth the same, so that nothing could be learnt. kl,
    entropy, clipped, value_error, stopped: see `rl.ReinforceFacts`. All others: as in `Imitation`.
    """

    iteration: int
    dialogues: int
    tokens: int
    endings: Mapping[Ending, float]
    two_messages: float
    reward: Reward | None
    paid: Mapping[str, float]
    groups: int | None
    flat: int | None
    trainer_tokens: int | None
    kl: float | None
    entropy: float | None
    clipped: float | None
    value_error: float | None
    stopped: bool | None
    shortened: int | None
    verdict: Verdict | None
    formatted: bool = False


def imitations(run: RunFolder) -> list[Imitation]:
    """The imitation steps that have dialogues, in the order of the iterations."""
    talked = ((iteration, _talked(run, iteration)) for iteration in run.iterations() if not _reinforces(run, iteration))
    return [_imitation(run, iteration, rollouts) for iteration, rollouts in talked if rollouts]


def reinforcements(run: RunFolder) -> list[Reinforcement]:
    """The steps of reinforcement that have dialogues, in the order of the iterations."""
    talked = ((iteration, _talked(run, iteration)) for iteration in run.iterations() if _reinforces(run, iteration))
    return [_reinforcement(run, iteration, rollouts) for iteration, rollouts in talked if rollouts]


def _reinforces(run: RunFolder, iteration: int) -> bool:
    recipe = run.manifest["recipe"]
    return recipe.get("method") == "reinforce" and iteration >= int(recipe["reinforce"]["imitations"])


def _talked(run: RunFolder, iteration: int) -> Sequence[Rollouts]:
    """The dialogues that an iteration learns from, with rewards where it has come so far; none before."""
    rollouts = run.read(stage_name(iteration, "2_rewards"), Rollouts)
    rollouts = rollouts or run.read(stage_name(iteration, "1_dialogues"), Rollouts)
    return rollouts if any(one.dialogues for one in rollouts) else ()


def _reinforcement(run: RunFolder, iteration: int, rollouts: Sequence[Rollouts]) -> Reinforcement:
    payments = _stored(run, stage_name(iteration, "3_payments"), Payment)
    names = speakers(run.manifest["recipe"])
    by_role: dict[str, list[float]] = {}
    for one, payment in zip(rollouts, payments or (), strict=False):
        for dialogue, worth in zip(one.dialogues, payment.rewards, strict=True):
            for turn, reward in zip(dialogue.turns, worth, strict=True):
                if reward is not None:
                    by_role.setdefault(names[turn.speaker], []).append(reward)
    training = _training(run, iteration, IMITATED)
    return Reinforcement(
        iteration,
        **_talks(rollouts),
        paid={name: fmean(by_role[name]) for name in names if name in by_role},
        groups=None if payments is None else sum(payment.groups for payment in payments),
        flat=None if payments is None else sum(payment.flat for payment in payments),
        trainer_tokens=_trainer_tokens(training),
        kl=training.get("kl"),
        entropy=training.get("entropy"),
        clipped=training.get("clipped"),
        value_error=training.get("value_error"),
        stopped=training.get("stopped"),
        shortened=_shortened(run, stage_name(iteration, "0_questions")),
        verdict=verdict_of(run, stage_name(iteration, "5_verdict")),
        formatted=_formatted(run),
    )


def _talks(rollouts: Sequence[Rollouts]) -> dict[str, Any]:
    """How the dialogues were that a step learns from, by the names of its fields."""
    # of each dialogue only what is counted: all of them may not fit in memory
    dialogues = [(each.tokens, len(each.turns), each.ending) for one in rollouts for each in one.dialogues]
    rewards = [reward for one in rollouts for reward in one.rewards]
    return {
        "dialogues": len(dialogues),
        "tokens": sum(tokens for tokens, _, _ in dialogues),
        "endings": {ending: _share(how is ending for _, _, how in dialogues) for ending in Ending},
        "two_messages": _share(turns == 2 for _, turns, _ in dialogues),
        "reward": mean(rewards) if rewards else None,
    }


def _formatted(run: RunFolder) -> bool:
    return bool(run.manifest["recipe"].get("reward", {}).get("format_weight"))


def _imitation(run: RunFolder, iteration: int, rollouts: Sequence[Rollouts]) -> Imitation:
    selected = _stored(run, stage_name(iteration, "3_demonstrations"), Demonstration)
    formats = Counter(one.dialogue.format for one in selected or () if one.dialogue.format)
    training = _training(run, iteration, IMITATED)
    return Imitation(
        iteration,
        **_talks(rollouts),
        selected=None if selected is None else len(selected),
        formats=tuple(formats.most_common()),
        trainer_tokens=_trainer_tokens(training),
        shortened=_shortened(run, stage_name(iteration, "0_questions")),
        verdict=verdict_of(run, stage_name(iteration, "5_verdict")),
        formatted=_formatted(run),
        taught=_taught(rollouts, selected),
    )


def learnt_from(run: RunFolder) -> list[Taught]:
    """The teachers of whom a run has selected anything, and those of the runs that it began with."""
    before = (run.read_json(f"{STARTED}.json") or {}).get("taught", ())
    own = [taught for step in imitations(run) for taught in step.taught if taught.selected]
    return [*(from_json(Taught, one) for one in before), *own]


def _taught(rollouts: Sequence[Rollouts], selected: Sequence[Demonstration] | None) -> tuple[Taught, ...]:
    """What came from each teacher, in the order in which they first come."""
    told = [(origin, dialogue.tokens) for one in rollouts for dialogue in one.dialogues if (origin := dialogue.taught)]
    chosen = [origin for one in selected or () if (origin := one.dialogue.taught)]
    found = []
    for who in dict.fromkeys((origin.teacher, origin.licence, origin.source) for origin, _ in told):
        own = [tokens for origin, tokens in told if (origin.teacher, origin.licence, origin.source) == who]
        kept = sum((origin.teacher, origin.licence, origin.source) == who for origin in chosen)
        found.append(Taught(*who, len(own), sum(own), None if selected is None else kept))
    return tuple(found)


def preferences(run: RunFolder) -> list[Preference]:
    """The preference steps that have trees, in the order of the iterations."""
    found = []
    for iteration in run.iterations():
        trees = run.read(stage_name(iteration, "6_trees"), Tree)
        if trees:
            found.append(_preference(run, iteration, trees))
    return found


def _preference(run: RunFolder, iteration: int, trees: Sequence[Tree]) -> Preference:
    pairs = _stored(run, stage_name(iteration, "7_pairs"), PreferencePair)
    depths = Counter(pair.depth for pair in pairs or ())
    training = _training(run, iteration, PREFERRED)
    return Preference(
        iteration,
        trees=len(trees),
        tokens=sum(tree.sampled for tree in trees),
        pairs=None if pairs is None else len(pairs),
        depths={depth: depths[depth] / depths.total() for depth in sorted(depths)},
        gap=fmean(pair.gap for pair in pairs) if pairs else None,
        trainer_tokens=_trainer_tokens(training),
        chosen_shift=training.get("chosen_shift"),
        rejected_shift=training.get("rejected_shift"),
        stopped=training.get("stopped"),
        shortened=_shortened(run, stage_name(iteration, "6_questions")),
        verdict=verdict_of(run, stage_name(iteration, "9_verdict")),
    )


def _stored(run: RunFolder, stage: str, kind: type[Record]) -> Sequence[Record] | None:
    return run.read(stage, kind) if (run.folder / f"{stage}.jsonl").exists() else None


def _training(run: RunFolder, iteration: int, adapter: str) -> dict[str, Any]:
    return run.read_json(f"{stage_name(iteration, adapter)}/training.json") or {}


def _trainer_tokens(training: Mapping[str, Any]) -> int | None:
    return int(training["trainer_tokens"] * training["epochs"]) if training else None


def _shortened(run: RunFolder, stage: str) -> int | None:
    return (run.read_json(f"{stage}.json") or {}).get("shortened")


def verdict_of(run: RunFolder, stage: str) -> Verdict | None:
    """The verdict that is stored under this name, such as iteration_00/5_verdict; None before there is one."""
    stored = run.read_json(f"{stage}.json")
    if not stored:
        return None
    interval = stored.get("interval")
    bounds = (interval[0], interval[1]) if interval else None
    return Verdict(stored["before"], stored["after"], stored["verdict"], bounds)


def _share(of: Iterable[bool]) -> float:
    return fmean(map(float, of))
