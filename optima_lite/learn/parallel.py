"""Several processes that train one adapter: each computes a part of every batch, and their gradients are averaged.

The rows, their order and the batch are those of one process; where the last batch is not full, fillers without loss
make it so, because all processes must take as many steps. Without such a group nothing here does anything, and
torch.distributed is not even imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..errors import ConfigError, OptimaError

Item = TypeVar("Item")


class PeerLost(OptimaError):
    """Another process of the group is no more, or cannot be reached."""


@dataclass(frozen=True)
class Place:
    """A process in a group. rank: its number. world: how many there are. host, port: where the first one listens."""

    rank: int
    world: int
    host: str
    port: int


_place: Place | None = None


def world() -> int:
    """How many processes train together; 1 outside of a group."""
    return 1 if _place is None else _place.world


@contextmanager
def group(place: Place) -> Iterator[None]:
    """This process trains with others in the `with` block, which they all have to enter. Raises PeerLost where one of
    them has left it before the end."""
    global _place
    import torch.distributed as distributed
    from accelerate.state import AcceleratorState, GradientState

    stated = {"RANK": place.rank, "LOCAL_RANK": 0, "WORLD_SIZE": place.world, "LOCAL_WORLD_SIZE": 1}
    stated |= {"MASTER_ADDR": place.host, "MASTER_PORT": place.port}  # type: ignore[dict-item]
    before = {name: os.environ.get(name) for name in stated}
    os.environ.update({name: str(value) for name, value in stated.items()})
    AcceleratorState._reset_state(reset_partial_state=True)  # else it stays what it was when this process first trained
    try:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        _place = place
        yield
    except RuntimeError as error:
        # Gloo has no exception of its own; its sentences begin with the place in its source.
        if not (isinstance(error, distributed.DistError) or "gloo/" in str(error)):
            raise
        what = f"another of {place.world} processes that train together was lost"
        raise PeerLost(what, hint="the step is to be begun anew") from error
    finally:
        _place = None
        if distributed.is_initialized():
            distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def totals(numbers: Sequence[float]) -> list[float]:
    """The sum of each number over all processes."""
    if _place is None:
        return [*numbers]
    import torch.distributed as distributed

    whole = torch.tensor([*numbers], dtype=torch.float64, device="cuda" if torch.cuda.is_available() else "cpu")
    distributed.all_reduce(whole)
    return whole.tolist()


def share(items: Sequence[Item]) -> Sequence[Item]:
    """What of a list is this process's to do; all of it outside of a group."""
    return items if _place is None else items[_place.rank :: _place.world]


def gathered(found: Mapping[int, Item]) -> dict[int, Item]:
    """What all processes have found, each its share, by number."""
    if _place is None:
        return {**found}
    import torch.distributed as distributed

    parts: list[Any] = [None] * _place.world
    distributed.all_gather_object(parts, found)
    return {number: one for part in parts for number, one in part.items()}


def at_once(batch: int, most: int) -> int:
    """Examples that a process takes at a time, at most so many, so that whole numbers of them make a batch. Raises
    ConfigError for a batch that the processes cannot share evenly."""
    if batch % world():
        what = f"a batch of {batch} rows cannot be shared by {world()} trainers evenly"
        raise ConfigError(what, where="cluster.trainers", hint="a number that divides batch_size")
    share = batch // world()
    return next(number for number in range(min(most, share), 0, -1) if share % number == 0)


def filled(examples: Sequence[dict[str, Any]], filler: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples of a trainer; in a group with a filler behind them, see `Sharing`."""
    return [*examples] if _place is None else [*examples, filler]


class Sharing:
    """A mix-in for trainers of the Transformers family, to be named before the trainer in the list of bases. In a group
    the last example of its dataset is a filler.

    lengths: tokens of each example but the filler.
    """

    lengths: Sequence[int]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        how: Any = self.args  # type: ignore[attr-defined]
        alike = how.device.type not in _SORTED
        if _place is None and alike:
            return super()._get_train_sampler(*args, **kwargs)  # type: ignore[misc]
        batch = how.per_device_train_batch_size * how.gradient_accumulation_steps * world()
        lengths = [1] * len(self.lengths) if alike else self.lengths
        return Order(lengths, batch, how.seed, fill=_place is not None)


# Where rows of one batch stand by length. A card takes a few long rows at a time, and pads them to the longest; on a
# CPU that costs little, and they stay as they were drawn.
_SORTED = ("cuda",)


class Order(torch.utils.data.Sampler):
    """In each epoch the rows in batches as one process draws them; in each batch the longest first, so that those that
    are computed together are alike and memory runs out at once or never. fill: fillers make the last batch whole.

    lengths: of the rows; a filler has the number behind the last.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, *, fill: bool) -> None:
        self.lengths, self.batch, self.seed, self.fill, self.epoch = lengths, batch, seed, fill, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        rows = len(self.lengths)
        return -(-rows // self.batch) * self.batch if self.fill else rows

    def __iter__(self) -> Iterator[int]:
        rows = len(self.lengths)
        drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        for start in range(0, rows, self.batch):
            yield from sorted(drawn[start : start + self.batch], key=lambda row: -self.lengths[row])
        yield from [rows] * (len(self) - rows)
