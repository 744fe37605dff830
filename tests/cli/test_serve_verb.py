"""`serve` refuses at once, before anything heavy is read, what cannot be served."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support import call

REQUIRED = pytest.importorskip("fastapi", reason="the extra `serve` is not installed")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that is a run as far as one can see from outside."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").write_text('{"recipe": {}, "format": 1}')
    return tmp_path / "run"


def test_what_cannot_be_served_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTIMA_LITE_API_KEY", raising=False)
    monkeypatch.setattr("optima_lite.cli.serving.import_libraries", lambda: pytest.fail("too late to refuse"))
    missing = call("serve", run.parent / "nowhere")
    assert missing.code == 2 and "no such run folder" in missing.err
    open_to_all = call("serve", run, "--iteration", "untrained", "--host", "0.0.0.0")
    assert open_to_all.code == 2 and "OPTIMA_LITE_API_KEY" in open_to_all.err
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = call("serve", run, "--iteration", "untrained", "--port", str(other.getsockname()[1]))
    assert taken.code == 2 and "cannot be taken" in taken.err
    wrong = call("serve", run, "--iteration", "untrained", "--origin", "http://a.example/")
    assert wrong.code == 2 and "command line: origin: must be origins" in wrong.err
    monkeypatch.setattr("optima_lite.cli.serving.find_spec", lambda name: None)
    bare = call("serve", run, "--iteration", "untrained")
    assert bare.code == 2 and "pip install '.[serve]'" in bare.err


def test_the_machine_file_says_what_no_flag_does(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ports are taken, so that the refusal tells which one was meant."""
    monkeypatch.setattr("optima_lite.cli.serving.import_libraries", lambda: pytest.fail("too late to refuse"))
    machine = run.parent / "m.toml"
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        stated, flag = (str(line.getsockname()[1]) for line in (one, other))
        machine.write_text(f"[serve]\nport = {stated}\n")
        usual = ("serve", run, "--iteration", "untrained", "--config", machine)
        assert f"127.0.0.1:{stated} cannot be taken" in call(*usual).err
        assert f"127.0.0.1:{flag} cannot be taken" in call(*usual, "--port", flag).err
