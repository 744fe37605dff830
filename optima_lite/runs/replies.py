"""What models elsewhere have said in a run, and what that took: a line for each reply, never changed once written.

    spoken/NAME.jsonl    the replies of the speaker of that name in the machine file

They are kept for as long as the run folder is: a stage that is made anew finds them again.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from ..records import Reply, decode
from .disk import append_bytes, make_folder, read_bytes, sync_folder, writing
from .rows import to_lines

SPOKEN = "spoken"  # the folder


class Replies:
    """The replies of one speaker, by their keys; those in `path` are read first. Several threads may ask and add.

    A line that a kill has cut short is left where it is, and counts as never written. prompt_tokens, completion_tokens:
    of all replies. refusals: what the server has said in those that are one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._found: dict[str, Reply] = {}
        self.prompt_tokens = self.completion_tokens = 0
        self.refusals: list[str] = []
        stored = read_bytes(path)
        self._torn = bool(stored) and not stored.endswith(b"\n")
        for line in stored.split(b"\n"):
            with suppress(ValueError):
                self._take(decode(Reply, line))

    def __len__(self) -> int:
        return len(self._found)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that have replied, as their server calls them."""
        return tuple(dict.fromkeys(reply.model for reply in self._found.values() if reply.model))

    def get(self, key: str) -> Reply | None:
        """The reply under a key, if it is there."""
        return self._found.get(key)

    def add(self, reply: Reply) -> None:
        """Stores a reply: when this returns it is on the disk, when it raises RunError it is not."""
        with self._lock, writing(self.path):
            new = not self.path.exists()
            make_folder(self.path.parent)
            append_bytes(self.path, b"\n" * self._torn + to_lines([reply]))
            self._torn = False
            if new:
                sync_folder(self.path.parent)
            self._take(reply)

    def _take(self, reply: Reply) -> None:
        if reply.key not in self._found:
            self._found[reply.key] = reply
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens
            self.refusals += [reply.refused] if reply.refused else []


def replies_in(run: Path) -> dict[str, Replies]:
    """The replies in a run folder, by the names of their speakers."""
    return {path.stem: Replies(path) for path in sorted((run / SPOKEN).glob("*.jsonl"))}
