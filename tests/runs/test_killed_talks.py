"""Whatever a team looks like: a run that is killed between any two of its steps leaves equal records in the end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optima_lite.records import Dialogue, Question, Rollouts, Turn
from optima_lite.runs.store import Run
from optima_lite.settings.workflow import Workflow
from optima_lite.team.dialogue import Cue, converse
from random_teams import ASKED, Speaker, teams, workflow
from stored import MANIFEST

QUESTIONS = [replace(ASKED, id=f"q{number}") for number in range(4)]


class Killed(BaseException):
    """The power went out."""


class Watched(Speaker):
    """A speaker in the middle of whose talk the process dies: before it says the turn of this number."""

    def __init__(self, team: Workflow, seed: int, dies_at: int) -> None:
        super().__init__(team, seed)
        self.left = dies_at

    def turn(self, cue: Cue) -> Turn:
        if self.left == 0:
            raise Killed
        self.left -= 1
        found = super().turn(cue)
        return replace(found, text=f"{found.text} {cue.dialogue.question}")  # questions are not told the same


def stored(folder: Path, team: Workflow, seed: int, dies_at: int = -1) -> tuple[bytes, int]:
    """What a run has stored of talks about four questions, two at a time, and the turns that it took."""
    speaker = Watched(team, seed, dies_at)

    def work(chunk: Sequence[Question]) -> list[Rollouts]:
        done = converse([Dialogue(one.id, 0) for one in chunk], workflow=team, speak=speaker)
        return [Rollouts(one, (dialogue,)) for one, dialogue in zip(chunk, done, strict=True)]

    with Run.open(folder, MANIFEST) as run:
        run.chunks("iteration_00/1_dialogues", Rollouts, QUESTIONS, size=2, work=partial(map, work))
        said = dies_at - speaker.left if dies_at >= 0 else -1 - speaker.left
        return (folder / "iteration_00/1_dialogues.jsonl").read_bytes(), said


@settings(max_examples=30)
@given(teams(), st.integers(0, 99), st.integers(0, 30))
def test_a_kill_between_any_two_steps_changes_no_record(team: dict[str, Any], seed: int, step: int) -> None:
    found = workflow(team)
    with tempfile.TemporaryDirectory() as scratch:
        whole, turns = stored(Path(scratch, "whole"), found, seed)
        folder = Path(scratch, "killed")
        with pytest.raises(Killed):
            stored(folder, found, seed, dies_at=step % turns)
        again, _ = stored(folder, found, seed)
        assert again == whole
