"""What a model wrote can neither get out nor go on."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from optima_lite.tasks import sandbox
from optima_lite.tasks.sandbox import Limits, Verdict, run

QUICK = Limits(seconds=15, cpu=2, memory=128 << 20)  # a busy machine is slow
walled = pytest.mark.skipif(bool(sandbox.missing()), reason=str(sandbox.missing()))


@walled
@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("assert sorted([2, 1]) == [1, 2]", Verdict.PASSED),
        ("print('a line that is flushed late')", Verdict.PASSED),
        ("import collections, heapq, itertools, json, math, random, re, typing", Verdict.PASSED),
        ("import threading; t = threading.Thread(target=print); t.start(); t.join()", Verdict.PASSED),
        ("assert 1 == 2", Verdict.FAILED),
        ("def f(:", Verdict.FAILED),
        ("raise SystemExit(0)", Verdict.FAILED),
        ("import os; os._exit(0)", Verdict.FAILED),
        ("print('\ud800')", Verdict.FAILED),
        ("x = '\x00'", Verdict.FAILED),
        ("while True: pass", Verdict.TIMEOUT),
        ("import time; time.sleep(60)", Verdict.TIMEOUT),
        (
            "import os; os.read(0, 1)\nos.pause() if hasattr(os, 'pause') else __import__('signal').pause()",
            Verdict.TIMEOUT,
        ),
        ("x = bytearray(10 << 30)", Verdict.MEMORY),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", Verdict.MEMORY),
        ("while True: print('x' * 1000)", Verdict.OUTPUT),
    ],
)
def test_a_program_ends_as_it_should(source: str, verdict: Verdict) -> None:
    limits = replace(QUICK, seconds=1.5) if verdict is Verdict.TIMEOUT else QUICK
    assert run(source, limits).verdict is verdict


@walled
def test_no_process_can_be_started() -> None:
    """Tried a few times only: a wall that is not there must not take the machine with it."""
    source = (
        "import os\nfor _ in range(3):\n    try: os.fork(); print('forked')\n    except PermissionError: print('no')"
    )
    assert run(source, QUICK).output == "no\n" * 3
    assert "PermissionError" in run("import subprocess; subprocess.run(['/bin/true'])", QUICK).output


@walled
def test_only_its_own_folder_can_be_written_and_only_the_interpreter_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("42")
    assert run("open('mine', 'w').write('x'); assert open('mine').read() == 'x'", QUICK).verdict is Verdict.PASSED
    for source in (
        f"print(open({str(secret)!r}).read())",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.unlink({str(secret)!r})",
        f"import os; print(os.listdir({str(tmp_path)!r}))",
        "print(open('/etc/passwd').read())",
        "print(open('/proc/1/environ').read())",
    ):
        outcome = run(source, QUICK)
        assert outcome.verdict is Verdict.FAILED and "PermissionError" in outcome.output, source
    assert list(tmp_path.iterdir()) == [secret]


@walled
def test_the_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    outcome = run("import os; print(sorted(os.environ))", QUICK)
    assert outcome.verdict is Verdict.PASSED
    assert outcome.output.strip() == "['HOME', 'LANG', 'PYTHONHASHSEED', 'TMPDIR']"


@walled
def test_no_socket_reaches_anything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)", QUICK)
    assert outcome.verdict is Verdict.FAILED and "unreachable" in outcome.output


@walled
@pytest.mark.parametrize(
    "source",
    [
        "f = open('a', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "for i in range(100_000): open(f'a{i}', 'wb').write(bytes(4096))",
    ],
)
def test_its_files_are_bounded_and_gone_afterwards(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "No space left" in run(source, QUICK).output
    assert list(tmp_path.iterdir()) == []


@walled
def test_nothing_outlives_the_call() -> None:
    for source in (
        "import time; time.sleep(60)",
        "import os, time; os.setsid() if os.getpid() != os.getsid(0) else 0\ntime.sleep(60)",
    ):
        run(source, Limits(seconds=0.5))
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "containment.py" not in listing.replace(" ".join(sys.argv), "") and "program.py" not in listing


@walled
def test_the_end_of_the_output_is_kept() -> None:
    assert run("print('x' * 5000)\nprint('last')", QUICK).output.endswith("last\n")
    assert len(run("print('x' * 5000)", QUICK).output) == 2000


def test_without_walls_nothing_runs_and_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "unshare"
    fake.write_text("#!/bin/sh\necho unshare failed: Operation not permitted\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    assert "Operation not permitted" in str(sandbox.missing.__wrapped__())
    monkeypatch.setenv("PATH", "")
    assert "util-linux" in str(sandbox.missing.__wrapped__())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.missing.__wrapped__() == "running generated code needs Linux"
