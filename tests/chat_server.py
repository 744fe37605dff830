"""A server of chat completions for tests: answers by a function, and keeps all that it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Answer = Callable[[Body, int], str | Body | bytes | int | tuple[int, bytes]]
"""What was asked, and how many requests came before -> a text, an answer, its bytes, a status, or that with bytes."""


class ChatServer(ThreadingHTTPServer):
    """asked: the bodies of all requests, keys: their Authorization headers. over: is set at its end."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.over = answer, threading.Event()
        self.asked, self.keys, self.lock = list[Body](), list[str](), threading.Lock()
        self.most = self.now = 0  # requests at a time

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def take(self, body: Body, key: str) -> int:
        with self.lock:
            self.asked.append(body)
            self.keys.append(key)
            self.now += 1
            self.most = max(self.most, self.now)
            return len(self.asked) - 1


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = self.server.take(body, self.headers.get("Authorization", ""))
        try:
            self._answer(self.server.answer(body, number) if self.path == "/v1/chat/completions" else 404)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def _answer(self, found: str | Body | bytes | int | tuple[int, bytes]) -> None:
        status, said = found if isinstance(found, tuple) else (found, b"") if isinstance(found, int) else (200, found)
        said = completion(said) if isinstance(said, str) else said
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        with suppress(OSError):  # who asked may have gone
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def completion(text: object, *, ended: str | None = "stop", usage: object = None, **message: object) -> Body:
    """An answer as OpenAI's API gives it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": ended}
    return {"object": "chat.completion", "model": "model-1", "choices": [choice], "usage": usage}


@contextmanager
def chat_server(answer: Answer) -> Iterator[ChatServer]:
    """A server that runs in the `with` block."""
    server = ChatServer(answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
