"""Who does the work of a run: this process, and a second one where that helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..model.helper import Helper
from ..model.resources import free_memory
from ..model.second import Second, possible
from ..settings.machine import Machine
from .cast import Cast

_BESIDES = 2 << 30  # bytes that two processes may need besides what their caches may hold


@contextmanager
def helped(
    cast: Cast, *, machine: Machine, notify: Callable[[str], None], second: Second | None = None
) -> Iterator[Helper | None]:
    """A helper for the `with` block; None where nothing can be shared, or the machine has no second core, or not the
    memory. second: a process that was begun already. notify: see `Helper`."""
    generator, settings = cast.pair.generator, cast.recipe.model
    room = 2 * generator.states.cache.max_bytes + _BESIDES
    alike = torch.get_num_threads() == 1  # as the helper computes; a run of an earlier version may have settled on more
    if cast.parts < 2 or not alike or not possible(cast.recipe, machine) or free_memory() < room:
        yield None
        return
    second = second or Second()
    try:
        yield Helper(generator, cast.pair.renderer, second=second, settings=settings, machine=machine, notify=notify)
    finally:
        second.close()
