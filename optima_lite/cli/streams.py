"""`stream`: what handing steps on as they are said is worth for a run's team, and a picture of who said what when."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .arguments import AsJson, ConfigOption, Iteration, Quiet, RunFolderArgument, iteration_number, machine_of, open_run
from .console import console_of, errors, import_libraries, progress
from .early import say

_PROBED = 4  # steps of a message in the probe, where the team leaves their number to its agents


def stream(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a message; default: the team's.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Held-out questions; default: the recipe's.")] = None,
    alone: Annotated[int, typer.Option(min=0, help="Questions asked one at a time, too, for the times.")] = 5,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also: the score when only first or last steps count.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed; default: the recipe's.")] = None,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare a team that hands on every step as soon as it is said with itself handing on whole messages."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        folder = open_run(run, machine)
        number = iteration_number(folder, iteration)
        say(console, f"{folder.folder}: steps handed on as they are said, and controls", quiet=quiet or as_json)
        with progress(console, quiet=quiet, as_json=as_json) as observe:
            import_libraries()
            from ..stage.cast import HandingOn, recall
            from ..stage.transfers import compare_transfers, probe_heads_and_tails

            cast = recall(folder, machine=machine, iteration=number, handing_on=HandingOn("stream", steps))
            found = compare_transfers(cast, wanted=questions, seed=seed, alone=alone, observe=observe)
            how = cast.team.workflow.stream
            asked = (how.steps if how else None) or _PROBED
            probed = None
            if probe:
                probed = probe_heads_and_tails(cast, wanted=questions, seed=seed, steps=asked, observe=observe)
        from ..records import to_json
        from ..runs.stream_view import TimelineView, probe_table, times_table, transfer_table
        from ..team.timeline import timeline

        if as_json:
            shown = {"transfers": to_json(found.rows), "probe": to_json(probed.rows) if probed else []}
            print(json.dumps(shown), flush=True)
            return
        for name, dialogue, team in found.pictures:
            console.print(TimelineView(timeline(dialogue, team), team, name))
        console.print(transfer_table(found.rows))
        console.print(times_table(found.rows, against=found.pictures[-1][0]))
        if probed:
            console.print(probe_table(probed.rows))
            console.print(probed.verdict)
