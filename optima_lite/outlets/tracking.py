"""What a run has measured, sent to sinks: while it goes on, or afterwards; each number once.

`tracking.json` in the run folder keeps what each sink has taken and what it calls the run. So a run that is resumed
goes on in the same curve, and what a sink did not take goes out the next time. A sink that fails costs a note, never a
run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runs.disk import read_json, write_whole
from ..runs.folder import RunFolder, read_run
from ..runs.progress import Evaluated, Event, Note, Observer
from .measurements import Values, measurements
from .sinks import Known, Sink, SinkError, failing, open_sink, require

_FILE = "tracking.json"


def track(run: RunFolder, kind: str, *, project: str) -> int:
    """Send to a sink what it has not taken yet, and return how many numbers those were.

    Raises ConfigError without its package, SinkError when it fails; what it took before that is remembered.
    """
    require(kind)
    due = _due(run, kind)
    if not due:
        return 0
    kept = _kept(run, kind)
    sink = open_sink(kind, _known(run, kind, project=project))
    try:
        for step, values in due.items():
            with failing(kind):
                sink.send(step, values)
            for name in values:
                kept["sent"].setdefault(name, []).append(step)
    finally:
        _close(run, kind, sink, kept)
    return sum(map(len, due.values()))


def _close(run: RunFolder, kind: str, sink: Sink, kept: dict[str, Any]) -> None:
    """What was taken counts once the sink has written it out."""
    with failing(kind):
        sink.finish()
    everything = read_json(run.folder / _FILE) or {}
    text = json.dumps(everything | {kind: kept | {"known": sink.known}}, indent=2) + "\n"
    write_whole(run.folder / _FILE, text.encode())


def _kept(run: RunFolder, kind: str) -> dict[str, Any]:
    """sent: the steps of each number that the sink has taken. known: what it calls the run."""
    everything = read_json(run.folder / _FILE) or {}
    kept: dict[str, Any] = everything.get(kind) or {"known": None, "sent": {}}
    return kept


def _due(run: RunFolder, kind: str) -> dict[int, Values]:
    """What the sink has not taken, by step."""
    sent = _kept(run, kind)["sent"]
    steps = {
        step: {name: value for name, value in values.items() if step not in sent.get(name, ())}
        for step, values in measurements(run).items()
    }
    return {step: values for step, values in steps.items() if values}


def _known(run: RunFolder, kind: str, *, project: str) -> Known:
    name = run.folder.resolve().name
    return Known(project, name, run.folder / "tracking", run.manifest["recipe"], _kept(run, kind)["known"])


def tracker(folder: Path, kinds: Sequence[str], *, project: str, tell: Observer) -> Observer:
    """An observer of a run's events, which sends what is new after every evaluation.

    tell: hears, once for each sink, that it failed and is left alone from then on. Raises ConfigError for a sink whose
    package is not installed.
    """
    left = list(kinds)
    for kind in left:
        require(kind)

    def observe(event: Event) -> None:
        if not isinstance(event, Evaluated):
            return
        run = read_run(folder)
        for kind in [*left]:
            try:
                track(run, kind, project=project)
            except SinkError as error:
                left.remove(kind)
                tell(Note(f"{error}; the run goes on, and `optima-lite track {folder} --to {kind}` sends it later"))

    return observe
