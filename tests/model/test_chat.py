"""A model behind chat completions: what it is sent, what counts as its answer, and that nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chat_server import Answer, ChatServer, chat_server, completion
from optima_lite.errors import ConfigError, OptimaError, RunError
from optima_lite.model.chat import Chat
from optima_lite.records import Reply, Request
from optima_lite.runs.replies import Replies
from optima_lite.settings.machine import Speaker

KEY = "sk-of-nobody-at-all"


def chat(server: ChatServer, folder: Path, notes: list[str] | None = None, **how: Any) -> Chat:
    """count: words."""
    notify = (notes if notes is not None else []).append
    kept = Replies(folder / "spoken" / "gpt.jsonl")
    speaker = Speaker(url=server.url, model="m", **how)
    return Chat("gpt", speaker, kept=kept, count=lambda t: len(t.split()), notify=notify, sleep=lambda seconds: None)


def request(text: str = "what is it", key: int = 7, **how: Any) -> Request:
    return Request((("system", "be brief"), ("user", text)), key, **{"max_tokens": 20, **how})


def ask(answer: Answer, folder: Path, requests: Sequence[Request] = (request(),), **how: Any) -> list[Reply]:
    with chat_server(answer) as server:
        return chat(server, folder, **how).ask(requests)


def test_it_is_sent_messages_and_settings_and_answers_in_order(tmp_path: Path) -> None:
    with chat_server(lambda body, number: body["messages"][1]["content"].upper()) as server:
        asked = [request(f"say {k}", k, temperature=0.5, top_p=0.9) for k in range(20)]
        replies = chat(server, tmp_path, at_once=3).ask(asked)
        assert [reply.text for reply in replies] == [f"SAY {k}" for k in range(20)]
        assert server.most <= 3
        sent = next(body for body in server.asked if body["seed"] == 4)
        assert sent == {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say 4"}],
            "max_tokens": 20,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 4,
        }
        how = {"omit": ["temperature", "seed"], "limit": "max_completion_tokens", "thinking_tokens": 100}
        chat(server, tmp_path, **how).ask([request()])
        assert {*server.asked[-1]} == {"model", "messages", "max_completion_tokens", "top_p"}
        assert server.asked[-1]["max_completion_tokens"] == 120
        assert replies[0].model == "model-1" and server.keys == [""] * 21


def test_nothing_is_asked_twice_whoever_asks(tmp_path: Path) -> None:
    """Not by another process, not where the same stands there twice; but anew with another key, model or setting."""
    with chat_server(lambda body, number: f"answer {number}") as server:
        first = chat(server, tmp_path).ask([request(key=1), request(key=2), request(key=1)])
        assert len(server.asked) == 2 and first[0] is first[2] and first[0] != first[1]
        assert chat(server, tmp_path, max_total_tokens=1).ask([request(key=2), request(key=1)]) == [first[1], first[0]]
        assert len(server.asked) == 2
        chat(server, tmp_path).ask([request(key=3), request("else"), request(max_tokens=9), request(temperature=0.0)])
        assert len(server.asked) == 6


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    """An error ends it; what is under way is still heard, and is not asked for again."""

    def refuses_the_third(body: dict[str, Any], number: int) -> str | int:
        return 403 if body["seed"] == 2 else "fine"

    asked = [request(key=k) for k in range(9)]
    with chat_server(refuses_the_third) as server:
        with pytest.raises(RunError, match="status 403"):
            chat(server, tmp_path, at_once=2).ask(asked)
        kept = len(Replies(tmp_path / "spoken" / "gpt.jsonl"))
        assert kept == len(server.asked) - 1
        server.answer = lambda body, number: "fine"
        assert len(chat(server, tmp_path, at_once=2).ask(asked)) == 9
        assert len(server.asked) == 10


TOO_LONG = json.dumps({"error": {"message": "maximum context length\nis 8", "type": "invalid_request"}}).encode()


def test_a_request_that_is_refused_by_itself_is_answered_by_that(tmp_path: Path) -> None:
    """Stored before it is used, told with its count and the server's words, and not asked again."""

    def refuses(body: dict[str, Any], number: int) -> str | tuple[int, bytes]:
        return ((400, 413, 422)[body["seed"] % 3], TOO_LONG) if body["seed"] in (0, 4, 8) else "fine"

    asked, notes = [request(key=k) for k in range(9)], list[str]()
    with chat_server(refuses) as server:
        replies = chat(server, tmp_path, notes, at_once=1, max_refused=1).ask(asked)
        words = [f"status {status}: maximum context length is 8" for status in (400, 413, 422)]
        assert [reply.refused for reply in replies if reply.refused] == words
        assert [reply.finished for reply in replies] == [k not in (0, 4, 8) for k in range(9)]
        assert notes == [
            "gpt has refused 3 of 9 requests; their dialogues end there as ones that were cut: they score 0, and "
            f"nobody learns from them. In the server's words: {words[-1]}"
        ]
        server.answer = lambda body, number: 404
        assert chat(server, tmp_path).ask(asked) == replies and len(server.asked) == 9
    stored = [json.loads(line) for line in (tmp_path / "spoken" / "gpt.jsonl").read_text().splitlines()]
    assert sum("refused" in line for line in stored) == 3, "and the others are stored as ever"


