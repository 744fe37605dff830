"""Who does the work of a run: this process, and a second one where that helps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..model.helper import Helper
from ..model.resources import cores, free_memory
from ..settings.machine import Machine
from .cast import Cast

_BESIDES = 2 << 30  # bytes that two processes may need besides what their caches may hold


@contextmanager
def helped(cast: Cast, *, machine: Machine, notify: Callable[[str], None]) -> Iterator[Helper | None]:
    """A helper for the `with` block; None where nothing can be shared, or the machine has no second core, or not the
    memory. notify: see `Helper`."""
    generator = cast.pair.generator
    room = 2 * generator.states.cache.max_bytes + _BESIDES
    shared = cast.parts > 1 and cast.recipe.task.code is None  # code of the user's own stays in one place
    if not shared or machine.threads != "auto" or cores() < 2 or os.name != "posix" or free_memory() < room:
        yield None
        return
    helper = Helper(generator, cast.pair.renderer, settings=cast.recipe.model, machine=machine, notify=notify)
    try:
        yield helper
    finally:
        helper.close()
