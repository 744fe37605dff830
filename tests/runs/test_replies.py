"""Replies on the disk: each once, whole or not at all, whatever a kill has left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optima_lite.records import Reply
from optima_lite.runs.folder import RunFolder
from optima_lite.runs.replies import Replies, replies_in
from optima_lite.runs.spoken_view import spoken_lines
from optima_lite.runs.summary import elsewhere
from optima_lite.settings.machine import Speaker

ONE = Reply("a", "first\nline\u2028", "stop", 10, 2, "m-1")


def test_they_are_found_again_and_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "spoken" / "gpt.jsonl"
    replies = Replies(path)
    for reply in (ONE, replace(ONE, key="b", model="m-2"), replace(ONE, text="again")):
        replies.add(reply)
    for found in (replies, Replies(path), replies_in(tmp_path)["gpt"]):
        assert (len(found), found.prompt_tokens, found.completion_tokens) == (2, 20, 4)
        assert found.get("a") == ONE and found.get("c") is None
        assert found.models == ("m-1", "m-2")
    assert replies_in(tmp_path / "none") == {}


def test_what_a_kill_has_cut_short_was_never_written(tmp_path: Path) -> None:
    """At any byte: the replies before it are there, and those after it, which another start adds."""
    path = tmp_path / "gpt.jsonl"
    Replies(path).add(ONE)
    Replies(path).add(replace(ONE, key="b"))
    whole = path.read_bytes()
    half = len(whole) // 2  # where the first line ends
    for cut in (0, 1, half - 2, half - 1, half, half + 1, len(whole) - 2, len(whole) - 1, len(whole)):
        path.write_bytes(whole[:cut])
        found = Replies(path)
        assert len(found) == whole[:cut].count(b"\n") + (cut in (half - 1, len(whole) - 1))
        found.add(replace(ONE, key="c"))
        again = Replies(path)
        assert len(again) == len(found) and again.get("c") is not None


def test_what_they_took_is_told_with_its_price_and_its_refusals(tmp_path: Path) -> None:
    """By their own count, apart from the tokens of the tables."""
    run, replies = RunFolder(tmp_path, {"recipe": {}}), Replies(tmp_path / "spoken" / "gpt.jsonl")
    assert spoken_lines(run) == [] and elsewhere(run) == {}
    for number in range(30):
        replies.add(replace(ONE, key=str(number)))
    replies.add(Reply("r", "", "", 0, 0, refused="status 400: a filter"))
    took = "gpt (m-1) has spoken: 30 messages, 300 tokens read and 60 said by its own count"
    refused = "; 1 requests refused, the last: status 400: a filter. The tables count its messages by our tokenizer"
    assert spoken_lines(run)[0].plain.startswith(took + refused)
    price = Speaker(url="http://x/v1", model="m", prompt_price=2.0, completion_price=10.0)
    assert spoken_lines(run, {"gpt": price})[0].plain.startswith(f"{took}, which cost 0.0012{refused}")
    took_all = {"messages": 30, "refused": 1, "prompt_tokens": 300, "completion_tokens": 60}
    assert elsewhere(run) == {"elsewhere": {"gpt": took_all}}
