"""`start: RUN`: a run begins with the adapters that an earlier one has come to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import optima_lite
from optima_lite.runs.folder import read_run
from optima_lite.runs.summary import preparation_tokens, training_tokens, validation_tokens
from support import Finished, Outcome, call


def test_a_run_begins_with_what_an_earlier_one_has_learnt(finished: Finished, tmp_path: Path) -> None:
    folder, machine = tmp_path / "second", finished.arguments[2]
    outcome = started(finished, folder, start=finished.folder, more=("training.iterations=1",))
    assert outcome.code == 0, outcome.err
    assert "this run begins where" in outcome.out + outcome.err

    def said(run: Path, row: str) -> bytes:
        return (run / "evaluation" / f"{row}.jsonl").read_bytes()

    assert said(folder, "untrained_greedy") == said(finished.folder, "iteration_01_greedy")
    assert said(folder, "untrained_greedy") != said(finished.folder, "untrained_greedy")
    last = finished.folder / "adapter" / "adapter_model.safetensors"
    assert (folder / "start" / "adapter_model.safetensors").read_bytes() == last.read_bytes()
    # what a later command loads as untrained is the same again
    again, last_row = (
        [replace(row, name="") for row in optima_lite.evaluate(run, iteration=iteration, config=machine)]
        for run, iteration in ((folder, "untrained"), (finished.folder, "last"))
    )
    assert again == last_row
    # what training had cost before counts as preparation
    earlier, own = preparation_tokens(read_run(finished.folder))[1], preparation_tokens(read_run(folder))[0]
    spent, judged = training_tokens(read_run(folder))[0], validation_tokens(read_run(folder))[0]
    assert earlier and spent and own == earlier + spent + judged


def test_a_start_that_is_none_is_refused_before_anything_is_made(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    outcome = started(finished, folder, start=tmp_path / "nowhere")
    assert outcome.code == 2 and "there is no such run folder" in outcome.err
    untrained = tmp_path / "untrained"
    shutil.copytree(finished.folder, untrained)
    for iteration in untrained.glob("iteration_*"):
        shutil.rmtree(iteration)
    outcome = started(finished, folder, start=untrained)
    assert outcome.code == 2 and "this run has no trained adapter" in outcome.err
    outcome = started(finished, folder, start=finished.folder, more=("model.lora_rank=8",))
    assert outcome.code == 2 and "this run's model.lora_rank is 16, and this recipe's is 8" in outcome.err
    outcome = started(finished, folder, start=finished.folder, more=("training.restart=base",))
    assert outcome.code == 2 and "is given up by training.restart: base" in outcome.err
    assert not folder.exists()


def started(finished: Finished, folder: Path, *, start: Path, more: tuple[str, ...] = ()) -> Outcome:
    """`train` with the recipe of the finished run, begun where another run ended."""
    recipe, *machine = finished.arguments
    return call("train", recipe, f"start={start}", *more, "--run", folder, *machine)
