"""Reinforcement of an adapter by the rewards of what it said: proximal policy optimisation, and the guard around it.

The loss is computed by `grpo`, on exactly the sampled token ids.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..errors import TrainingError
from ..model.policy import Policy
from ..settings.reinforce import ReinforceSettings
from .episodes import Episode
from .grpo import EpisodeTrainer
from .sft import Steps, adapter_weights, arguments, flaw, restore_adapter, session
from .value import ValueHead


@dataclass(frozen=True, slots=True)
class ReinforceFacts:
    """What a step of reinforcement did. Means over its optimiser steps: loss; kl, nats a token between the adapter as
    the step began and as it was then; entropy, nats a token; clipped, the share of tokens whose ratio was clipped;
    value_error, of the value head, squared. stopped: whether the guard ended it early; epochs is then a fraction."""

    rows: int
    trainer_tokens: int
    epochs: float
    steps: int
    loss: float | None
    kl: float | None
    entropy: float | None
    clipped: float | None
    value_error: float | None
    stopped: bool


def reinforce(
    policy: Policy,
    episodes: Sequence[Episode],
    *,
    settings: ReinforceSettings,
    temperature: float,
    micro_batch: int,
    seed: int,
    on_step: Callable[[int], None],
    on_loss: Callable[[float], None] = lambda loss: None,
    notify: Callable[[str], None] | None = None,
    head: ValueHead | None = None,
) -> ReinforceFacts:
    """Proximal policy optimisation of the adapter. settings.batch_size episodes make one optimiser step, at most
    micro_batch of them at a time, fewer when memory runs out (`notify` is told). Dropout is off.

    temperature: that they were sampled with. head: gives the advantages, and learns; None: they are given.

    Where the loss is no number, the adapter leaves the step's beginning by more than settings.max_kl nats a token, or
    its entropy falls below settings.min_entropy of the first batch's, training stops and the last adapter of which that
    was not so is kept. Without episodes nothing happens. Raises TrainingError when the ratio is not 1 on the first
    batch, or an episode cannot be learnt from.
    """
    check(episodes, policy)
    if not episodes:
        return ReinforceFacts(0, 0, 0, 0, None, None, None, None, None, stopped=False)
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        exact = adapter_weights(model)
        guard = _Guard(settings, exact)
        trainer = EpisodeTrainer(
            policy,
            episodes,
            settings=settings,
            temperature=temperature,
            arguments=arguments(scratch, settings, rows=len(episodes), micro_batch=micro_batch, seed=seed),
            callbacks=[Steps(on_step, on_loss), guard],
        )
        trainer.remove_callback(PrinterCallback)
        guard.trainer, trainer.notify = trainer, notify
        trainer.lengths = [len(episode.row.ids) for episode in episodes]
        restore_adapter(model, exact)
        value_error = trainer.recall(head=head, seed=seed)
        trainer.train()
        if not guard.reason:
            guard.look(trainer.measure())
        logs = [entry for entry in trainer.state.log_history if "approximate_kl" in entry]
    if guard.reason and notify:
        notify(f"the step was stopped early: {guard.reason}; the last adapter before that is kept")
    return ReinforceFacts(
        rows=len(episodes),
        trainer_tokens=sum(len(episode.row.ids) for episode in episodes),
        epochs=trainer.state.epoch if guard.reason else settings.epochs,
        steps=len(logs),
        loss=_mean(entry["loss"] for entry in logs),
        kl=_mean(entry["approximate_kl"] for entry in logs),
        entropy=_mean(entry["token_entropy"] for entry in logs),
        clipped=_mean(entry["clipped"] for entry in logs),
        value_error=value_error,
        stopped=bool(guard.reason),
    )


def check(episodes: Sequence[Episode], policy: Policy) -> None:
    """Before the first step: something to learn, its worth for each message, no second beginning-of-text, no padding,
    room in the model. A message that was cut has no turn end to be learnt. Raises TrainingError."""
    for i, episode in enumerate(episodes):
        row, problem = episode.row, flaw(episode.row.ids, policy)
        if not row.spans or any(end <= start for start, end in row.spans):
            problem = "no token to learn from"
        elif not len(row.spans) == len(episode.rewards) == len(episode.advantages):
            problem = "another number of messages than of rewards"
        elif not all(map(math.isfinite, (*episode.rewards, *episode.advantages))):
            problem = "a reward that is no number"
        if problem:
            raise TrainingError(f"episode {i} has {problem}", hint="this is a defect; please report it")


class _Guard(TrainerCallback):
    """Asserts the ratio on the first step, and stops where a step goes astray."""

    def __init__(self, settings: ReinforceSettings, start: dict[str, Tensor]) -> None:
        self.settings = settings
        self.trainer: Any = None
        self.reason = ""
        self._first_entropy = 0.0
        self._good = self._measured = start  # the adapter that the step at hand computes with

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._measured = adapter_weights(self.trainer.model)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "approximate_kl" not in logs:
            return
        if state.global_step == 1:
            self._prove(logs["ratio_off"])
            self._first_entropy = logs["token_entropy"]
        if self._tells(logs):
            self.look({"kl": logs["approximate_kl"], "entropy": logs["token_entropy"]})
        control.should_training_stop = control.should_training_stop or bool(self.reason)

    def _tells(self, logs: dict[str, float]) -> bool:
        """Whether a batch is large enough to be judged by: the few rows of a last one may all be sure by chance."""
        whole = min(self.settings.batch_size, len(self.trainer.rows))
        return 2 * logs["episodes"] >= whole or math.isnan(logs["approximate_kl"])

    def look(self, found: dict[str, float]) -> None:
        """Takes the adapter back where it has gone astray; after the last step it is looked at once more."""
        limit, floor = self.settings.max_kl, self.settings.min_entropy * self._first_entropy
        if not all(map(math.isfinite, found.values())):
            self.reason = "the loss was no number"
        elif found["kl"] > limit:
            self.reason = f"the adapter left the step's beginning by {found['kl']:.2f} nats a token, {limit} at most"
        elif found["entropy"] < floor:
            self.reason = f"the entropy fell to {found['entropy']:.4f} nats a token, from {self._first_entropy:.4f}"
        if self.reason:
            restore_adapter(self.trainer.model, self._good)
        else:
            self._good = self._measured

    def _prove(self, off: float) -> None:
        """Before the first update every ratio is 1. Their mean distance from it decides: rows stand in other batches
        than when they were recalled, so of thousands of tokens one that was hardly to be expected may be off."""
        tolerance = 1e-3 if self.trainer.model.dtype in (torch.float32, torch.float64) else 0.1
        if off > tolerance:  # a number that is none is the guard's business
            raise TrainingError(
                f"the ratios are off by {off:.4f} on the first batch, where the adapter is still the one that spoke",
                hint="this is a defect; please report it with the versions that `optima-lite doctor` prints",
            )


def _mean(values: Iterator[float]) -> float | None:
    found = [value for value in values if math.isfinite(value)]
    return sum(found) / len(found) if found else None
