"""How a process comes into a Ray cluster, and what it may ask of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ..errors import RunError
from ..model.resources import cores
from ..settings.machine import Cluster

_ANSWER = 10.0  # seconds in which somebody must answer at an address


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """This process belongs to the cluster in the `with` block. Raises RunError where there is none."""
    try:
        _connect(cluster)
        yield
    finally:
        ray.shutdown()


def _connect(cluster: Cluster) -> None:
    """Joins the cluster, or begins one on this machine. Raises RunError where there is none."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # how Ray will have it; else it says so at length
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as this process, which rests while they work
    _listens(cluster.address)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    try:
        if cluster.address == "local":
            stated = 0 if cluster.workers == "auto" else cluster.workers
            ray.init(address="local", num_cpus=max(cores(), stated), include_dashboard=False, **how)
        else:
            ray.init(address=cluster.address, **how)
    except Exception as error:
        # Where its processes take longer than half a minute to begin, Ray raises an `Exception` and nothing narrower.
        slow = type(error) is Exception and "timed out" in str(error)
        if slow or isinstance(error, OSError | RayError | RuntimeError | ValueError):
            raise _unreachable(error, slow=slow) from error
        raise


def _listens(address: str) -> None:
    """Raises RunError for a HOST:PORT where nobody is; Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if "/" in address or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        what = f"nobody answers at {address}: {error.strerror or error}"
        raise RunError(what, where="cluster.address", hint="`ray start --head` tells the address to join") from error


def _unreachable(error: Exception, *, slow: bool) -> RunError:
    what = f"no Ray cluster can be reached: {str(error).split('. ')[0].splitlines()[0][:300]}"
    hint = 'cluster.address = "local" begins one on this machine; `ray start --head` one for several'
    if slow:
        hint = "the same command when this machine is less busy"
    elif "authentication token" in f"{error} {error.__context__}".lower():
        what = "this Ray cluster is guarded by a token, and has not been shown it"
        hint = (
            "RAY_AUTH_MODE=token in the environment, and ~/.ray/auth_token of the cluster's first machine on this one"
        )
    return RunError(what, where="cluster.address", hint=hint)


def _gpus(cluster: Cluster) -> float:
    """GPUs of a worker."""
    if cluster.gpus_per_worker != "auto":
        return cluster.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


def wanted(cluster: Cluster) -> int:
    """How many workers there should be now."""
    return max(1, room(cluster)) if cluster.workers == "auto" else cluster.workers


def room(cluster: Cluster) -> int:
    """How many workers the nodes have room for, each of which takes a core, and its GPUs on one node."""
    gpus = _gpus(cluster)

    def on(node: Mapping[str, float]) -> int:
        cores, cards = int(node.get("CPU", 0)), node.get("GPU", 0)
        if not gpus:
            return cores
        return min(cores, int(cards / gpus) if gpus >= 1 else int(cards) * int(1 / gpus))

    return sum(on(node["Resources"]) for node in ray.nodes() if node["Alive"])


def needs(cluster: Cluster) -> str:
    """What a worker takes, and what there is, in words."""
    gpus, there = _gpus(cluster), ray.cluster_resources()
    each = f"a core{f' and {gpus:g} GPU' * bool(gpus)}{'s' * (gpus > 1)}"
    return f"whose nodes have {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs; a worker takes {each}"


def actor_of(worker: type, cluster: Cluster) -> Any:
    """What Ray makes a worker of. Ray does not start it again: a new one is hired, and the piece does not wait for
    it."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment: Mapping[str, str] = {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    options = {"num_cpus": 1, "num_gpus": _gpus(cluster), "max_restarts": 0, "max_task_retries": 0}
    return ray.remote(worker).options(
        **options, scheduling_strategy="SPREAD", runtime_env={"env_vars": dict(environment)}
    )
