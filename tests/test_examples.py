"""Every script in examples/ runs from an empty folder, here with settings that make it short."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TINY = (
    "training.questions=2",
    "training.epochs=1",
    "sampling.rollouts=2",
    "sampling.max_turn_tokens=16",
    "evaluation.questions=2",
    "evaluation.validation_questions=2",
    "evaluation.stop_if_none_right=false",
)
SAID = {
    "world": "after: ",
    "own_rows": "right: ",
    "team_of_three": "the facts are held by Ann and Ben",
}
KEEPS = {"world": ("training.on_worse=keep",), "own_rows": (), "team_of_three": ("search.searches=2",)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "own_rows" else []) for name in SAID]
)
def test_an_example_runs_from_an_empty_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "optima_lite.toml").write_text("threads = 1\nmax_batch_tokens = 8192\n")
    monkeypatch.setattr(sys, "argv", [name, *TINY, *KEEPS[name]])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out


def test_every_example_is_run_here_and_is_a_page() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAID)
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
