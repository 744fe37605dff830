"""A server that is slow, wrong, busy or broken: bounded tries, clear words, no endless wait, and no key in them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from optima_lite.errors import ConfigError, OptimaError, RunError
from optima_lite.model.endpoint import Endpoint

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
KEY = "sk-of-nobody"


class Scripted(ThreadingHTTPServer):
    """Answers each request with the next of its replies, and any further one with the last."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.asked, self.lock = list(replies), list[tuple[dict[str, Any], str]](), threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((body, self.headers.get("Authorization", "")))
            reply = self.server.replies[0]
            if len(self.server.replies) > 1:
                self.server.replies.pop(0)
        reply(self, body)

    def log_message(self, *args: Any) -> None:
        pass


def says(data: bytes, status: int = 200, *, length: int | None = None, **headers: str) -> Reply:
    def reply(line: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        line.send_response(status)
        line.send_header("Content-Type", "application/json")
        line.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            line.send_header(name.replace("_", "-"), value)
        line.end_headers()
        line.wfile.write(data)

    return reply


def hangs_up(line: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    line.close_connection = True


def drips(line: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A byte now and then, for ever: no single wait is long."""
    line.send_response(200)
    line.end_headers()
    over: threading.Event = line.server.over  # type: ignore[attr-defined]
    while not over.wait(0.01):
        try:
            line.wfile.write(b" ")
            line.wfile.flush()
        except OSError:
            return


def silent(line: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    over: threading.Event = line.server.over  # type: ignore[attr-defined]
    over.wait(10)


FINE = says(b'{"fine": true}')


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    running: list[Scripted] = []

    def begin(*replies: Reply) -> Scripted:
        running.append(Scripted(*replies))
        threading.Thread(target=running[-1].serve_forever, args=(0.01,), daemon=True).start()
        return running[-1]

    yield begin
    for server in running:
        server.over.set()
        server.shutdown()
        server.server_close()


def endpoint(*servers: Scripted, waits: list[float] | None = None, **how: Any) -> Endpoint:
    return Endpoint([server.url for server in servers], sleep=(waits if waits is not None else []).append, **how)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (says(b"no", 500), "status 500: no"),
        (says(b"busy", 429), "status 429: busy"),
        (says(b'{"fine": tr'), "broken JSON"),
        (says(b'{"fine": ', length=99), "broke off"),
        (hangs_up, "RemoteDisconnected"),
    ],
)
def test_what_may_be_better_next_time_is_tried_again(serve: Any, reply: Reply, told: str) -> None:
    server, waits = serve(reply, reply, FINE), list[float]()
    assert endpoint(server, waits=waits).post("/x", {"a": 1}) == {"fine": True}
    assert waits == [0.5, 2.0]
    server = serve(reply)
    with pytest.raises(RunError, match="no useful answer after 5 tries") as error:
        endpoint(server, waits=waits).post("/x", {"a": 1})
    assert told in str(error.value) and "/v1/x" in str(error.value)
    assert len(server.asked) == 5


@pytest.mark.parametrize("reply", [drips, silent])
def test_an_answer_that_does_not_end_is_not_waited_for(serve: Any, reply: Reply) -> None:
    assert endpoint(serve(reply, FINE), seconds=0.2).post("/x", {}) == {"fine": True}


def test_nobody_waits_for_answers_after_an_interruption(serve: Any) -> None:
    """Ctrl-C, while one answer has come and the others let wait for minutes."""
    answered: list[int] = []

    def late(line: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if body["number"] == 0:
            FINE(line, body)
            return
        line.server.over.wait(10)  # type: ignore[attr-defined]
        answered.append(1)

    def interrupts(number: int, answer: object) -> None:
        while len(server.asked) < 3:
            time.sleep(0.001)
        raise KeyboardInterrupt

    server = serve(late)
    with pytest.raises(KeyboardInterrupt):
        endpoint(server, seconds=60).each("/x", [{"number": number} for number in range(9)], interrupts)
    assert not answered


def test_a_busy_server_says_how_long_to_wait(serve: Any) -> None:
    waits: list[float] = []
    busy, forever = says(b"", 429, Retry_After="7"), says(b"", 503, Retry_After="999999")
    endpoint(serve(busy, forever, FINE), waits=waits).post("/x", {})
    assert waits == [7.0, 120.0]


def test_another_address_is_asked_where_one_fails(serve: Any) -> None:
    bad, good = serve(says(b"", 500)), serve(FINE)
    assert endpoint(bad, good).post("/x", {}) == {"fine": True}
    assert [len(bad.asked), len(good.asked)] == [1, 1]
    endpoint(bad, good).each("/x", [{}] * 4)
    assert len(good.asked) == 5, "every other request begins with the other address"


def test_a_refusal_is_not_repeated_and_stops_the_others(serve: Any) -> None:
    server = serve(says(b"no such model", 404))
    with pytest.raises(RunError, match="status 404: no such model"):
        endpoint(server, at_once=1).each("/x", [{}] * 50)
    assert len(server.asked) < 50
    for reply, told in (
        (says(b"[1]"), "no JSON object"),
        (says(b"", 302, Location="http://127.0.0.1:1/"), "status 302"),
    ):
        with pytest.raises(RunError, match=told):
            endpoint(serve(reply)).post("/x", {})


def test_a_key_comes_from_the_environment_and_is_told_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_A_TEST", KEY)
    server = serve(FINE, says(b"", 401))
    asked = endpoint(server, key_env="KEY_OF_A_TEST")
    asked.post("/x", {})
    assert server.asked[0][1] == f"Bearer {KEY}"
    with pytest.raises(RunError) as error:
        asked.post("/x", {})
    assert KEY not in str(error.value) and KEY not in repr(asked)
    monkeypatch.setenv("KEY_OF_A_TEST", f" {KEY}\n")
    server.replies = [FINE]
    asked.post("/x", {})
    assert server.asked[-1][1] == f"Bearer {KEY}"
    for wrong in (f"{KEY}\nX-Other: 1", f"{KEY}\u201d"):
        monkeypatch.setenv("KEY_OF_A_TEST", wrong)
        with pytest.raises(ConfigError, match="characters that no key has") as refused:
            asked.post("/x", {})
        assert KEY not in str(refused.value)
    monkeypatch.delenv("KEY_OF_A_TEST")
    with pytest.raises(ConfigError, match="KEY_OF_A_TEST"):
        asked.post("/x", {})


def test_nobody_is_there() -> None:
    with pytest.raises(OptimaError, match="Connection refused"):
        Endpoint(["http://127.0.0.1:9/v1"], sleep=lambda seconds: None).post("/x", {})
