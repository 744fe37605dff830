"""A small server on this machine alone, which shows runs while they go on.

It reads the folders when a page asks and something in them has changed, and never for more than a tenth of the time,
so that whoever trains beside it hardly notices.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..errors import OptimaError, RunError
from ..runs.folder import RunFolder, read_run
from .blocks import pack, to_text
from .contents import Contents, contents
from .page import live_page

HOST = "127.0.0.1"
REST = 9  # times as long as a reading took, before the next one


class Followed:
    """Runs as they stand; read again where they have changed. Several threads may ask."""

    def __init__(self, runs: Sequence[RunFolder], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = " and ".join(run.folder.resolve().name for run in runs)
        self._runs, self._clock, self._lock = runs, clock, threading.Lock()
        self._state, self._due = "", 0.0
        self._found, self._index, self._tag = Contents({}, {}), "", ""

    def index(self) -> tuple[str, str]:
        """The packed index, and a tag that is another one when it is. Raises RunError for records that cannot be
        read."""
        with self._lock:
            began = self._clock()
            if began >= self._due and (state := self._stamp()) != self._state:
                self._found = contents([read_run(run.folder) for run in self._runs])
                self._index = pack(to_text(self._found.index))
                self._tag = f'"{hashlib.sha256(self._index.encode()).hexdigest()[:16]}"'
                self._state, ended = state, self._clock()
                self._due = ended + REST * (ended - began)
            return self._index, self._tag

    def block(self, name: str) -> str | None:
        """A block of the last index, None for none."""
        return self._found.blocks.get(name)

    def _stamp(self) -> str:
        """Another text when a record of the runs is another one."""
        seen = hashlib.sha256()
        for run in self._runs:
            for path in sorted(run.folder.glob("**/*.json*")):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue  # a run that goes on renames what it has finished
                seen.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return seen.hexdigest()


def server(followed: Followed, port: int) -> ThreadingHTTPServer:
    """The server, not yet serving; port 0 takes any that is free. Raises OptimaError when the port is in use."""
    document = live_page(followed.title)

    class Handler(BaseHTTPRequestHandler):
        """Three things to ask for: the page, the index, and a block by its name."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                # another site's name that leads here, so that its pages could read this one
                self._answer(403, "this server answers on the loop-back address alone")
            elif path == "/":
                self._answer(200, document, kind="text/html")
            elif path == "/index":
                self._index()
            elif (block := followed.block(path.removeprefix("/blocks/"))) is not None:
                self._answer(200, block)
            else:
                self._answer(404, "there is no such thing")

        def _index(self) -> None:
            try:
                index, tag = followed.index()
            except RunError as error:
                return self._answer(503, str(error))
            same = self.headers.get("If-None-Match") == tag
            self._answer(304 if same else 200, "" if same else index, tag=tag)

        def _answer(self, status: int, text: str, *, kind: str = "text/plain", tag: str | None = None) -> None:
            body = text.encode("utf-8", "backslashreplace")
            self.send_response(status)
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-store", "ETag": tag}
            headers |= {"Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff"}
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the terminal is for who started it."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise OptimaError(f"port {port} cannot be taken: {error.strerror}", hint="--port OTHER") from error
