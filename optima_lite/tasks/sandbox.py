"""Runs Python that a model wrote, in a process that can reach nothing: no network, no file but its own, no secret, and
not the test that it is to pass.

Five walls of the Linux kernel: namespaces (processes, network, mounts), Landlock (files), seccomp (no new processes), a
file system in memory of bounded size, and resource limits; and a supervisor that counts output and seconds. Where the
kernel lacks one of them nothing runs; `missing` says what. They contain mistakes and mischief of a model; they are no
fortress against somebody who knows a hole in the kernel. The test runs in a process of its own, which calls the program
and alone has a say in the verdict; see `calls`.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero")
_TAIL = 2_000  # characters of output that are kept


class Verdict(enum.StrEnum):
    """How a program ended."""

    PASSED = "passed"
    FAILED = "failed"  # an error, a wrong exit, or an end before the last line
    TIMEOUT = "timeout"  # processor seconds or the clock
    MEMORY = "memory"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one program. seconds: by the clock; cpu: processor seconds. memory, files, output: bytes."""

    seconds: float = 10.0
    cpu: int = 5
    memory: int = 512 << 20
    files: int = 16 << 20
    output: int = 64 << 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program. output: the end of what it printed, errors included."""

    verdict: Verdict
    output: str = ""


@functools.cache
def missing() -> str | None:
    """What this machine lacks to contain a program, in a few words; None where it lacks nothing."""
    if sys.platform != "linux":
        return "running generated code needs Linux"
    if shutil.which("unshare") is None:
        return "running generated code needs the program `unshare` (package util-linux)"
    tried = run("", Limits())
    if tried.verdict is Verdict.PASSED:
        return None
    reason = tried.output.strip().splitlines()[-1:] or ["the trial run did not end well"]
    return f"this kernel gives no user namespaces or no Landlock to this process ({reason[0]})"


def run(program: str, limits: Limits, *, before: str = "", test: str = "") -> Outcome:
    """Runs a program to its last line, then the test of it, or to a limit, which each has for itself.

    program: Python that needs the standard library alone. before: what stands before both, such as imports. It passes
    when the last line of the test was reached (without a test: its own): a program that leaves early does not, whatever
    its exit code. Nothing that it does outlives this call.
    """
    with tempfile.TemporaryDirectory(prefix="optima-lite-") as folder:
        job = {
            "program": program,
            "before": before,
            "test": test,
            "calls": Path(__file__).with_name("calls.py").read_text(encoding="utf-8"),
            "folder": folder,
            "readable": [*_READABLE, sys.base_prefix, *_library_folders()],
            "limits": asdict(limits),
        }
        process = _start()
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it gave up before it read; what it printed tells why
                process.stdin.write(json.dumps(job).encode())
                process.stdin.close()
            verdict, printed = _watch(process, limits)
        finally:
            _end(process)
    text = printed.decode("utf-8", "replace")
    if verdict is None:
        verdict = _verdict(process.returncode, text)
    # An error names the file it is in; the folder has another name each time.
    return Outcome(verdict, text.replace(f"{folder}/", "")[-_TAIL:])


def _library_folders() -> list[str]:
    """Where the bare interpreter has its standard library, when that is not below its prefix."""
    return sorted({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


def _start() -> subprocess.Popen[bytes]:
    interpreter = os.path.realpath(sys.executable)
    inside = Path(__file__).with_name("containment.py")
    walls = ["--user", "--map-root-user", "--net", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL"]
    return subprocess.Popen(
        ["unshare", *walls, interpreter, "-I", "-S", str(inside)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": os.defpath},
        start_new_session=True,  # Ctrl-C is for the caller
        bufsize=0,
    )


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> tuple[Verdict | None, bytes]:
    """What was printed, and the limit that was met; None for a program that ended by itself."""
    assert process.stdout is not None
    printed = bytearray()
    deadline = time.monotonic() + limits.seconds
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([process.stdout], [], [], left)
        some = process.stdout.read(1 << 16) if ready else b""
        if ready and not some:
            process.wait()
            return None, bytes(printed)
        printed += some
        if len(printed) > limits.output:
            return Verdict.OUTPUT, bytes(printed)
    return Verdict.TIMEOUT, bytes(printed)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends everything that was started: with the first process of the namespace, which is in this group, all die."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _verdict(code: int, text: str) -> Verdict:
    if code == 0:
        return Verdict.PASSED
    if "MemoryError" in text[-_TAIL:]:
        return Verdict.MEMORY
    return Verdict.TIMEOUT if code in _CPU_CODES else Verdict.FAILED


_CPU_CODES = {256 - 24, 256 - 9}  # SIGXCPU, and SIGKILL after it, as the inside hands them on
