"""Preference pairs to TRL's DPOTrainer, on exactly the sampled token ids (paper section 3.4).

The reference is the adapter as it stood when the step began: the trainer keeps a frozen copy of it on the same
weights. The first batch proves it, because adapter and reference are then the same: rewards and margins are 0 and the
loss is ln 2.
"""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from ..errors import TrainingError
from ..model.policy import Policy
from ..settings.sections import DpoSettings
from .halving import Halving
from .parallel import Sharing, filled, totals, world
from .sft import Steps, adapter_weights, arguments, restore_adapter, session

_WINDOW = 5  # steps over which the fall of the chosen messages is averaged


@dataclass(frozen=True, slots=True)
class PairIds:
    """A pair as token ids: what the speaker saw, and two continuations of it, turn ends included."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PreferenceFacts:
    """What a preference step did. Means over the steps: loss, and the shift in log-probability (nats a message) of
    chosen and rejected messages against the reference. stopped: whether the guard ended it early; epochs is then a
    fraction."""

    rows: int
    trainer_tokens: int
    epochs: float
    steps: int
    loss: float | None
    chosen_shift: float | None
    rejected_shift: float | None
    stopped: bool


def optimise(
    policy: Policy,
    pairs: Sequence[PairIds],
    *,
    settings: DpoSettings,
    micro_batch: int,
    seed: int,
    on_step: Callable[[int], None],
    on_loss: Callable[[float], None] = lambda loss: None,
    notify: Callable[[str], None] | None = None,
) -> PreferenceFacts:
    """Direct preference optimisation of the adapter. settings.batch_size pairs make one optimiser step, at most
    micro_batch of them at a time, fewer when memory runs out (`notify` is told).

    When the chosen messages lose more than settings.max_chosen_drop nats against the reference, averaged over five
    steps, training stops and the last adapter with which they had not is kept. Without pairs nothing happens. Raises
    TrainingError when the first batch shows that the reference is not the adapter's start, or a pair cannot be learnt
    from.
    """
    check(pairs, policy)
    if not pairs:
        return PreferenceFacts(0, 0, 0, 0, None, None, None, stopped=False)
    losses = ["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"]
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        guard, exact = _Guard(settings), adapter_weights(model)
        trainer = _PairTrainer(
            model=model,
            args=DPOConfig(
                **arguments(scratch, settings, rows=len(pairs), micro_batch=micro_batch, seed=seed),
                beta=settings.beta,
                loss_type=losses,
                loss_weights=[1.0, settings.sft_weight][: len(losses)],
            ),
            train_dataset=Dataset.from_list(
                filled([_example(p) for p in pairs], _example(PairIds(pairs[0].prompt, (), ())))
            ),
            processing_class=policy.tokenizer,
            callbacks=[Steps(on_step, on_loss), guard],
        )
        trainer.remove_callback(PrinterCallback)
        guard.trainer, trainer.notify = trainer, notify
        trainer.lengths = [len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
        restore_adapter(model, exact)
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "rewards/chosen" in entry]
    if guard.stopped and notify:
        notify("the preference step was stopped early: the preferred messages were becoming unlikely")
    return PreferenceFacts(
        rows=len(pairs),
        trainer_tokens=sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs),
        epochs=trainer.state.epoch if guard.stopped else settings.epochs,
        steps=len(logs),
        loss=_mean(entry["loss"] for entry in logs),
        chosen_shift=_mean(entry["rewards/chosen"] / settings.beta for entry in logs),
        rejected_shift=_mean(entry["rewards/rejected"] / settings.beta for entry in logs),
        stopped=guard.stopped,
    )


def _example(pair: PairIds) -> dict[str, list[int]]:
    return {"prompt_ids": [*pair.prompt], "chosen_ids": [*pair.chosen], "rejected_ids": [*pair.rejected]}


def check(pairs: Sequence[PairIds], policy: Policy) -> None:
    """Before the first step: no second beginning-of-text, a learnt turn end, two different messages, room in the model.

    A rejected message may lack its turn end, since being cut off is a reason to be rejected. Raises TrainingError.
    """
    bos = policy.tokenizer.bos_token_id
    for i, pair in enumerate(pairs):
        problem = None
        longest = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        if bos is not None and pair.prompt[:2] == (bos, bos):
            problem = "two beginning-of-text tokens"
        elif not pair.chosen or pair.chosen[-1] not in policy.end_ids:
            problem = "a chosen message whose end is not learnt"
        elif not pair.rejected or pair.chosen == pair.rejected:
            problem = "no difference between chosen and rejected"
        elif longest > policy.max_length:
            problem = f"{longest} tokens, more than the model's {policy.max_length}"
        if problem:
            raise TrainingError(f"preference pair {i} has {problem}", hint="this is a defect; please report it")


class _PairTrainer(Sharing, Halving, DPOTrainer):
    """TRL's trainer on token ids as they are, with a loss that does not depend on how a batch is split."""

    blocks = 2  # a batch holds all chosen rows, then all rejected ones

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Up to TRL 1.14 the logits of whole rows are built, twice. Its other path, made for Liger but in plain torch,
        # builds those of the messages alone, in tiles; later versions always do that.
        if hasattr(self, "_get_per_token_logps_and_entropies"):
            self.use_liger_kernel = True

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # tokenising text again would not give back the sampled ids

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """Counts what the whole batch holds, see `compute_loss`."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = sum(_pairs(one) - _fillers(one) for one in samples)
        self.chosen_tokens, self._pairs = totals([sum(map(_chosen_tokens, samples)), pairs])
        self._batches = len(samples) * world()
        return samples, items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL takes means over a micro-batch's pairs and tokens; weighted by number they add up to the batch's."""
        pairs_share = _pairs(inputs) * self.parts * self._batches / self._pairs
        token_share = _chosen_tokens(inputs) * self.parts * self._batches / max(1, self.chosen_tokens)
        if len(self.loss_weights) == 2:
            self.loss_weights: list[float] = [1.0, self.args.loss_weights[1] * token_share / pairs_share]
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self._metrics["train"]["pairs"].append(_pairs(inputs))
        of_fillers = math.log(2) * _fillers(inputs) / _pairs(inputs)  # what a pair without messages adds to the mean
        return (loss - of_fillers) * pairs_share

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the chosen messages' log-probability summed over the step, which their mean per micro-batch hides."""
        means, counts = (self._metrics["train"].get(name, ()) for name in ("logps/chosen", "pairs"))
        self.chosen_logp = world() * sum(mean * count for mean, count in zip(means, counts, strict=True))
        super().log(logs, *args, **kwargs)


