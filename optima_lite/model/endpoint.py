"""A server that is asked over HTTP, several times at once: bounded retries, a time limit for each answer.

A key comes from the environment, goes into a header, and nowhere else: no message names it, and no other host gets it,
since redirects are not followed. Where a server says it back, in an error or an answer, it is masked.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigError, OptimaError, RunError

_WAITS = (0.5, 2.0, 8.0, 30.0)  # seconds before each further try, if the server does not say otherwise
_LONGEST_WAIT = 120.0  # seconds that a server may ask for
_CONNECTING = 20.0  # seconds until a server must have taken a connection
_MOST_BYTES = 1 << 28  # of an answer
_SECRET = 12  # characters that a key has at least; what is shorter is none, and may be a word of an answer
_TRANSIENT = (408, 409, 425, 429)  # statuses that may be another one next time, as may those from 500 on
_OF_ONE = (400, 413, 422)  # statuses that may be about one request: its text, its length
_LONGEST_WORDS = 300  # characters of what a server says for itself
_KEY = "the key in the environment is not valid here"
_ADDRESS = "is this the address of an API, up to its /v1, and is the model called so there?"

Answer = dict[str, Any]


class Refused(RunError):
    """A request that the server does not take, and never will; it may take others. words: the server's own."""

    def __init__(self, words: str, *, where: str) -> None:
        super().__init__(f"the server refused: {words}", where=where)
        self.words = words


