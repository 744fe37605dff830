"""The examples that ask a served team run as they stand; those of frameworks where these are installed."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from asking import KEY, Site

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/serving"
NEEDS = {
    "plain_http": (),
    "openai_client": ("openai",),
    "langgraph_team": ("langgraph", "langchain_openai"),
    "autogen_team": ("autogen_agentchat", "autogen_ext"),
    "agent_framework_team": ("agent_framework", "agent_framework_orchestrations"),
}


@pytest.fixture
def _pointed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{site.port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.mark.usefixtures("_pointed")
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_asks_and_is_answered(name: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f"{package} is not installed; the example says what to install")
    before = site.service.engine.generator.counts.sampled
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() and site.service.engine.generator.counts.sampled > before


@pytest.mark.usefixtures("_pointed")
def test_curl_asks_and_is_answered() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(["sh", EXAMPLES / "ask.sh"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and '"finish_reason"' in done.stdout, done.stdout + done.stderr


@pytest.mark.usefixtures("_pointed")
def test_javascript_asks_and_is_answered(tmp_path: Path) -> None:
    """With the openai package of npm where OPENAI_NPM names a folder that has it; else it is only read."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = shutil.copy(EXAMPLES / "openai_client.mjs", tmp_path)
    packages = os.environ.get("OPENAI_NPM")
    if packages is not None:
        (tmp_path / "node_modules").symlink_to(Path(packages) / "node_modules")
    command = ["node", *([] if packages else ["--check"]), script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and (packages is None or "answer:" in done.stdout), done.stdout + done.stderr


def test_every_example_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == NEEDS.keys()
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix in (".sh", ".mjs")} == {
        "ask.sh",
        "openai_client.mjs",
    }
