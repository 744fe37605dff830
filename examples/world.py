"""The bundled world: train the pair of the quickstart, look at the run, ask the pair.

    python examples/world.py                                   # a small run
    python examples/world.py training.questions=100 seed=1     # with settings of yours

The same command goes on with a run that was stopped. Nothing is needed but the package: no GPU, no network.
"""

from __future__ import annotations

import sys

import optima_lite
from optima_lite.runs.progress import Evaluated, Event

SMALL = ["training.iterations=1", "training.questions=40", "schedule=isft"]


def main(settings: list[str]) -> None:
    """Trains, then looks and asks."""
    changed = {setting.partition("=")[0] for setting in settings}
    overrides = [one for one in SMALL if one.partition("=")[0] not in changed] + settings
    optima_lite.train("quickstart", overrides=overrides, run="runs/example-world", observe=show)

    run = optima_lite.open_run("runs/example-world")
    print(f"\ntrained: {run.iterations}, the adapter in force: {run.adapter()}")
    example = run.dialogues("last")[0]
    print(f"\n{example.question.text} (right: {' or '.join(example.question.answers)})")

    before, after = optima_lite.load(run, iteration="untrained"), optima_lite.load(run)
    for name, team in (("before", before), ("after", after)):
        found = team.ask(example.question)
        print(f"\n{name}: {found.answer}, {found.tokens} tokens")
        for turn in found.turns:
            print(f"  {turn.role}: {turn.text}")


def show(event: Event) -> None:
    """Prints each evaluation as it is done."""
    if isinstance(event, Evaluated):
        row = event.row
        print(f"{row.name} {row.decoding}: score {row.score:.3f}, {row.tokens:.1f} tokens a dialogue")


if __name__ == "__main__":
    main(sys.argv[1:])
