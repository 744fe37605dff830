"""What is sent to the hub, to a stub of it that keeps what it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, close_session, constants

from optima_lite.errors import OptimaError
from optima_lite.outlets import hub


class Stub(ThreadingHTTPServer):
    """kept: the files of the commits. asked: method, path and body of every request. status: what it answers with.
    private: whether its repository is."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kept: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.status, self.private = 200, True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.asked.append((self.command, self.path, body))
        answer = self.answered(body) if self.server.status == 200 else {"error": "no"}
        text = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_HEAD = handle_one

    def answered(self, body: bytes) -> Any:
        here, kept = self.server.address, self.server.kept
        if self.path == "/api/repos/create":
            return {"url": f"{here}/me/{json.loads(body)['name']}", "id": "x"}
        if self.path == "/api/models/base/one":
            return {"id": "base/one", "cardData": {"license": "llama3"}, "siblings": [], "tags": []}
        if self.path == "/api/models/me/team":
            return {"id": "me/team", "private": self.server.private, "siblings": [], "tags": []}
        if "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            return {
                "files": [
                    {"path": p, "uploadMode": modes[p.endswith(".safetensors")], "shouldIgnore": False} for p in files
                ]
            }
        if self.path.endswith("/objects/batch"):
            wanted = json.loads(body)["objects"]
            put = {one["oid"]: {"upload": {"href": f"{here}/put/{one['oid']}"}} for one in wanted}
            return {"transfer": "basic", "objects": [one | {"actions": put[one["oid"]]} for one in wanted]}
        if found := re.fullmatch("/put/(.*)", self.path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            self.server.stored[found[1]] = body
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    kept[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    kept[value["path"]] = self.server.stored[value["oid"]]
            return {"commitUrl": f"{here}/me/team/commit/1", "commitOid": "1" * 40, "success": True}
        return {"errors": [], "warnings": []}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # for this stub alone; the session is made anew
    close_session()
    with Stub() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()
    close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("---\ntags:\n- optima-lite\n---\n# team\n")
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "Coder").mkdir()
    (tmp_path / "Coder" / "role_card.json").write_text("{}")
    return tmp_path


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's library, of its own upload; 2026-11
def test_all_that_was_listed_arrives_and_nothing_else_in_a_private_repository(stub: Stub, folder: Path) -> None:
    listed = hub.outgoing(folder)
    assert listed == [("Coder/role_card.json", 2), ("README.md", 35), ("adapter_model.safetensors", 25_600)]
    api = HfApi(endpoint=stub.address, token="hf_dummy")
    address = hub.push(folder, "me/team", private=True, message="a team", api=api)
    assert address == f"{stub.address}/me/team"
    assert stub.kept == {name: (folder / name).read_bytes() for name, _ in listed}
    (made,) = (json.loads(body) for _, path, body in stub.asked if path == "/api/repos/create")
    assert made.get("private") or made.get("visibility") == "private"


def test_who_has_no_token_is_told_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(OptimaError, match="who you are"):
        hub.require_token("me/team")


def test_nothing_is_sent_to_a_repository_that_everybody_sees_unless_that_is_wanted(stub: Stub, folder: Path) -> None:
    stub.private = False
    with pytest.raises(OptimaError, match="everybody can see it"):
        hub.push(folder, "me/team", private=True, message="x", api=HfApi(endpoint=stub.address, token="hf_dummy"))
    assert stub.kept == {}


def test_the_licence_of_the_base_is_put_on_the_card(stub: Stub, folder: Path) -> None:
    api = HfApi(endpoint=stub.address, token="hf_dummy")
    hub.add_licence(folder, "base/one", api=api)
    assert "license: llama3\n" in (folder / "README.md").read_text()
    before = len(stub.asked)
    hub.add_licence(folder, "tiny", api=api)
    assert len(stub.asked) == before  # a base that is not on the hub is not asked for there


@pytest.mark.parametrize("status", [401, 403, 500])
def test_what_the_hub_refuses_is_one_sentence(stub: Stub, folder: Path, status: int) -> None:
    stub.status = status
    with pytest.raises(OptimaError) as refused:
        hub.push(folder, "me/team", private=True, message="a team", api=HfApi(endpoint=stub.address, token="hf_dummy"))
    assert refused.value.hint is not None
    assert stub.kept == {}
