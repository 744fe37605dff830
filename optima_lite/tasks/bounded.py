"""A function called in a process of its own, under a time limit that holds whatever it is busy with.

Some questions have no answer in reasonable time: are two formulas equal, what is 9^(9^(9^9))? A thread cannot be
stopped, and a Python signal handler waits until a long multiplication is done. The worker process has neither trouble:
before each call it sets the kernel's own timer, whose default action ends the process. The caller then reads the end of
the pipe, counts one more undecided call, and starts a fresh worker when next asked. Arguments and results are JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

_MEMORY = 4 * 2**30  # bytes of address space; a worker that wants more dies, which counts as undecided
_PATIENCE = 10  # wall-clock seconds for each second of the limit: a busy machine decides no comparison


class Worker:
    """Calls of one function, one at a time, from any thread; the process starts with the first call.

    function: `package.module:name`. seconds: processor time of one call. undecided: calls so far without a result,
    because they took too long, wanted too much memory or raised an exception.
    """

    def __init__(self, function: str, *, seconds: float) -> None:
        self.function = function
        self.seconds = seconds
        self.undecided = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The function's result, or None for a call that came to none. Raises RuntimeError if no worker starts."""
        with self._lock:
            process, self._process = self._process or self._started(), None
            reply = _asked(process, json.dumps(arguments).encode() + b"\n")
            if reply:
                self._process = process  # only now: the reply to a call that was interrupted must not answer the next
                return json.loads(reply)
            _end(process)
            self.undecided += 1
            return None

    def _started(self) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parents[2]  # the folder that holds it, wherever the caller stands
        command = f"from {__name__} import serve; serve({self.function!r}, {self.seconds!r})"
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the caller, who closes the pipe
        )
        weakref.finalize(self, _end, process)
        if _asked(process, b""):
            return process
        _end(process)
        raise RuntimeError(f"no worker for {self.function}; its own message stands above")


def serve(function: str, seconds: float) -> None:
    """The worker's side: says that it is ready, then answers a line of arguments with a line of result, to the end of
    input."""
    import resource  # only here: Windows has none, and what needs no limit works there

    module, _, name = function.partition(":")
    called = getattr(importlib.import_module(module), name)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # whatever a library prints stays out of the replies and off the terminal
        os.dup2(silence, stream)
    with contextlib.suppress(ValueError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        _limit(seconds)
        reply = json.dumps(called(*json.loads(line)))
        _limit(0)
        print(reply, file=replies, flush=True)


def _limit(seconds: float) -> None:
    """Sets both timers, or for 0 stops them; no handler is installed, so running out ends the process."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _PATIENCE)


def _asked(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """The worker's next line; empty when it has ended."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin and process.stdout
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # half a line was still on its way
        process.stdin.close()
