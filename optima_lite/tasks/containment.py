"""The inside of the sandbox: a program of its own, which walls itself in and then runs what it is given.

`sandbox` starts it in new namespaces (user, process, network, mount). It imports nothing of the package, because it
runs with the bare interpreter. Its standard input is a JSON object: `source`, `folder`, `readable` and `limits`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import sys

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
    """Reads the job, builds the walls, runs the source, and ends as it ended."""
    job = json.loads(sys.stdin.buffer.read())
    limits, folder = job["limits"], job["folder"]
    size = f"size={limits['files']},nr_inodes=1000,mode=0700".encode()
    _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _NO_SUID_NO_DEVICES, size))
    os.chdir(folder)
    with open("program.py", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(job["source"])
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)  # the first process of its namespace: everything ends with it
    _limit(limits)
    _allow(readable=job["readable"], writable=folder)
    _forbid_processes()
    environment = {"HOME": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "TMPDIR": folder}
    os.execve(sys.executable, [sys.executable, "-s", "-S", "-B", "program.py"], environment)


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
