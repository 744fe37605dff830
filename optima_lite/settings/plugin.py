"""Code of the user's own: one Python file beside the recipe, with any of four plain functions, found by their names.

    def questions(split: str, count: int, *, seed: int, start: int) -> list[Question]   # with task.name: plugin
    def score(answer: str | None, answers: Sequence[str]) -> float                      # in place of task.metric's
    def reward(question: Question, dialogue: Dialogue) -> float                         # times reward.plugin_weight
    def tool(question: Question, asked: str) -> str                                     # for steps with tool: plugin

What runs is what was hashed: the file is read once. A mistake in it is a ConfigError with file and line.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError
from ..records import Dialogue, Question

_CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {  # name -> how it is called, in words and in values
    "questions": ("questions(split, count, *, seed, start)", ("train", 1), {"seed": 0, "start": 0}),
    "score": ("score(answer, answers)", (None, ()), {}),
    "reward": ("reward(question, dialogue)", (None, None), {}),
    "tool": ("tool(question, asked)", (None, ""), {}),
}
NAMES = tuple(_CALLS)


@dataclass(frozen=True)
class Plugin:
    """A file that was loaded. offers: which of the functions are in it."""

    path: Path
    sha256: str
    offers: tuple[str, ...]
    module: ModuleType = field(repr=False, compare=False)

    def told(self, uses: Sequence[str]) -> str:
        """What somebody should know before it runs. uses: the functions that a recipe needs."""
        return f"runs code of yours: {self.path.name} ({', '.join(uses) or 'none of it is used'})"

    def questions(self, split: str, count: int, *, seed: int, start: int) -> list[Question]:
        """At most `count` questions of a split, from number `start` on. Raises ConfigError for anything else."""
        found = self._call("questions", split, count, seed=seed, start=start)
        if not isinstance(found, list) or not all(isinstance(question, Question) for question in found):
            raise self._wrong("questions", "must return a list of optima_lite.Question")
        for question in found:
            if problem := _malformed(question):
                raise self._wrong("questions", f"returned question {question.id!r}, whose {problem}")
        if not found or len(found) > count:
            raise self._wrong("questions", f"returned {len(found)} questions of {split!r}, asked for 1 to {count}")
        if len({question.id for question in found}) < len(found):
            raise self._wrong("questions", f"returned two questions of {split!r} with one id")
        return found

    def score(self, answer: str | None, answers: Sequence[str]) -> float:
        """What an answer is worth, from 0 to 1. Raises ConfigError for anything else."""
        return self._number("score", answer, answers, low=0.0, high=1.0)

    def reward(self, question: Question, dialogue: Dialogue) -> float:
        """What a finished dialogue is worth, before its weight. Raises ConfigError for what is no finite number."""
        return self._number("reward", question, dialogue)

    def tool(self, question: Question, asked: str) -> str:
        """What the tool says. Raises ConfigError for what is no text."""
        said = self._call("tool", question, asked)
        if not isinstance(said, str):
            raise self._wrong("tool", f"must return text, not {said!r:.60}")
        return said

    def _number(self, name: str, *given: object, low: float = -math.inf, high: float = math.inf) -> float:
        found = self._call(name, *given)
        number = float(found) if isinstance(found, int | float) else math.nan
        if not (math.isfinite(number) and low <= number <= high):
            limits = " from 0 to 1" if high == 1 else ""
            raise self._wrong(name, f"must return a finite number{limits}, not {found!r:.60}")
        return number

    def _call(self, name: str, *given: Any, **named: Any) -> Any:
        try:
            return getattr(self.module, name)(*given, **named)
        except Exception as error:  # whatever the user's code raises is told to the user
            raise _told(error, self.path) from error

    def _wrong(self, name: str, what: str) -> ConfigError:
        return ConfigError(f"{name} {what}", where=f"{self.path}:{_line(getattr(self.module, name))}")


def load(recipe: Path, name: str) -> Plugin:
    """The plugin of a recipe, from the recipe's own folder and nowhere else.

    Raises ConfigError for another place, a file that is not there or cannot be run, a file without any of the
    functions, and a function that cannot be called as it will be.
    """
    if Path(name).name != name or not name.endswith(".py"):
        hint = "put the file beside the recipe, and state its name alone, such as plugin: my_team.py"
        raise ConfigError(f"plugin: {name} is not the name of a Python file", where=recipe, hint=hint)
    return load_file(recipe.resolve().parent / name)


def load_file(path: Path, *, sha256: str | None = None) -> Plugin:
    """The plugin in a file; with a hash only if the file has that one: otherwise nothing in it is run.

    Raises ConfigError as `load`.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        what = f"the plugin cannot be read: {error.strerror}"
        raise ConfigError(what, where=path, hint="a plugin lies in the folder of its recipe") from error
    found = hashlib.sha256(source).hexdigest()
    if sha256 is not None and found != sha256:
        hint = f"put the file back as it was (SHA-256 {sha256[:12]}...), or start a new run"
        raise ConfigError("the plugin has changed since the run began", where=path, hint=hint)
    return _loaded(path, source, found)


@lru_cache(maxsize=32)  # a file is run once in a process, like any module
def _loaded(path: Path, source: bytes, sha256: str) -> Plugin:
    module = ModuleType(f"optima_lite_plugin_{sha256[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # whatever the user's code raises is told to the user
        raise _told(error, path) from error
    offers = tuple(name for name in NAMES if hasattr(module, name))
    if not offers:
        raise ConfigError(f"the plugin has none of the functions {', '.join(NAMES)}", where=path)
    for name in offers:
        _require_callable(getattr(module, name), name, path)
    return Plugin(path, sha256, offers, module)


def _require_callable(function: Any, name: str, path: Path) -> None:
    form, given, named = _CALLS[name]
    if not inspect.isfunction(function):
        raise ConfigError(f"{name} must be a function, to be called as {form}", where=path)
    try:
        inspect.signature(function).bind(*given, **named)
    except TypeError as error:
        what = f"{name} cannot be called as {form}: {error}"
        raise ConfigError(what, where=f"{path}:{_line(function)}") from error


def _malformed(question: Any) -> str | None:
    """What is wrong with the parts of a question; None for nothing."""
    texts = (question.id, question.text)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return "id and text must be texts"
    if not _are_texts(question.answers) or not question.answers:
        return "answers must be a tuple of texts, at least one"
    hands = question.contexts
    if not isinstance(hands, tuple) or len(hands) != 2 or not all(map(_are_texts, hands)):
        return "contexts must be two tuples of texts"
    return None


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


def _line(function: Any) -> int:
    return int(function.__code__.co_firstlineno)


def _told(error: Exception, path: Path) -> ConfigError:
    """What the user's code raised, at the last line of the file that led to it."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return ConfigError(f"is no Python: {error.msg}", where=f"{path}:{error.lineno}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}:{lines[-1]}" if lines else path
    return ConfigError(f"{type(error).__name__}: {error}", where=where, hint="this is code of yours: mend it there")
