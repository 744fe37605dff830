"""What is deleted of a run is made again, and what follows from it too."""

from __future__ import annotations

from pathlib import Path

import pytest

from optima_lite.runs.redo import delete_what_follows
from optima_lite.runs.store import Run
from stored import Row, files, numbered, put

EVERYTHING = (
    "iteration_00/0_questions.json",
    "iteration_00/1_dialogues.jsonl",
    "iteration_00/2_rewards.jsonl",
    "iteration_00/4_adapter",
    "iteration_00/5_notes.json",
    "iteration_01/1_dialogues.jsonl",
    "iteration_01/4_adapter",
    "iteration_10/1_dialogues.jsonl",
    "evaluation/untrained_sampled.jsonl",
    "evaluation/untrained_sampled.json",
    "evaluation/single_agent_greedy.jsonl",
    "evaluation/iteration_00_sampled.jsonl",
    "evaluation/iteration_00_sampled.json",
    "evaluation/iteration_01_greedy.jsonl",
    "evaluation/iteration_10_sampled.jsonl",
    "summary.json",
)


@pytest.mark.parametrize(
    ("deleted", "gone"),
    [
        ("iteration_00/1_dialogues.jsonl", {p for p in EVERYTHING if "iteration" in p} - {EVERYTHING[0]}),
        ("iteration_01/1_dialogues.jsonl", {p for p in EVERYTHING if "iteration_01" in p or "iteration_10" in p}),
        ("iteration_10/1_dialogues.jsonl", {p for p in EVERYTHING if "iteration_10" in p}),
        ("evaluation/iteration_00_sampled.jsonl", {p for p in EVERYTHING if "iteration_00_sampled" in p}),
        ("evaluation/untrained_sampled.jsonl", {p for p in EVERYTHING if "untrained" in p}),
    ],
)
def test_deleting_a_stage_redoes_it_and_what_follows(run: Run, deleted: str, gone: set[str]) -> None:
    put(run, *EVERYTHING)
    (run.folder / deleted).unlink()
    assert run.rows(deleted.removesuffix(".jsonl"), Row, chunk=2, total=4) == []
    assert files(run) == set(EVERYTHING) - gone - {"summary.json"}


def test_what_follows_a_stage_cut_short_goes_too(run: Run) -> None:
    put(run, *EVERYTHING)
    (run.folder / "iteration_01/1_dialogues.jsonl").write_text('{"number":0,"text":""}\n{"number":1,"text":""}\n')
    assert len(run.rows("iteration_01/1_dialogues", Row, chunk=2, total=3)) == 2
    assert not (run.folder / "iteration_01/4_adapter").exists()
    assert "iteration_01/1_dialogues.jsonl" in files(run) and "evaluation/iteration_01_greedy.jsonl" not in files(run)


def test_a_missing_adapter_or_selection_is_followed_by_the_next_iteration_too(run: Run) -> None:
    put(run, *EVERYTHING)
    (run.folder / "iteration_00/4_adapter").rmdir()
    run.folder_stage("iteration_00/4_adapter", lambda folder: None)
    left = set(EVERYTHING[:4]) | {p for p in EVERYTHING if "untrained" in p or "single" in p}
    assert files(run) == left
    run.whole("iteration_00/3_demonstrations", Row, list)
    assert files(run) == left - {"iteration_00/4_adapter"} | {"iteration_00/3_demonstrations.jsonl"}


def test_a_complete_stage_deletes_nothing(run: Run) -> None:
    put(run, *EVERYTHING)
    (run.folder / "iteration_00/1_dialogues.jsonl").unlink()
    run.append("iteration_00/1_dialogues", numbered(range(4)))
    assert len(run.rows("iteration_00/1_dialogues", Row, chunk=3, total=4)) == 4
    assert files(run) == set(EVERYTHING)


def test_followers_are_deleted_from_the_last_to_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run, *EVERYTHING)
    order: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        order.append(path.relative_to(run.folder).as_posix())
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    delete_what_follows(run.folder, "iteration_00/4_adapter")
    assert order == [
        "summary.json",
        "evaluation/iteration_10_sampled.jsonl",
        "iteration_10/1_dialogues.jsonl",
        "evaluation/iteration_01_greedy.jsonl",
        "iteration_01/1_dialogues.jsonl",
        "evaluation/iteration_00_sampled.jsonl",
        "evaluation/iteration_00_sampled.json",
        "iteration_00/5_notes.json",
    ]
    assert not (run.folder / "iteration_01/4_adapter").exists()