def _pairs(batch: Any) -> int:
    return len(batch["input_ids"]) // 2


def _fillers(batch: Any) -> int:
    """Pairs without messages, which only a group of trainers has."""
    return 0 if world() == 1 else int((batch["completion_mask"].chunk(2)[0].sum(1) == 0).sum())


def _chosen_tokens(batch: Any) -> int:
    return int(batch["completion_mask"].chunk(2)[0].sum())


class _Guard(TrainerCallback):
    """Proves the reference on the first step, and stops when the chosen messages themselves become unlikely."""

    def __init__(self, settings: DpoSettings) -> None:
        self.settings = settings
        self.trainer: Any = None
        self.stopped = False
        self._shifts: deque[float] = deque(maxlen=_WINDOW)
        self._measured: dict[str, torch.Tensor] = {}  # the adapter that the step at hand computes with
        self._good: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._measured = adapter_weights(self.trainer.model)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "rewards/chosen" not in logs:
            return
        if state.global_step == 1:
            self._prove(logs)
        self._shifts.append(logs["rewards/chosen"] / self.settings.beta)
        if sum(self._shifts) / len(self._shifts) < -self.settings.max_chosen_drop:
            control.should_training_stop = self.stopped = True
            restore_adapter(self.trainer.model, self._good)
        else:
            self._good = self._measured

    def _prove(self, logs: dict[str, float]) -> None:
        """Before the first update adapter and reference agree, so the preference part of the loss is exactly ln 2."""
        sft = -self.trainer.chosen_logp / max(1, self.trainer.chosen_tokens) * self.settings.sft_weight
        tolerance = 1e-3 if self.trainer.model.dtype == torch.float32 else 5e-2
        found = {
            "the reward of the chosen messages": logs["rewards/chosen"],
            "the reward of the rejected messages": logs["rewards/rejected"],
            "the margin": logs["rewards/margins"],
            "the loss without its SFT term, less ln 2,": logs["loss"] - sft - math.log(2),
        }
        for name, value in found.items():
            if not abs(value) <= tolerance:
                raise TrainingError(
                    f"{name} is {value:.4f} on the first batch, where adapter and reference must agree",
                    hint="this is a defect; please report it with the versions that `optima-lite doctor` prints",
                )


def _mean(values: Iterator[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
