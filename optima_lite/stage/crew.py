"""Who does the work of a run: this process, unless somebody helps. The work is the same, and so are the records.

A job is frozen data. What it makes of a piece of work depends on that piece, the job and the adapter in force, never on
what was done before, so it does not matter who does it, nor how often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..runs.progress import Advance
from .cast import Cast
from .lesson import Lesson

Made = TypeVar("Made")


class Job(Protocol[Made]):
    """A kind of work, as a frozen dataclass that can be pickled."""

    def do(self, cast: Cast, items: Sequence[Any], advance: Advance) -> list[Made]:
        """What is made of the items, one record each, in their order, by the agents of a cast. advance: told of what is
        done."""


class Crew(Protocol):
    """Those who do the work of a run, with the agents as they stand."""

    @property
    def cast(self) -> Cast:
        """The agents, as this process has them."""

    def map(self, job: Job[Made], pieces: Sequence[Sequence[Any]], advance: Advance) -> Iterator[list[Made]]:
        """What the job makes of each piece, in their order."""

    def train(self, lesson: Lesson, folder: Path, advance: Advance, notify: Callable[[str], None]) -> None:
        """Fills a folder with what comes of a training step. Call `speak_with` before any other work is done."""

    def speak_with(self, adapter: Path | None) -> None:
        """The agents speak with the adapters in a folder from here on; with those of the beginning for None."""


def done(crew: Crew, job: Job[Made], items: Sequence[Any]) -> list[Made]:
    """What a job makes of a piece that is not stored, and of which nobody is told."""
    (made,) = crew.map(job, [items], lambda *what, **how: None)
    return made


class Alone:
    """This process."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast

    def map(self, job: Job[Made], pieces: Sequence[Sequence[Any]], advance: Advance) -> Iterator[list[Made]]:
        """See `Crew`."""
        return (job.do(self.cast, piece, advance) for piece in pieces)

    def train(self, lesson: Lesson, folder: Path, advance: Advance, notify: Callable[[str], None]) -> None:
        """See `Crew`."""
        lesson.do(self.cast, folder, advance, notify)

    def speak_with(self, adapter: Path | None) -> None:
        """See `Crew`."""
        if adapter is None:
            self.cast.begin()
        else:
            self.cast.policy.load_adapter(adapter)
