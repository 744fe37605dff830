"""Curves: what is measured, that each number goes out once, and that a sink that fails costs a note."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import made_runs
import pytest

from optima_lite.errors import ConfigError
from optima_lite.outlets import sinks, tracking
from optima_lite.outlets.measurements import measurements
from optima_lite.outlets.sinks import Known, SinkError
from optima_lite.outlets.tracking import track, tracker
from optima_lite.runs.evaluations import evaluations
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.runs.progress import Evaluated, Event, Note
from optima_lite.runs.store import Run
from support import call


class Remembering:
    """A sink that keeps what it is sent. failing: the step at which it does."""

    sent: ClassVar[list[tuple[int, dict[str, float]]]] = []
    begun: ClassVar[list[str | None]] = []
    failing: ClassVar[int | None] = None

    def __init__(self, about: Known) -> None:
        self.begun.append(about.known)
        self.known: str | None = about.known or "run-1"

    def send(self, step: int, values: Mapping[str, float]) -> None:
        if step == self.failing:
            raise OSError("the network is gone")
        self.sent.append((step, dict(values)))

    def finish(self) -> None:
        pass


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> type[Remembering]:
    monkeypatch.setattr(sinks, "_SINKS", {**sinks._SINKS, "json": Remembering})  # a package that is always there
    for name, value in (("sent", []), ("begun", []), ("failing", None)):
        monkeypatch.setattr(Remembering, name, value)
    return Remembering


def made(tmp_path: Path) -> RunFolder:
    return read_run(made_runs.make(tmp_path / "run"))


def go_on(run: RunFolder) -> None:
    """Another iteration is evaluated."""
    with Run.open(run.folder, run.manifest) as writing:
        writing.write_json("iteration_01/4_adapter/training.json", {"rows": 3, "loss": 0.5, "epochs": 2})
        verdict = {"step": "imitate", "before": 0.5, "after": 0.75, "verdict": "keep", "adapter": None}
        writing.write_json("iteration_01/5_verdict.json", verdict)
        made_runs.evaluate(writing, "iteration_01", [], score=0.9, tokens=15.0)


def test_steps_count_from_the_untrained_team(tmp_path: Path) -> None:
    run = made(tmp_path)
    go_on(run)
    found = measurements(run)
    assert [*found] == [0, 1, 2]
    assert [values["eval/sampled/score"] for values in found.values()] == [0.4, 0.8, 0.9]
    assert found[1]["imitate/dialogues"] == 12
    assert found[1]["imitate/reward/token_share"] == 0.5
    assert found[2]["train/4_adapter/loss"] == 0.5
    assert found[2]["validation/5_verdict/change"] == 0.25
    assert "eval/sampled/flexible_score" not in found[0]  # what is not known is no number


def test_each_number_goes_out_once_and_a_resumed_run_goes_on_in_its_curve(
    tmp_path: Path, sink: type[Remembering]
) -> None:
    run = made(tmp_path)
    first = track(run, "json", project="p")
    assert first == sum(len(values) for _, values in sink.sent) == sum(map(len, measurements(run).values()))
    assert track(run, "json", project="p") == 0
    go_on(run)
    assert track(run, "json", project="p") == len(measurements(run)[2])
    assert [step for step, _ in sink.sent] == [0, 1, 2]
    assert sink.begun == [None, "run-1"]


def test_what_a_failing_sink_did_not_take_goes_out_the_next_time(tmp_path: Path, sink: type[Remembering]) -> None:
    run = made(tmp_path)
    sink.failing = 1
    with pytest.raises(SinkError, match="the network is gone"):
        track(run, "json", project="p")
    assert [step for step, _ in sink.sent] == [0]
    sink.failing = None
    track(run, "json", project="p")
    assert [step for step, _ in sink.sent] == [0, 1]
    assert sink.begun == [None, "run-1"]


def test_a_sink_that_fails_costs_one_note_and_not_the_run(tmp_path: Path, sink: type[Remembering]) -> None:
    run, told = made(tmp_path), list[Event]()
    sink.failing = 0
    observe = tracker(run.folder, ["json"], project="p", tell=told.append)
    for row in evaluations(run):
        observe(Evaluated(row))
    (note,) = told
    assert isinstance(note, Note)
    assert "the network is gone" in note.text
    assert f"optima-lite track {run.folder} --to json" in note.text


def test_a_sink_whose_package_is_missing_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        tracker(tmp_path, ["wandb"], project="p", tell=lambda event: None)


def test_a_mistake_of_ours_is_no_failing_sink(
    tmp_path: Path, sink: type[Remembering], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(sink, "send", wrong)
    with pytest.raises(TypeError, match="ours"):
        track(made(tmp_path), "json", project="p")


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the extra `tensorboard`")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_back_what_was_sent(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = made(tmp_path)
    first = call("track", run.folder, "--to", "tensorboard")
    assert (first.code, first.out.startswith("tensorboard: ")) == (0, True)
    go_on(run)
    assert call("track", run.folder, "--to", "tensorboard").code == 0
    assert call("track", run.folder, "--to", "tensorboard").out == "tensorboard: nothing new\n"
    read = EventAccumulator(str(run.folder / "tracking" / "tensorboard"))
    read.Reload()
    scores = [(one.step, round(one.value, 6)) for one in read.Scalars("eval/sampled/score")]
    assert scores == [(0, 0.4), (1, 0.8), (2, 0.9)]
    kept = json.loads((run.folder / tracking._FILE).read_text())
    assert kept["tensorboard"]["sent"]["eval/sampled/score"] == [0, 1, 2]
