"""What is said before the heavy libraries are read: here they are not even installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from optima_lite.settings.config import load_recipe

WITHOUT = """
import sys
for name in ("torch", "transformers", "trl", "peft", "datasets"):
    sys.modules[name] = None
from optima_lite.__main__ import main
main()
"""


def without_libraries(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program in a Python that cannot import what is heavy."""
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of the quickstart that has its first dialogues."""
    run = tmp_path / "runs" / "quickstart-seed0"
    (run / "iteration_00").mkdir(parents=True)
    (run / "iteration_00" / "1_dialogues.jsonl").write_text("")
    (run / "manifest.json").write_text(json.dumps({"recipe": load_recipe("quickstart").recipe.to_dict()}))
    return tmp_path


def test_a_folder_with_another_run_is_told(begun: Path) -> None:
    done = without_libraries("train", "quickstart", "training.epochs=5", "--run", "runs/quickstart-seed0", folder=begun)
    assert done.returncode == 2 and "training.epochs: 3 -> 5" in done.stderr


def test_a_row_that_cannot_be_read_is_told(begun: Path) -> None:
    (begun / "rows.jsonl").write_text('{"question": "Who?"}\n')
    done = without_libraries("train", "hotpotqa_jsonl", "task.path=rows.jsonl", folder=begun)
    assert done.returncode == 2 and "rows.jsonl:1: no field 'answer'" in done.stderr


@pytest.mark.parametrize("verb", ["eval", "chat", "scale"])
def test_an_iteration_that_there_is_not_is_told(begun: Path, verb: str) -> None:
    done = without_libraries(verb, "quickstart-seed0", "-i", "7", folder=begun)
    assert done.returncode == 2 and "there is no iteration 7" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "quickstart"), "quickstart: 3 iterations of 100 questions x 8 dialogues, model tiny, seed 0"),
        (("check", "quickstart"), "quickstart: what its run would do here, and what it needs"),
        (("eval", "quickstart-seed0"), "runs/quickstart-seed0: evaluating untrained"),
        (("chat", "quickstart-seed0"), "runs/quickstart-seed0: the libraries and the model are being loaded"),
    ],
)
def test_the_first_line_comes_at_once(begun: Path, arguments: tuple[str, ...], line: str) -> None:
    done = without_libraries(*arguments, folder=begun)
    assert done.stdout.startswith(line), done.stdout
    assert "ModuleNotFoundError" in done.stderr, "and then the libraries were asked for"
