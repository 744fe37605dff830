"""Training goes on when memory runs out: the micro-batch is halved within the step, and the effective batch stays."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import OptimaError
from ..model.memory import is_out_of_memory
from .parallel import world


class OutOfMemory(OptimaError):
    """A training step that does not fit."""


class Halving:
    """A mix-in for trainers of the Transformers family, to be named before the trainer in the list of bases.

    A micro-batch that does not fit is taken in equal parts, and so are all later ones. The parts' gradients add up to
    that of the whole; what an attempt had added before it failed is taken back. Losses must be sums over
    `num_items_in_batch`, or means over examples where the trainer is not given that number.

    blocks: how many rows an example has; a batch holds the first rows of all examples, then the second ones.
    notify: told, in a sentence, when the micro-batch becomes smaller.
    """

    blocks = 1
    notify: Callable[[str], None] | None = None
    parts = 1  # of the micro-batch at hand
    fits = math.inf  # examples at a time

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """The loss of one micro-batch, its gradients added to those there are.

        Raises OutOfMemory when not even a single example fits. In a group of trainers nothing is halved, since all must
        take the same steps: there it is raised at once.
        """
        examples = len(next(iter(inputs.values()))) // self.blocks
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = [None if weight.grad is None else weight.grad.clone() for weight in weights]
        metrics: dict[str, list[float]] = self._metrics["train"]  # type: ignore[attr-defined]
        logged = {name: len(values) for name, values in metrics.items()}
        while True:
            self.parts = next(n for n in range(1, examples + 1) if examples % n == 0 and examples // n <= self.fits)
            failure = None
            try:
                losses = []
                for part in _split(inputs, parts=self.parts, blocks=self.blocks):
                    losses.append(super().training_step(model, part, num_items_in_batch))  # type: ignore[misc]
                return torch.stack(losses).sum()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = str(error)
            # Outside the handler, because the exception keeps the failed attempt's tensors alive.
            for weight, gradient in zip(weights, before, strict=True):
                weight.grad = None if gradient is None else gradient.clone()
            for name in list(metrics):
                del metrics[name][logged.get(name, 0) :]
            self.take_fewer(examples // self.parts, failure)

    def take_fewer(self, examples: int, failure: str) -> None:
        """Halves how many examples are taken at a time, as so many have failed. Raises OutOfMemory where a single one
        has, or where others take the same steps."""
        if examples == 1 or world() > 1:
            number = "a single training example" if examples == 1 else f"{examples} training examples"
            raise OutOfMemory(
                f"out of memory with {number} at a time: {failure.splitlines()[0]}",
                hint="a smaller model.max_length; `optima-lite check` shows what fits",
            )
        self.fits = examples // 2
        free()
        if self.notify:
            self.notify(f"out of memory: training goes on with {self.fits} examples at a time")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's loss; a mean over a part counts as much as the part's share of the examples."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        return loss if num_items_in_batch is not None else loss / self.parts


def free() -> None:
    """Gives back what nothing refers to any more, also to the card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _split(inputs: dict[str, Any], *, parts: int, blocks: int) -> Iterator[dict[str, Any]]:
    """The batch in equal parts, each with its examples' rows of every block."""
    rows = len(next(iter(inputs.values()))) // blocks // parts
    for part in range(parts):
        yield {
            name: torch.cat([block[part * rows : (part + 1) * rows] for block in value.chunk(blocks)])
            for name, value in inputs.items()
        }
