"""Who asks a server over HTTP, and what is asked."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optima_lite.tasks.world import questions

if TYPE_CHECKING:
    from optima_lite.serve.app import Service

KEY = "a key"
ASKED = questions("held_out", 6, seed=0)
WAITING = 20


@dataclass
class Reply:
    """An HTTP answer. events: of a stream, without the end mark."""

    status: int
    headers: dict[str, str]
    text: str
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["choices"][0]["message"]
        return found


@dataclass
class Site:
    """A running server, and what its agents say when they are asked without one."""

    service: Service
    port: int
    wanted: list[Any]

    def post(self, body: Any, *, path: str = "/v1/chat/completions", key: str = KEY, **headers: str) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"} | headers
        return self.send("POST", path, raw, headers)

    def send(self, method: str, path: str, raw: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        line.request(method, path, raw, headers or {})
        answer = line.getresponse()
        text = answer.read().decode()
        line.close()
        events = []
        if answer.getheader("content-type", "").startswith("text/event-stream"):
            *parts, last, nothing = text.split("\n\n")
            assert (last, nothing) == ("data: [DONE]", "") or "error" in last
            events = [json.loads(part.removeprefix("data: ")) for part in parts]
        return Reply(answer.status, dict(answer.headers), text, events)

    def ask(self, k: int = 0, **more: Any) -> Reply:
        """The k-th question, with its facts in the hands that hold them."""
        body = {"model": "optima", "temperature": 0, "messages": [{"role": "user", "content": ASKED[k].text}]}
        return self.post(body | {"optima": {"facts": [list(share) for share in ASKED[k].contexts]}} | more)

    def quiet(self) -> None:
        """Nothing is left of any request."""
        until = time.monotonic() + 30
        while time.monotonic() < until and (self.service.engine.waiting or self.service.admission.unanswered):
            time.sleep(0.01)
        assert self.service.engine.waiting == self.service.engine.running == self.service.admission.unanswered == 0
        assert self.service.admission.load == 0