class _Again(Exception):
    """What went wrong with one try. wait: seconds that the server asks for."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass
class Endpoint:
    """urls: each with its path, such as http://localhost:8000/v1; asked in turn. key_env: the environment variable
    that holds the key. seconds: that an answer may take. at_once: requests under way. sleep, clock: of time; None: a
    sleep that ends where another request fails."""

    urls: Sequence[str]
    key_env: str | None = None
    seconds: float = 300.0
    at_once: int = 32
    sleep: Callable[[float], object] | None = None
    clock: Callable[[], float] = time.monotonic
    _failed: threading.Event = field(default_factory=threading.Event)  # nothing is tried again
    _stopped: threading.Event = field(default_factory=threading.Event)  # nor is any answer waited for
    _lines: set[http.client.HTTPConnection] = field(default_factory=set)  # on which answers are waited for

    def each(
        self, path: str, bodies: Sequence[dict[str, Any]], heard: Callable[[int, Answer | Refused], None] | None = None
    ) -> list[Answer]:
        """The answers to several requests, in their order. heard: is told the number and the answer of each as soon as
        it is there, in the thread that has waited for it; and of a refusal, which is an empty answer then, no error.

        Raises the first error, as `post` or `heard` does, and asks no more then; what is under way is still heard,
        since somebody may have to pay for it.
        """

        def ask(number: int) -> Answer:
            if heard is None:
                return self.post(path, bodies[number], number)
            try:
                answer = self.post(path, bodies[number], number)
            except Refused as refusal:
                heard(number, refusal)
                return {}
            heard(number, answer)
            return answer

        pool = ThreadPoolExecutor(min(self.at_once, max(1, len(bodies))))
        try:
            return list(pool.map(ask, range(len(bodies))))
        except BaseException as error:
            self._failed.set()
            if not isinstance(error, OptimaError):
                self._hang_up()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self._failed.clear()
            self._stopped.clear()

    def _hang_up(self) -> None:
        """No answer is waited for any more: whoever presses Ctrl-C waits for no model that thinks for minutes."""
        self._stopped.set()
        for line in list(self._lines):
            if line.sock is not None:
                with suppress(OSError):
                    line.sock.shutdown(socket.SHUT_RDWR)

    def post(self, path: str, body: dict[str, Any], number: int = 0) -> Answer:
        """The JSON object that answers a request. number: of the request; it decides which address is asked first.

        Raises RunError when no address has answered after all tries, or one has refused everything; Refused where that
        may be about this request alone; ConfigError for a key that is not in the environment.
        """
        found = self.raw(path, body, number)
        try:
            answer = json.loads(found)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            what = f"the server's answer is no JSON object: {_words(found)}"
            raise RunError(what, where=self._where(number, path), hint=_ADDRESS)
        return answer

    def raw(self, path: str, body: dict[str, Any], number: int = 0) -> bytes:
        """The bytes that answer a request, whatever they are; otherwise as `post`."""
        data, why = json.dumps(body).encode(), ""
        for turn, wait in enumerate((*_WAITS, None)):
            try:
                return self._once(number + turn, path, data)
            except _Again as error:
                why, asked = str(error), error.wait
            if wait is None or self._failed.is_set():
                break
            (self.sleep or self._failed.wait)(min(_LONGEST_WAIT, asked) if asked is not None else wait)
            if self._failed.is_set():
                break
        hint = "is it running, and is the address right? The same command goes on where this one stopped"
        what = f"no useful answer after {turn + 1} tries: {why}"
        raise RunError(what, where=self._where(number, path), hint=hint)

    def _url(self, number: int) -> SplitResult:
        return urlsplit(self.urls[number % len(self.urls)])

    def _where(self, number: int, path: str) -> str:
        parts = self._url(number)
        host = parts.netloc.rpartition("@")[2]  # without a password
        return f"{parts.scheme}://{host}{parts.path.rstrip('/')}{path}"

    def _once(self, number: int, path: str, data: bytes) -> bytes:
        url, until = self._url(number), self.clock() + self.seconds
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        line = kind(url.hostname or "", url.port, timeout=min(_CONNECTING, self.seconds))
        self._lines.add(line)
        try:
            line.connect()
            if self._stopped.is_set():  # in between, so that nobody has hung up this one
                raise _Again("it was stopped")
            line.sock.settimeout(self.seconds)
            line.request("POST", url.path.rstrip("/") + path, data, self._headers())
            with line.getresponse() as reply:
                found = self._masked(self._read(reply, until))
        except (OSError, http.client.HTTPException) as error:
            raise _Again(f"{type(error).__name__}: {str(error)[:200]}") from error
        finally:
            self._lines.discard(line)
            line.close()
        self._judge(reply, found, self._where(number, path))
        return found

    def _read(self, reply: http.client.HTTPResponse, until: float) -> bytes:
        """The whole answer: piece by piece, since no single wait of one that drips is long."""
        found = bytearray()
        while some := reply.read1(1 << 16):
            found += some
            if self._stopped.is_set():
                raise _Again("it was stopped")
            if self.clock() > until:
                raise _Again(f"it took more than {self.seconds:g} seconds")
            if len(found) > _MOST_BYTES:
                raise _Again("it does not end")
        wanted = reply.getheader("Content-Length", "")
        if wanted.isdigit() and len(found) < int(wanted):
            raise _Again("the answer broke off")
        return bytes(found)

    def _judge(self, reply: http.client.HTTPResponse, found: bytes, where: str) -> None:
        """Raises _Again for an answer that may be another one next time, RunError for one that will not."""
        said = _words(found)
        if reply.status in _TRANSIENT or reply.status >= 500:
            after = reply.getheader("Retry-After", "")
            raise _Again(f"status {reply.status}: {said}", float(after) if after.isdigit() else None)
        if reply.status in _OF_ONE:
            raise Refused(f"status {reply.status}: {said}", where=where)
        if reply.status != 200:
            hint = _KEY if reply.status in (401, 403) else _ADDRESS if reply.status == 404 else None
            raise RunError(f"the server refused: status {reply.status}: {said}", where=where, hint=hint)
        if reply.getheader("Content-Type", "").startswith("application/json"):
            try:
                json.loads(found)
            except (ValueError, RecursionError):
                raise _Again("the answer is broken JSON") from None

    def _masked(self, found: bytes) -> bytes:
        key = self._key()
        return found.replace(key.encode(), b"***") if len(key) >= _SECRET else found

    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip() if self.key_env else ""

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.key_env is not None:
            key = self._key()
            if not (key.isascii() and key.isprintable()):  # http.client would show it in its error
                what = f"the environment variable {self.key_env} holds characters that no key has"
                raise ConfigError(what, where="key_env", hint="a line break, or a quote of a word processor?")
            if not key:
                what = f"the environment variable {self.key_env} is to hold a key, and is empty"
                raise ConfigError(what, where="key_env", hint=f"export {self.key_env}=... in this terminal alone")
            headers["Authorization"] = f"Bearer {key}"
        return headers


def first_choice(answer: Answer) -> dict[str, Any]:
    """What an answer of OpenAI's API says first; nothing of an answer that is none."""
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _words(found: bytes) -> str:
    """What a server says for itself, as a part of a sentence: the message of an error in one of the usual forms, else
    how its answer begins."""
    try:
        error = json.loads(found)
        for key in ("error", "message", "detail"):
            error = error.get(key, error) if isinstance(error, dict) else error
    except (ValueError, RecursionError):
        error = None
    said = error if isinstance(error, str) else found.decode("utf-8", "replace")
    return "".join(c for c in " ".join(said[:_LONGEST_WORDS].split()) if c.isprintable()).rstrip(".")
