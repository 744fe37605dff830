"""Where a server listens, who may ask there, and how much: settled before anything heavy is read."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass, replace

from ..errors import OptimaError

KEY = "OPTIMA_LITE_API_KEY"


@dataclass(frozen=True, slots=True)
class Limits:
    """waiting: choices that are not answered yet; more requests get 429. body: bytes of a request. seconds: for a body
    to arrive, and for an answer. origins: of web pages that may ask. key: what clients must show; empty: nothing.
    loopback: whether only this machine may ask."""

    waiting: int = 64
    body: int = 1 << 20
    seconds: float = 120.0
    origins: tuple[str, ...] = ()
    key: str = ""
    loopback: bool = True


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
        raise OptimaError(what, where="host", hint=f"{KEY}=... in the environment, or --host 127.0.0.1")
    return replace(limits, key=key, loopback=is_loopback(host))


def bound(host: str, port: int) -> socket.socket:
    """The address, taken; port 0 takes any that is free. Raises OptimaError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OptimaError(f"{host} is no address of this machine", where="host", hint="--host 127.0.0.1") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()  # who comes before the model is loaded waits
    except OSError as error:
        found.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        raise OptimaError(
            f"{host}:{port} cannot be taken: {error.strerror}", hint="--port OTHER; 0 takes any that is free"
        ) from error
    return found
