"""From a run's agents to a server that answers, and to its end: Ctrl-C, SIGTERM, or the end of the engine."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from ..errors import ConfigError, OptimaError
from ..stage.cast import Cast
from .address import Limits
from .app import Service, application
from .company import Company
from .engine import Engine

_GRACE = 30  # seconds that answers under way may take after the server was told to stop


def service_of(cast: Cast, limits: Limits, *, name: str, fingerprint: str) -> Service:
    """What answers for a run's agents. fingerprint: what decides the answers, beside the request. Raises ConfigError
    for a team of which a model elsewhere speaks a role."""
    if names := cast.team.workflow.elsewhere:
        what = f"{', '.join(names)} speaks for roles of this team, and only what is trained here can be served"
        raise ConfigError(what, where="team.spoken_by", hint="optima-lite chat RUN lets all of them talk")
    return Service(Company(cast, name=name), Engine(cast.team.generator), limits, fingerprint=fingerprint)


def run(service: Service, taken: socket.socket, *, ready: Callable[[], None]) -> None:
    """Answers until SIGTERM or Ctrl-C; then those under way are answered, and no others. ready: is called once
    everything is in place. Raises OptimaError when the engine ended by itself."""
    config = uvicorn.Config(
        application(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    server = uvicorn.Server(config)

    def end() -> None:
        server.should_exit = True

    service.engine.at_end = end
    ready()
    server.run(sockets=[taken])
    if service.engine.failed:
        raise OptimaError("the engine has ended by itself; why stands above")