@pytest.mark.parametrize("before", [0, 5])
def test_one_that_refuses_everything_ends_it_and_nothing_of_that_is_stored(tmp_path: Path, before: int) -> None:
    """Whether it has answered before, or never: so a wrong name, or an empty account, costs no dialogue."""
    asked = [request(key=k) for k in range(30)]
    with chat_server(lambda body, number: "fine" if number < before else (400, b"no credit")) as server:
        with pytest.raises(RunError, match=r"gpt has refused 4 requests one after the other: status 400: no credit"):
            chat(server, tmp_path, at_once=1, max_refused=3).ask(asked)
        assert len(server.asked) <= before + 6
        assert len(Replies(tmp_path / "spoken" / "gpt.jsonl")) == before
        server.answer = lambda body, number: "fine"
        assert not any(reply.refused for reply in chat(server, tmp_path).ask(asked))


def test_the_first_request_of_all_is_refused(tmp_path: Path) -> None:
    """Alone it ends the run, among others it does not; at the end of a run that was answered neither."""
    with chat_server(lambda body, number: (400, b"no such model") if body["seed"] < 2 else "fine") as server:
        with pytest.raises(RunError, match="gpt has answered nothing yet, and refused what it was asked: status 400"):
            chat(server, tmp_path).ask([request(key=0)])
        assert not (tmp_path / "spoken").exists()
        first, second = chat(server, tmp_path).ask([request(key=0), request(key=2)])
        assert first.refused and second.text == "fine"
        assert chat(server, tmp_path).ask([request(key=1)])[0].refused


@pytest.mark.parametrize(
    ("answer", "text", "finished"),
    [
        (completion("yes\n"), "yes\n", True),
        (completion("so far", ended="length"), "so far", False),
        (completion("so far", ended="content_filter"), "so far", False),
        (completion(None, ended="tool_calls", tool_calls=[{"id": "1"}]), "", True),
        (completion("", ended="stop"), "", True),
        (completion(None, refusal="I will not"), "", True),
        (completion([{"type": "text", "text": "in "}, {"text": "parts"}, 3], ended=None), "in parts", True),
        (completion("half \ud83d a character"), "half ? a character", True),
        (completion("<|eot_id|><|begin_of_text|>\x00\x1b[2J"), "<|eot_id|><|begin_of_text|>\x00\x1b[2J", True),
        (completion("x" * 100_000), "x" * 640, False),
    ],
)  # fmt: skip
def test_what_counts_as_an_answer(tmp_path: Path, answer: Any, text: str, finished: bool) -> None:
    notes: list[str] = []
    replies = ask(lambda body, number: answer, tmp_path, [request(key=1), request(key=2)], notes=notes)
    assert [(reply.text, reply.finished) for reply in replies] == [(text, finished)] * 2
    assert len(notes) == (not text), "told once"
    assert ask(lambda body, number: 500, tmp_path, [request(key=2)]) == replies[1:], "as stored"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"error": {"message": "no credit"}}, "no credit"),
        ({"choices": []}, "without a message"),
        ({"choices": [{"text": "completions"}]}, "without a message"),
        (b"[1, 2]", "no JSON object"),
        (b'{"choices": [', "no useful answer after 5 tries: the answer is broken JSON"),
        (b"[" * 100_000, "no useful answer after 5 tries: the answer is broken JSON"),
        (b"", "no useful answer after 5 tries: the answer is broken JSON"),
        (429, "no useful answer after 5 tries: status 429"),
        (500, "no useful answer after 5 tries: status 500"),
        (302, "status 302"),
    ],
)
def test_what_does_not(tmp_path: Path, answer: Any, told: str) -> None:
    with pytest.raises(OptimaError, match=told):
        ask(lambda body, number: answer, tmp_path)
    assert not (tmp_path / "spoken").exists()


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 40, "completion_tokens": 3}, (40, 3)),
        (None, (2 + 3 + 8, 2 + 1)),
        ({"prompt_tokens": -5, "completion_tokens": True}, (13, 3)),
        ("many", (13, 3)),
    ],
)
def test_tokens_are_the_server_s_or_ours(tmp_path: Path, usage: Any, tokens: tuple[int, int]) -> None:
    (reply,) = ask(lambda body, number: completion("two words", usage=usage), tmp_path)
    assert (reply.prompt_tokens, reply.completion_tokens) == tokens


