"""Where curves go: TensorBoard, trackio, Weights & Biases, MLflow. Each is used only where its package is installed.

All of them work without a network: event files, SQLite, an offline folder. To send elsewhere is a matter of their own
environment variables. A sink is told under which name it knew the run before, so that a run goes on in its own curve.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, OptimaError


class SinkError(OptimaError):
    """A sink that would not take what it was sent."""


@dataclass(frozen=True)
class Known:
    """A run as a sink knows it. folder: for files of its own, below the run. known: what it called the run before."""

    project: str
    name: str
    folder: Path
    recipe: Mapping[str, Any]
    known: str | None


class Sink(Protocol):
    """A place that takes numbers. known: what it calls the run, to be told again next time."""

    known: str | None

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Keep these numbers at that step."""

    def finish(self) -> None:
        """Write out what is held."""


def open_sink(kind: str, about: Known) -> Sink:
    """The sink of that name. Raises ConfigError without its package, SinkError when it does not open."""
    require(kind)
    with failing(kind):
        return _SINKS[kind](about)


def require(kind: str) -> None:
    """Raises ConfigError without the package that the sink needs."""
    try:
        importlib.import_module(kind)
    except ImportError as error:
        raise ConfigError(f"{kind} is not installed", where="report_to", hint=f"pip install {kind}") from error


@contextmanager
def failing(kind: str) -> Iterator[None]:
    """What goes wrong in a sink, as a SinkError; its own exceptions by their base, and those of disk and network."""
    own = {"wandb": "wandb.errors:Error", "mlflow": "mlflow.exceptions:MlflowException"}
    known: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, sqlite3.Error)
    if kind in own:
        module, name = own[kind].split(":")
        known += (getattr(importlib.import_module(module), name),)
    try:
        yield
    except known as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SinkError(f"{kind} took nothing: {first}") from error


class TensorBoard:
    """Event files, without torch."""

    def __init__(self, about: Known) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.known = about.known
        self._writer = EventFileWriter(str(about.folder / "tensorboard"))

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """One event with all numbers of a step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        held = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=held)))

    def finish(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class Trackio:
    """A local database with a page of its own; a run is known by its name."""

    def __init__(self, about: Known) -> None:
        trackio: Any = importlib.import_module("trackio")
        self.known: str | None = about.known or about.name
        self._run = trackio.init(project=about.project, name=self.known, resume="allow", config=dict(about.recipe))

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """Wait until all is written."""
        self._run.finish()


class Wandb:
    """Weights & Biases, offline unless WANDB_MODE says otherwise; a run is known by its id."""

    def __init__(self, about: Known) -> None:
        wandb: Any = importlib.import_module("wandb")
        (about.folder / "wandb").mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=about.project,
            name=about.name,
            id=about.known,
            resume="allow",
            dir=str(about.folder),
            config=dict(about.recipe),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, disable_git=True, x_disable_stats=True),
        )
        self.known: str | None = str(self._run.id)
        self._run.define_metric("*", step_metric="step")

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, which is a number among them: its own steps cannot go back."""
        self._run.log({"step": step, **values})

    def finish(self) -> None:
        """Write out and close."""
        self._run.finish()


class Mlflow:
    """MLflow: a database below the run unless MLFLOW_TRACKING_URI names another place; a run is known by its id."""

    def __init__(self, about: Known) -> None:
        client: Any = importlib.import_module("mlflow.tracking")
        about.folder.mkdir(parents=True, exist_ok=True)
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(about.folder / 'mlflow.db').resolve()}"
        self._client = client.MlflowClient(tracking_uri=place)
        if about.known is None:
            found = self._client.get_experiment_by_name(about.project)
            experiment = found.experiment_id if found else self._client.create_experiment(about.project)
            self.known: str | None = self._client.create_run(experiment, run_name=about.name).info.run_id
        else:
            self.known = about.known

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""
        for name, value in values.items():
            self._client.log_metric(self.known, name, value, step=step)

    def finish(self) -> None:
        """The run has ended, for now."""
        self._client.set_terminated(self.known)


_SINKS: Mapping[str, Callable[[Known], Sink]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": Mlflow,
}
