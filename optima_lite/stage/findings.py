"""What `check` and `doctor` say: one finding for each thing that they looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """ok: works. note: works, with something to know. problem: will not work."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. hint: how to mend it, where there is something to mend."""

    subject: str
    status: Status
    detail: str
    hint: str | None = None
