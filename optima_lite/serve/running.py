"""From a run's agents to a server that answers, and to its end: address, key, Ctrl-C and the end of the engine."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import replace

import uvicorn

from ..errors import OptimaError
from ..stage.cast import Cast
from .app import Limits, Service, application
from .company import Company
from .engine import Engine

KEY = "OPTIMA_LITE_API_KEY"
_GRACE = 30  # seconds that answers under way may take after the server was told to stop


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def limits_of(host: str, limits: Limits) -> Limits:
    """The limits with the key of the environment. Raises OptimaError where others reach the address, and there is
    none."""
    key = os.environ.get(KEY, "").strip()
    if not is_loopback(host) and not key:
        what = f"others can reach {host}, and there is no key to keep them out"
        raise OptimaError(what, where="--host", hint=f"{KEY}=... in the environment, or --host 127.0.0.1")
    return replace(limits, key=key, loopback=is_loopback(host))


def bound(host: str, port: int) -> socket.socket:
    """The address, taken; port 0 takes any that is free. Raises OptimaError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OptimaError(f"{host} is no address of this machine", where="--host") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()  # who comes before the model is loaded waits
    except OSError as error:
        found.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        raise OptimaError(f"{host}:{port} cannot be taken: {error.strerror}", hint="--port OTHER") from error
    return found


def service_of(cast: Cast, limits: Limits, *, name: str, fingerprint: str) -> Service:
    """What answers for a run's agents. fingerprint: what decides the answers, beside the request."""
    return Service(Company(cast, name=name), Engine(cast.pair.generator), limits, fingerprint=fingerprint)


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
