"""Standard streams of every kind: a reader that has enough, a full device, closed ones, and text they cannot hold."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support import Finished

PROGRAM = f"{shlex.quote(sys.executable)} -m optima_lite"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Exit code of the first program of a pipe, what came out, and what was said aside."""
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=os.environ | environment,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


SLOW = pytest.mark.slow  # it imports all libraries


@pytest.mark.parametrize("verb", ["--help", "recipes show quickstart", pytest.param("check quickstart", marks=SLOW)])
def test_a_reader_that_has_enough_is_no_mistake(verb: str) -> None:
    code, _, said = shell(f"{PROGRAM} {verb} | head -c 1")
    assert (code, said) == (0, "")


@needs_full
@pytest.mark.parametrize("verb", ["--help", "recipes show quickstart"])
def test_a_full_device_is_told(verb: str) -> None:
    code, _, said = shell(f"{PROGRAM} {verb} > /dev/full")
    assert (code, said) == (2, "error the output cannot be written: no space is left there\n")


def test_closed_streams_are_no_mistake() -> None:
    assert shell(f"{PROGRAM} recipes list >&- 2>&- <&-") == (0, "", "")


@pytest.mark.slow
def test_a_chat_without_input_ends(finished: Finished) -> None:
    for closed in ("<&-", "< /dev/null"):
        code, out, _ = shell(f"{PROGRAM} chat {shlex.quote(str(finished.folder))} {closed}")
        assert code == 0 and "Question:" in out


def test_letters_that_the_locale_lacks_are_escaped(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    folder = tmp_path / "Läufe"
    folder.mkdir()
    code, _, said = shell(f"{PROGRAM} report {shlex.quote(str(folder))}", **ascii_only)
    assert code == 2 and "is not a run folder" in said
    (tmp_path / "m.toml").write_text('run_folder = "Läufe-2"\n', encoding="utf-8")
    line = f"cd {shlex.quote(str(tmp_path))}; {PROGRAM} runs list --config m.toml"
    code, out, said = shell(line, **ascii_only)
    assert code in (0, 2), out + said
