"""The inside of the sandbox: a program of its own, which starts what it is given behind walls, and tests it.

`sandbox` starts it in new namespaces (user, process, network, mount), as their first process. It imports nothing of the
package, because it runs with the bare interpreter. Its standard input is a JSON object: `program`, `before` and `test`
(see `calls.judge`), `calls` (the text of that file), `folder`, `readable` and `limits`. It ends with 0 where the
program passes, which nothing else can bring about: it holds the test, it is the first process, to which the others can
send no signal, and the program is in a domain of Landlock of its own, from which it can neither trace this process nor
read its memory and its files.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import sys
import time
from typing import Any

_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_NO_NEW_PRIVILEGES = 38
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_FILE = 1 << 0 | 1 << 1 | 1 << 2  # what may be allowed for something that is not a folder
_SET_SECCOMP, _FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
_CLONE_THREAD = 0x00010000
_SYSTEM_CALLS = {  # architecture: its number, and how it calls clone, clone3, and fork and vfork where it has them
    "x86_64": (0xC000003E, 56, 435, (57, 58)),
    "aarch64": (0xC00000B7, 220, 435, ()),
}
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1}  # rights on files that a version of Landlock knows
_HANDLED_NOW = (1 << 15) - 1
_NO_SUID_NO_DEVICES = 2 | 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def main() -> None:
    """Reads the job, starts the program, builds the walls around either side, and ends as the test did."""
    job = json.loads(sys.stdin.buffer.read())
    limits, folder = job["limits"], job["folder"]
    size = f"size={limits['files']},nr_inodes=1000,mode=0700".encode()
    _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _NO_SUID_NO_DEVICES, size))
    os.chdir(folder)
    with open("program.py", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(f"{job['before']}\n{job['program']}")
    asked, calls = os.pipe()
    replies, answered = os.pipe()
    child = os.fork()
    _limit(limits)  # of either side; a domain each, too, so that neither can trace the other
    _allow(readable=job["readable"], writable=folder)
    _forbid_processes()
    if not child:
        _become_the_program(job["calls"], asked, answered, folder)
    os.close(asked)
    os.close(answered)
    side: dict[str, Any] = {"__name__": "calls"}
    exec(compile(job["calls"], "calls.py", "exec"), side)
    with os.fdopen(calls, "wb") as to_program, os.fdopen(replies, "rb") as from_program:
        passed = side["judge"](job["before"], job["test"], to_program, from_program)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed else _ending(child))  # everything in the namespace ends with its first process


def _become_the_program(calls: str, asked: int, answered: int, folder: str) -> None:
    """From here on this process knows what it is given here, and nothing of the test."""
    for pipe in (asked, answered):
        os.set_inheritable(pipe, True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    environment = {"HOME": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "TMPDIR": folder}
    side = f"{calls}\nserve({asked}, {answered})\n"
    os.execve(sys.executable, [sys.executable, "-s", "-S", "-B", "-c", side], environment)


def _ending(child: int) -> int:
    """The exit code for a test that was not passed: how the program has ended, where that was by a signal."""
    for _ in range(20):  # its pipes are closed a moment before it can be asked for its end
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) % 256 or 1
        time.sleep(0.005)
    return 1


def _limit(limits: dict[str, int]) -> None:
    for name, value in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_FSIZE, limits["files"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))


def _allow(*, readable: list[str], writable: str) -> None:
    """From here on only these places can be read, and only `writable` written, by this process and its children."""
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    _checked(version)
    handled = _HANDLED.get(version, _HANDLED_NOW)
    attributes = _Ruleset(handled)
    rules = _libc.syscall(
        _CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), ctypes.c_uint32(0)
    )
    _checked(rules)
    for path, access in [(writable, handled), ("/dev/null", _FILE), *((path, _READ) for path in readable)]:
        if os.path.exists(path):
            place = os.open(path, os.O_PATH)
            rule = _PathBeneath(access if os.path.isdir(path) else access & _FILE, place)
            _checked(
                _libc.syscall(
                    _ADD_RULE,
                    ctypes.c_int(rules),
                    ctypes.c_int(_PATH_BENEATH),
                    ctypes.byref(rule),
                    ctypes.c_uint32(0),
                )
            )
            os.close(place)
    _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0)))
    os.close(rules)


def _forbid_processes() -> None:
    """No process can be started from here on; threads can. A limit on their number would not bind root."""
    architecture, clone, clone3, forks = _SYSTEM_CALLS[os.uname().machine]
    load, equal, has, give = 0x20, 0x15, 0x45, 0x06  # BPF: load a word, compare, test bits, return
    denied, unknown, allowed = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x7FFF0000
    kill = 0x80000000
    lines = [
        (load, 0, 0, 4),  # the architecture: another one would have other numbers
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the system call
        (equal, 0, 1, clone3),
        (give, 0, 0, unknown),  # its flags cannot be read here; the C library then calls clone
        *(line for number in forks for line in ((equal, 0, 1, number), (give, 0, 0, denied))),
        (equal, 0, 3, clone),
        (load, 0, 0, 16),  # its flags
        (has, 1, 0, _CLONE_THREAD),
        (give, 0, 0, denied),
        (give, 0, 0, allowed),
    ]
    filters = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), filters)
    _checked(_libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))


def _checked(result: int) -> None:
    """Nothing runs where a wall is missing."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
