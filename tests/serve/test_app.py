"""A server in this process, asked over HTTP: what it answers is what the team says, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from asking import ASKED, KEY, Reply, Site  # noqa: E402

from optima_lite.errors import OptimaError  # noqa: E402
from optima_lite.serve.address import Limits, bound, limits_of  # noqa: E402


def test_the_team_says_what_it_says_in_python(site: Site) -> None:
    """Six at once: the answer as content, the dialogue as reasoning, tokens as they were sampled."""
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(site.ask, range(6)))
    for question, reply, wanted in zip(ASKED, replies, site.wanted, strict=False):
        told = reply.body["optima"]
        assert reply.status == 200 and reply.body["system_fingerprint"] == "a run"
        assert [(turn["name"], turn["content"], turn["tokens"]) for turn in told["dialogue"]] == [
            (turn.role, turn.text, turn.tokens) for turn in wanted.turns
        ]
        assert (told["answer"], told["ending"]) == (wanted.answer, str(wanted.ending))
        assert told["facts"] == dict(zip(("Alice", "Bob"), map(list, question.contexts), strict=True))
        assert reply.message["content"] == (wanted.answer or wanted.turns[-1].text)
        assert reply.message["reasoning_content"].startswith(f"Alice: {wanted.turns[0].text}")
        usage = reply.body["usage"]
        assert usage["completion_tokens"] == wanted.tokens and usage["prompt_tokens"] > wanted.tokens
        assert usage["total_tokens"] == usage["completion_tokens"] + usage["prompt_tokens"]
        finish = "length" if wanted.ending == "truncated" else "stop"
        assert reply.body["choices"][0]["finish_reason"] == finish


def test_the_same_seed_is_the_same_dialogue_whatever_the_load(site: Site) -> None:
    def one(k: int) -> Reply:
        return site.ask(0, seed=5, temperature=None) if k == 3 else site.ask(k, seed=k, temperature=1.2, top_p=0.9)

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(one, range(6)))[3].body["optima"]
    assert [turn["content"] for turn in told["dialogue"]] == [turn.text for turn in site.wanted[-1].turns]
    assert told["seed"] == 5
    first = site.ask(0, temperature=1.5).body["optima"]["seed"]
    assert first != site.ask(0, temperature=1.5).body["optima"]["seed"]


def test_several_choices_are_several_dialogues(site: Site) -> None:
    reply = site.ask(0, seed=5, temperature=2, n=3)
    talks = [[turn["content"] for turn in one["optima"]["dialogue"]] for one in reply.body["choices"]]
    first = site.ask(0, seed=5, temperature=2).body["optima"]["dialogue"]
    assert talks[0] == [turn["content"] for turn in first] and len({*map(str, talks)}) == 3
    said = sum(turn["tokens"] for one in reply.body["choices"] for turn in one["optima"]["dialogue"])
    assert reply.body["usage"]["completion_tokens"] == said


def test_a_stream_tells_the_same_bit_by_bit(site: Site) -> None:
    reply = site.ask(1, stream=True, stream_options={"include_usage": True}, seed=1)
    whole = site.ask(1, seed=1).body
    *chunks, closing, usage = reply.events
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert reasoning == whole["choices"][0]["message"]["reasoning_content"] + "\n"
    assert closing["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert closing["optima"] == whole["optima"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_roles_that_take_turns_through_a_client_say_what_the_team_says(site: Site) -> None:
    """The ids that were sampled come back, though the client knows only texts; the client gives no names at all."""
    for k, question in enumerate(ASKED[:3]):
        said: list[str] = []
        for turn in site.wanted[k].turns:
            speaker = ("Alice", "Bob").index(turn.role)
            facts = "\n".join(["Facts:", *(f"- {fact}" for fact in question.contexts[speaker])])
            messages = [
                {"role": "system", "content": facts},
                {"role": "user", "content": f"Question: {question.text}"},
                *({"role": "assistant", "content": text} for text in said),
            ]
            body = {"model": f"optima:{turn.role.lower()}", "temperature": 0, "messages": messages}
            reply = site.post(body)
            assert reply.message["content"] == turn.text, (k, len(said))
            assert reply.body["usage"]["completion_tokens"] == turn.tokens
            streamed = site.post(body | {"stream": True}).events
            pieces = [one["choices"][0]["delta"].get("content", "") for one in streamed]
            assert "".join(pieces) == turn.text
            assert turn.tokens < 17 or len([piece for piece in pieces if piece]) > 1
            said.append(turn.text)


def test_a_role_stops_before_a_text_and_at_a_limit(site: Site) -> None:
    messages = [{"role": "user", "content": f"Question: {ASKED[0].text}"}]
    body = {"model": "optima:alice", "temperature": 0, "messages": messages}
    whole = site.post(body).body
    text, tokens = whole["choices"][0]["message"]["content"], whole["usage"]["completion_tokens"]
    word = text.split()[2]
    expected = text[: text.index(word)].rstrip()
    for stream in (False, True):
        reply = site.post(body | {"stop": ["never said", word], "stream": stream})
        if stream:
            pieces = [one["choices"][0]["delta"].get("content", "") for one in reply.events]
            assert "".join(pieces) == expected and reply.events[-1]["choices"][0]["finish_reason"] == "stop"
        else:
            assert (reply.message["content"], reply.body["choices"][0]["finish_reason"]) == (expected, "stop")
            assert reply.body["usage"]["completion_tokens"] < tokens, "what comes after it is not even sampled"
    short = site.post(body | {"max_tokens": 3.0}).body  # JSON knows no difference
    assert short["usage"]["completion_tokens"] == 3 and short["choices"][0]["finish_reason"] == "length"
    dialogue = site.ask(0, max_completion_tokens=9).body
    assert dialogue["usage"]["completion_tokens"] == 9 and dialogue["choices"][0]["finish_reason"] == "length"


def test_the_single_agent_sees_what_the_team_sees(site: Site) -> None:
    reply = site.ask(0, model="optima:solo")
    (said,) = reply.body["optima"]["dialogue"]
    assert said["name"] == "Solo" and reply.body["optima"]["facts"] == [*ASKED[0].contexts[0], *ASKED[0].contexts[1]]


BAD: dict[str, tuple[Any, int, str | None]] = {
    "no JSON": (b"{", 400, None),
    "no UTF-8": (b'{"model": "\xff"}', 400, None),
    "nothing": (b"", 400, None),
    "a list": ([], 400, None),
    "deep": (b"[" * 3000, 400, None),
    "no messages": ({"messages": []}, 400, None),
    "no question": ({"messages": [{"role": "user", "content": " "}]}, 400, None),
    "half a pair": ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
    "a seed in quotes": ({"seed": "1"}, 400, None),
    "cold": ({"temperature": -1}, 400, None),
    "no number": (
        b'{"model": "optima", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        400,
        None,
    ),
    "a tool": ({"tools": [{}]}, 400, "unsupported_parameter"),
    "facts for a stranger": ({"optima": {"facts": {"Carol": ["x"]}}}, 400, "invalid_request"),
    "three hands": ({"optima": {"facts": [["x"], ["y"], ["z"]]}}, 400, "invalid_request"),
    "many choices": ({"n": 17}, 400, None),
    "a stranger": ({"model": "gpt"}, 404, "model_not_found"),
    "too long": (
        {"model": "optima:bob", "messages": [{"role": "user", "content": "a b c " * 600}]},
        400,
        "context_length_exceeded",
    ),
    "half a choice": ({"n": 1.5}, 400, None),
    "too large": (b"[" + b" " * 5000 + b"]", 413, None),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_answered_is_told_in_the_words_of_the_api(site: Site, case: str) -> None:
    body, status, code = BAD[case]
    usual = {"model": "optima", "messages": [{"role": "user", "content": "Question: who?"}]}
    reply = site.post(usual | body if isinstance(body, dict) else body)
    assert reply.status == status, reply.text
    assert set(reply.body) == {"error"} and set(reply.body["error"]) == {"message", "type", "param", "code"}
    assert reply.body["error"]["message"] and (code is None or reply.body["error"]["code"] == code)


def test_facts_beside_the_messages_are_not_even_tokenised_where_they_are_far_too_long(site: Site) -> None:
    from optima_lite.serve.requests import ChatRequest, Refusal

    body = {"messages": [{"role": "user", "content": "Question: who?"}]}
    facts = {"facts": {"Bob": ["a" * 64 * site.service.engine.generator.policy.max_length]}}
    for model in ("optima", "optima:bob"):
        asked = ChatRequest.model_validate(body | {"model": model, "optima": facts})
        with pytest.raises(Refusal, match="far longer"):
            site.service.company.task(asked)


def test_other_doors_are_shut(site: Site) -> None:
    assert site.ask().status == 200
    for key in ("", "another", "ключ"):
        reply = site.post({"model": "optima"}, key=key.encode().decode("latin-1"))
        assert reply.status == 401 and reply.body["error"]["code"] == "invalid_api_key"
    body = {"model": "optima", "messages": [{"role": "user", "content": "x"}]}
    assert site.post(body, key="another").status == 401 == site.send("GET", "/v1/models").status
    assert site.post(body, Host="evil.example").status == 400
    assert "chat/completions" in site.post(body, path="/v1/responses").body["error"]["message"]
    assert site.send("GET", "/docs").status == 404 and site.send("PUT", "/health").status == 405
    listed = site.send("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"}).body["data"]
    assert [one["id"] for one in listed] == ["optima", "optima:solo", "optima:alice", "optima:bob"]


def test_who_goes_away_stops_the_work_and_the_others_get_their_answers(site: Site) -> None:
    body = json.dumps(
        {"model": "optima", "temperature": 0, "messages": [{"role": "user", "content": ASKED[0].text}], "n": 8}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    lines = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(2)]
    for line in lines:
        line.sendall(head.encode() + body)
    while site.service.admission.unanswered < 16:
        time.sleep(0.001)
    assert site.ask(0, n=5).status == 429, "the line is full"
    for line in lines:
        line.close()
    reply = site.ask(2)
    assert reply.body["usage"]["completion_tokens"] == site.wanted[2].tokens
    site.quiet()
    metrics = site.send("GET", "/metrics").text
    assert 'optima_lite_requests_total{model="optima",status="499"} 2.0' in metrics
    assert 'status="429"} 1.0' in metrics and "optima_lite_rows_running 0.0" in metrics
    reused = re.search(r"^optima_lite_tokens_reused_total (\S+)$", metrics, re.MULTILINE)
    assert reused and float(reused[1]) > 0


def test_health_and_the_description_are_there(site: Site) -> None:
    assert site.send("GET", "/health").body == {"status": "ok"}
    described = site.send("GET", "/openapi.json").body
    assert "/v1/chat/completions" in described["paths"]


def test_others_may_only_ask_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTIMA_LITE_API_KEY", raising=False)
    assert limits_of("127.0.0.1", Limits()).loopback
    with pytest.raises(OptimaError, match="no key"):
        limits_of("0.0.0.0", Limits())
    monkeypatch.setenv("OPTIMA_LITE_API_KEY", "secret")
    limits = limits_of("0.0.0.0", Limits())
    assert (limits.key, limits.loopback) == ("secret", False)


def test_a_port_that_is_taken_is_told(site: Site) -> None:
    with pytest.raises(OptimaError, match="cannot be taken"):
        bound("127.0.0.1", site.port)


def test_who_does_not_read_what_it_asked_for_is_let_go_when_time_is_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optima_lite.serve.app import application

    monkeypatch.setattr(site.service, "limits", replace(site.service.limits, seconds=0.5, key=""))
    body = {"model": "optima", "messages": [{"role": "user", "content": "Question: who?"}], "stream": True}
    sent: list[Any] = [{"type": "http.request", "body": json.dumps(body).encode()}]
    scope = {
        **{
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "http_version": "1.1",
        },
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }

    async def receive() -> Any:
        return sent.pop() if sent else await asyncio.sleep(60)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def asked() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(application(site.service)(scope, receive, send), 20)

    asyncio.run(asked())
    site.quiet()
