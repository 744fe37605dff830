"""A program and the test of it, in a process each: the test calls, the program answers, and plain data passes alone.

Who holds the test decides, so the program can reach neither the test nor the verdict, and what it answers is data that
cannot do anything where it arrives: an answer that calls itself equal to everything is a number or a list there, or
nothing that a test can compare. `judge` is the test's side, `serve` the program's. Both run with the bare interpreter,
behind the walls of `containment`, so this file imports nothing of the package.
"""

from __future__ import annotations

import ast
import builtins
import json
import linecache
import os
import sys
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from importlib import import_module
from itertools import islice
from typing import Any, BinaryIO, NoReturn

PROGRAM, TEST = "program.py", "test.py"  # what errors call them
_LONGEST = 16 << 20  # bytes of an answer
_MOST_ITEMS = 100_000  # of something that is iterated over
_MUTABLE = (list, dict, set, bytearray, deque)
_EXACT = {"Fraction": "fractions", "Decimal": "decimal", "date": "datetime", "datetime": "datetime"}


def encode(value: Any, unknown: Callable[[Any], Any]) -> Any:
    """A value as JSON that tells its kind: numbers and text as they are, an object with one key for the rest.

    unknown: what stands for anything that is no plain data. Raises RecursionError for what holds itself.
    """

    def all_of(values: Any) -> list[Any]:
        return [encode(item, unknown) for item in values]

    kind = type(value).__name__
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) < value < 2**63 else {"int": hex(value)}
    if isinstance(value, list):
        return all_of(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {kind if kind == "bytearray" else "bytes": value.hex()}
    if isinstance(value, tuple | set | frozenset | deque):
        plain = next(one for one in (tuple, set, frozenset, deque) if isinstance(value, one))
        return {plain.__name__: all_of(value)}
    if isinstance(value, dict):
        return {"dict": [[encode(key, unknown), encode(item, unknown)] for key, item in value.items()]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if type(value).__module__ == _EXACT.get(kind):
        return {kind: value.isoformat() if hasattr(value, "isoformat") else str(value)}
    if isinstance(value, Iterator | Set) or type(value).__name__ == "dict_values":
        return {"iterator": all_of(islice(iter(value), _MOST_ITEMS))}
    return unknown(value)


def decode(value: Any, known: Callable[[int], Any]) -> Any:
    """The value that `encode` made JSON of. known: what stands for a number that `unknown` gave. Raises ValueError or
    TypeError for JSON that it did not make."""
    if isinstance(value, list):
        return [decode(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "known":
        return known(int(held))
    if kind == "int":
        return int(held, 16)
    if kind == "complex":
        return complex(*held)
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(held) if kind == "bytes" else bytearray.fromhex(held)
    if kind == "range":
        return range(*held)
    if kind in _EXACT:
        made = getattr(import_module(_EXACT[kind]), kind)
        return made.fromisoformat(held) if hasattr(made, "fromisoformat") else made(held)
    if kind == "dict":
        return {decode(key, known): decode(item, known) for key, item in held}
    kinds: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque, "iterator": iter}
    if kind not in kinds:
        raise ValueError(f"{kind!r} is no kind of value")
    return kinds[kind]([decode(item, known) for item in held])


# --- The program's side ---------------------------------------------------------------------------


def serve(calls: int, replies: int) -> NoReturn:
    """Runs the program in the working folder to its last line, then answers calls, to the end of input.

    calls, replies: descriptors of pipes. A program that fails says so and ends with code 1.
    """
    kept: dict[int, Any] = {}

    def unknown(value: Any) -> dict[str, int]:
        kept[id(value)] = value  # so that no other gets its number
        return {"known": id(value)}

    def reply(answer: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(replies, data) :]

    sys.argv = [PROGRAM]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        with open(PROGRAM, encoding="utf-8", errors="surrogatepass") as file:
            exec(compile(file.read(), PROGRAM, "exec"), module.__dict__)
    except Exception:
        print(_last_error(), file=sys.stderr)
        sys.exit(1)
    reply("loaded")
    for line in os.fdopen(calls, "rb"):
        what, *rest = json.loads(line)
        try:
            if what == "names":
                found = {name: vars(module)[name] for name in rest[0] if name in vars(module)}
                answer: Any = {name: encode(value, unknown) for name, value in found.items()}
            elif what == "get":
                answer = encode(getattr(kept[rest[0]], rest[1]), unknown)
            else:
                given = [decode(item, kept.__getitem__) for item in rest[1]]
                named = {name: decode(item, kept.__getitem__) for name, item in rest[2].items()}
                result = kept[rest[0]](*given, **named)
                answer = encode(result, unknown), [encode(item, unknown) for item in given]
            reply(["value", answer])
        except Exception as error:
            reply(["error", type(error).__name__, str(error), _last_error()])
    sys.exit(0)


def _last_error() -> str:
    """The error at hand as it is usually told, but for the lines of this file."""
    told = traceback.TracebackException(*sys.exc_info())
    while told.stack and told.stack[0].filename not in (PROGRAM, TEST):
        told.stack.pop(0)
    return "".join(told.format()).rstrip("\n")


# --- The test's side ------------------------------------------------------------------------------


class Link:
    """The program, as the test's side speaks with it."""

    def __init__(self, calls: BinaryIO, replies: BinaryIO) -> None:
        self._calls, self._replies = calls, replies
        self._seen: dict[int, Remote] = {}

    def receive(self) -> Any:
        """The next thing that the program says. Raises EOFError when it says no more."""
        line = self._replies.readline(_LONGEST + 1)
        if len(line) > _LONGEST:
            raise ValueError(f"an answer of more than {_LONGEST >> 20} MB")
        if not line.endswith(b"\n"):
            raise EOFError("the program has ended")
        return json.loads(line)

    def ask(self, *request: Any) -> Any:
        """The answer to a request, as JSON. Raises what the program has raised."""
        try:
            self._calls.write(json.dumps(request).encode() + b"\n")
            self._calls.flush()
        except BrokenPipeError:
            raise EOFError("the program has ended") from None
        outcome, *rest = self.receive()
        if outcome == "value":
            return rest[0]
        name, message, told = map(str, rest)
        raise _raised(name, message, told)

    def names(self, wanted: Sequence[str]) -> dict[str, Any]:
        """What the program calls by these names, as far as there is such a thing."""
        found = self.ask("names", wanted)
        return {name: self.decode(found[name]) for name in wanted if name in found}

    def decode(self, value: Any) -> Any:
        """What an answer means here."""
        return decode(value, self._remote)

    def _remote(self, number: int) -> Remote:
        return self._seen.setdefault(number, Remote(self, number))

    def call(self, number: int, given: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a function of the program returns. What it has put into the lists and the like that it was given is put
        there, too."""
        sent = [encode(item, _handed) for item in given]
        value, after = self.ask("call", number, sent, {name: encode(item, _handed) for name, item in named.items()})
        for mine, before, now in zip(given, sent, after, strict=True):
            if isinstance(mine, _MUTABLE) and before != now:
                _fill(mine, self.decode(now))
        return self.decode(value)


def _fill(mine: Any, changed: Any) -> None:
    """Puts into something of the test's what the program has put into its own."""
    if type(changed) is type(mine):
        mine.clear()
        mine.update(changed) if isinstance(mine, dict | set) else mine.extend(changed)


class Remote:
    """Something of the program's that is no plain data: a function, a class, an object of one. It can be called, looked
    into and handed back; it equals itself alone."""

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._link.call(self._number, given, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.decode(self._link.ask("get", self._number, name))

    def __repr__(self) -> str:
        return "<an object of the program's>"


def _handed(value: Any) -> dict[str, int]:
    if isinstance(value, Remote):
        return {"known": value._number}
    raise TypeError(f"a test hands plain data to the program, not {type(value).__name__}")


def _raised(name: str, message: str, told: str) -> Exception:
    """The program's exception as one of Python's own of that name, with what the program has told of it."""
    kind: Any = getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    try:
        error: Exception = kind(message) if known else RuntimeError(f"{name}: {message}")
    except TypeError:  # a UnicodeDecodeError wants more
        error = RuntimeError(f"{name}: {message}")
    error.add_note(told)
    return error


def judge(before: str, test: str, calls: BinaryIO, replies: BinaryIO) -> bool:
    """Whether a program passes: whether it was loaded, and the test was run to its last line.

    before: what both the program and the test have before them, such as imports. Without a test being loaded is enough.
    What went wrong is printed.
    """
    link = Link(calls, replies)
    linecache.cache[TEST] = (len(test), None, test.splitlines(keepends=True), TEST)
    try:
        if link.receive() != "loaded":
            return False
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(before, "before.py", "exec"), names)
        names |= _missing(test, names, link)
        exec(compile(test, TEST, "exec"), names)
    except EOFError:  # it has told why itself, or it has left
        return False
    except Exception as error:
        print(_told(error), file=sys.stderr)
        return False
    return True


def _told(error: Exception) -> str:
    """An error in a test: what the program has told of it, where it came from there, else where the test failed."""
    return "\n".join(getattr(error, "__notes__", ())) or _last_error()


def _missing(test: str, names: Mapping[str, Any], link: Link) -> dict[str, Any]:
    """What a test speaks of and neither it nor what stands before it has: modules of Python's own, and what the program
    has defined. A name of Python's own is the program's where the test speaks of nothing else of the program's: else a
    program with an `abs` or a `set` of its own would measure itself."""
    tree = ast.parse(test)
    spoken = dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    wanted = [name for name in spoken if name not in names]
    looked_into = {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    modules = [name for name in wanted if name in looked_into and name in sys.stdlib_module_names]
    others = [name for name in wanted if name not in modules]
    found = link.names([name for name in others if not hasattr(builtins, name)])
    found = found or link.names([name for name in others if hasattr(builtins, name)])
    return found | {name: import_module(name) for name in modules}