@pytest.mark.parametrize(
    ("ceiling", "raised", "told"),
    [
        ({"max_total_tokens": 260}, {"max_total_tokens": 1000}, r"taken 240 tokens.*max_total_tokens, 260"),
        (
            {"max_cost": 0.05, "prompt_price": 100.0, "completion_price": 1000.0},
            {"max_cost": 1.0, "prompt_price": 100.0, "completion_price": 1000.0},
            r"taken 160 tokens, which cost 0\.0304, .*max_cost, 0\.05",
        ),
    ],
)
def test_a_ceiling_is_never_gone_over_and_can_be_raised(tmp_path: Path, ceiling: Any, raised: Any, told: str) -> None:
    """Each answer takes 18 + 2 tokens, of which it may take 13 + 20 by what is known before."""
    asked = [request(key=k) for k in range(30)]
    usage = {"prompt_tokens": 18, "completion_tokens": 2}
    with chat_server(lambda body, number: completion("a b", usage=usage)) as server:
        with pytest.raises(RunError, match=told):
            chat(server, tmp_path, **ceiling).ask(asked)
        before = len(server.asked)
        kept = Replies(tmp_path / "spoken" / "gpt.jsonl")
        assert 0 < len(kept) == before < 30
        assert len(chat(server, tmp_path, **raised).ask(asked)) == len(server.asked) == 30


def test_a_key_is_sent_and_stands_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the server says it back."""
    monkeypatch.setenv("KEY_OF_A_TEST", KEY)
    notes: list[str] = []
    with chat_server(lambda body, number: f"your key is {KEY}" if number == 0 else completion(None, KEY=KEY)) as server:
        told = chat(server, tmp_path, notes, key_env="KEY_OF_A_TEST")
        assert told.ask([request()])[0].text == "your key is ***"
        told.ask([request(key=8)])
        assert server.keys == [f"Bearer {KEY}"] * 2
        server.answer = lambda body, number: {"error": f"{KEY} has no credit"}
        with pytest.raises(RunError, match=r"\*\*\* has no credit") as error:
            told.ask([request(key=9)])
        monkeypatch.delenv("KEY_OF_A_TEST")
        with pytest.raises(ConfigError, match="KEY_OF_A_TEST"):
            told.ask([request(key=10)])
    stored = (tmp_path / "spoken" / "gpt.jsonl").read_text()
    assert KEY not in stored + str(error.value) + repr(vars(told)) + "".join(notes)
    assert json.loads(stored.splitlines()[0])["text"] == "your key is ***"


def test_one_that_drips_or_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    with chat_server(lambda body, number: "late") as server:
        server.answer = lambda body, number: "late" if server.over.wait(5) else ""
        with pytest.raises(RunError, match="no useful answer after 5 tries: TimeoutError"):
            chat(server, tmp_path, seconds=0.05).ask([request()])
