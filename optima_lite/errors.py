"""The exception tree: every mistake a user can make says what is wrong, where, and what to try.

Only `cli` turns these into a message and an exit code. Anything that is not an `OptimaError` is a bug of ours and keeps
its traceback.
"""

from __future__ import annotations


class OptimaError(Exception):
    """Base of all errors meant for the user.

    what: one sentence, no trailing stop. where: file, line, dotted key or run folder; a name of thousands of characters
    is cut. hint: what to try next.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)[:1000]
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  try: {self.hint}" if self.hint else ""
        return f"{where}{self.what}{hint}"


class ConfigError(OptimaError):
    """A recipe, a machine file or an override that cannot be used; may hold several mistakes, a line each."""


class DataError(OptimaError):
    """A data file or a row of it that cannot become a question."""


class ModelError(OptimaError):
    """A model folder, name or adapter that cannot be loaded."""


class RunError(OptimaError):
    """A run folder that cannot be opened, resumed, read or written."""


class TrainingError(OptimaError):
    """A training step whose checklist failed: what would have been trained is not what was meant."""

    exit_code = 1
