"""Demonstrations to TRL's SFTTrainer, on exactly the sampled token ids; and the clean-up around every trainer.

Loss falls on own turns only, turn end included, from every speaker's view (paper section 3.3). Trainers leave traces
on the model they train (wrapped forwards, hooks, extra adapters, train mode); `session` takes them off again.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..errors import TrainingError
from ..model.libraries import PeftModel
from ..model.loading import computing_dtype
from ..model.policy import ADAPTER, Policy
from ..model.render import Rendered
from ..settings.reinforce import ReinforceSettings
from ..settings.sections import DpoSettings, TrainingSettings
from .halving import Halving, free
from .parallel import Sharing, at_once, filled, world

_IGNORED = -100  # label of tokens without loss
Optimising = TrainingSettings | DpoSettings | ReinforceSettings
"""The sections of a recipe that say how an optimiser works."""


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What a training step did. trainer_tokens: tokens in the rows of one epoch. loss: mean over the last epoch's
    steps."""

    rows: int
    trainer_tokens: int
    epochs: int
    steps: int
    loss: float | None


def fine_tune(
    policy: Policy,
    rows: Sequence[Rendered],
    *,
    settings: TrainingSettings,
    micro_batch: int,
    seed: int,
    on_step: Callable[[int], None],
    on_loss: Callable[[float], None] = lambda loss: None,
    notify: Callable[[str], None] | None = None,
) -> TrainingFacts:
    """Supervised fine-tuning of the adapter on the own turns of every row.

    settings.batch_size rows make one optimiser step, at most micro_batch of them at a time, fewer when memory runs out
    (`notify` is told). on_step(1) is called after each step, then on_loss with its loss. Without rows nothing happens.
    Raises TrainingError when the rows fail the checklist.
    """
    check(rows, policy)
    if not rows:
        return TrainingFacts(rows=0, trainer_tokens=0, epochs=0, steps=0, loss=None)
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        exact = adapter_weights(model)
        trainer = RowTrainer(
            model=model,
            args=SFTConfig(
                **arguments(scratch, settings, rows=len(rows), micro_batch=micro_batch, seed=seed), packing=False
            ),
            train_dataset=Dataset.from_list(filled([_example(row) for row in rows], _filler(rows[0]))),
            processing_class=policy.tokenizer,
            callbacks=[Steps(on_step, on_loss)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.notify, trainer.lengths = notify, [len(row.ids) for row in rows]
        restore_adapter(model, exact)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        steps = int(trainer.state.global_step)
    last = losses[-max(1, len(losses) // settings.epochs) :]
    return TrainingFacts(
        rows=len(rows),
        trainer_tokens=sum(len(row.ids) for row in rows),
        epochs=settings.epochs,
        steps=steps,
        loss=sum(last) / len(last) if last else None,
    )


def planned_steps(rows: int, settings: Optimising) -> int:
    """How many optimiser steps so many rows will take."""
    return -(-rows // settings.batch_size) * settings.epochs


def check(rows: Sequence[Rendered], policy: Policy) -> None:
    """The checklist before the first step: what silently goes wrong elsewhere stops the run here.

    Every row has a supervised token, no second beginning-of-text (some templates write none, some one a turn), a
    supervised turn end in each span (unless it is a stream's), no padding, and fits the model. Raises TrainingError
    naming the first row that does not.
    """
    for i, row in enumerate(rows):
        problem = flaw(row.ids, policy)
        if not any(end > start for start, end in row.spans):
            problem = "no token to learn from"
        elif not problem and not row.in_steps and any(row.ids[end - 1] not in policy.end_ids for _, end in row.spans):
            problem = "an own turn whose end is not learnt"
        if problem:
            raise TrainingError(f"training row {i} has {problem}", hint="this is a defect; please report it")


def flaw(ids: Sequence[int], policy: Policy) -> str | None:
    """What is wrong with the tokens of any row to learn from; None if nothing is."""
    bos = policy.tokenizer.bos_token_id
    if bos is not None and tuple(ids[:2]) == (bos, bos):
        return "two beginning-of-text tokens"
    if policy.pad_id in ids:
        return "padding inside the text"
    if len(ids) > policy.max_length:
        return f"{len(ids)} tokens, more than the model's {policy.max_length}"
    return None


@contextmanager
def session(policy: Policy) -> Iterator[PeftModel]:
    """The model as trainers may have it; whatever they leave behind is undone, so that rounds do not add up.

    Restores: adapters, forward, hooks, dropout, gradient checkpointing, gradients, padding side, evaluation mode, and
    that nobody has prepared the model: else who trained alone would be left out of a group that trains later on.
    """
    model, tokenizer = policy.model, policy.tokenizer
    base = model.get_base_model()
    forward = base.__dict__.get("forward")
    dropout = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    hooks = {name: (set(m._forward_hooks), set(m._forward_pre_hooks)) for name, m in model.named_modules()}
    padding_side, use_cache = tokenizer.padding_side, base.config.use_cache
    with policy.changing(), _quiet():
        try:
            yield model
        finally:
            for name in [name for name in model.peft_config if name != ADAPTER]:
                model.delete_adapter(name)
            model.set_adapter(ADAPTER)
            if forward is None:
                base.__dict__.pop("forward", None)
            else:
                base.forward = forward
            for name, module in model.named_modules():
                if name in dropout:
                    module.p = dropout[name]
                known = hooks.get(name, (set(), set()))
                for current, old in zip((module._forward_hooks, module._forward_pre_hooks), known, strict=True):
                    for handle in [handle for handle in current if handle not in old]:
                        del current[handle]
            model.__dict__.pop("_is_accelerate_prepared", None)
            base.gradient_checkpointing_disable()
            for parameter in model.parameters():
                parameter.grad = None
            tokenizer.padding_side, base.config.use_cache = padding_side, use_cache
            model.eval()
            free()


def _example(row: Rendered) -> dict[str, list[int]]:
    labels = [token if own else _IGNORED for token, own in zip(row.ids, row.mask, strict=True)]
    return {"input_ids": list(row.ids), "labels": labels}


def _filler(row: Rendered) -> dict[str, list[int]]:
    return {"input_ids": list(row.ids[:2]), "labels": [_IGNORED] * 2}


def arguments(scratch: str, settings: Optimising, *, rows: int, micro_batch: int, seed: int) -> dict[str, Any]:
    """What every trainer's configuration says alike. settings: the optimiser's part of a recipe. rows: examples there
    are."""
    cuda = torch.cuda.is_available()
    bf16 = computing_dtype() == torch.bfloat16
    number = at_once(settings.batch_size, micro_batch)  # the effective batch is the recipe's, whatever fits at a time
    together = {"ddp_backend": None if cuda else "gloo", "ddp_find_unused_parameters": False} if world() > 1 else {}
    return {
        **together,
        "output_dir": scratch,
        "per_device_train_batch_size": number,
        "gradient_accumulation_steps": settings.batch_size // (number * world()),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        # Rounded down: the first step of a warm-up has a learning rate of 0, which may be all the steps there are.
        "warmup_steps": int(settings.warmup_ratio * planned_steps(rows, settings)),
        "max_length": None,
        "seed": seed,
        "bf16": bf16,
        "fp16": cuda and not bf16,
        "use_cpu": not cuda,  # on a Mac, transformers would move the model to Apple's GPU
        "gradient_checkpointing": cuda,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
    }


class RowTrainer(Sharing, Halving, SFTTrainer):
    """TRL's trainer, going on when memory runs out."""


def adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """A copy of the adapter by name, for `restore_adapter`; in main memory, as the card has other uses for its own."""
    weights = ((name, weight) for name, weight in model.named_parameters() if f".{ADAPTER}." in name)
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights}


def restore_adapter(model: PeftModel, exact: dict[str, torch.Tensor]) -> None:
    """Undoes a trainer's cast of a 4-bit model's adapter to bf16.

    There a small learning rate moves almost no weight, the last iteration's small steps are rounded away, and a DPO
    reference, which is not cast, would differ from the adapter that it was copied from.
    """
    for name, weight in exact.items():
        parameter = model.get_parameter(name)
        parameter.data = weight.to(parameter.device, copy=True)


class Steps(TrainerCallback):
    """Tells of every optimiser step, and of its loss."""

    def __init__(self, on_step: Callable[[int], None], on_loss: Callable[[float], None]) -> None:
        self.on_step, self.on_loss = on_step, on_loss

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.on_loss(logs["loss"])


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, advice or usage reports of the libraries among ours."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    datasets.disable_progress_bars()
    level = logging.getLogger("trl").level
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("trl").setLevel(level)
