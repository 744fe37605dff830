"""The page of a run: what it holds, that texts cannot act, and the server that follows a run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import made_runs
import pytest

from optima_lite.errors import OptimaError
from optima_lite.outlets import following
from optima_lite.outlets.blocks import BLOCK, shelve
from optima_lite.outlets.contents import Contents, contents
from optima_lite.outlets.following import Followed, server
from optima_lite.outlets.page import MARK, page
from optima_lite.records import Rollouts, Tree
from optima_lite.runs.folder import read_run
from optima_lite.runs.store import Run
from support import call

VIEWER = Path(following.__file__).parent / "viewer"


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def values(found: Contents, shelf: dict[str, Any]) -> list[Any]:
    """Everything on a shelf, and that its starts are true."""
    blocks = [unpacked(found.blocks[name]) for name in shelf["names"]]
    assert shelf["starts"] == [sum(map(len, blocks[:k])) for k in range(len(blocks))]
    every = [value for block in blocks for value in block]
    assert len(every) == shelf["count"]
    return every


def shown(folder: Path, *others: Path) -> Contents:
    return contents([read_run(path) for path in (folder, *others)])


# --- What is in it --------------------------------------------------------------------------------


def test_every_stored_dialogue_is_shown_with_all_that_was_said(tmp_path: Path) -> None:
    run = read_run(made_runs.make(tmp_path / "run"))
    found = contents([run])
    stages = {
        "untrained_sampled": "evaluation/untrained_sampled",
        "iteration_0_sampled": "evaluation/iteration_00_sampled",
    }
    stages |= {"training_0": "iteration_00/2_rewards"}
    assert {one["key"] for one in found.index["dialogues"]} == {*stages}
    for one in found.index["dialogues"]:
        groups = list(run.read(stages[one["key"]], Rollouts))
        dialogues = [(group.question, each) for group in groups for each in group.dialogues]
        texts = [[turn[2] for turn in turns] for turns, *_ in values(found, one["texts"])]
        assert texts == [[turn.text for turn in each.turns] for _, each in dialogues]
        assert one["tokens"] == [each.tokens for _, each in dialogues]
        assert [found.index["questions"]["texts"][k] for k in one["questions"]] == [
            asked.text for asked, _ in dialogues
        ]
        assert [found.index["endings"][k] for k in one["endings"]] == [
            {"agreed": "agreed", "max_turns": "out of turns", "truncated": "truncated"}[str(each.ending)]
            for _, each in dialogues
        ]
    (training,) = (one for one in found.index["dialogues"] if one["kind"] == "training")
    assert training["imitated"] == [1, 0, 0] * 4


def test_a_question_is_stored_once_with_its_facts(tmp_path: Path) -> None:
    found = shown(made_runs.make(tmp_path / "a"), made_runs.make(tmp_path / "b", facts=60))
    texts, facts = found.index["questions"]["texts"], values(found, found.index["questions"]["facts"])
    assert len(texts) == len(facts) == 2 * (6 + 4)  # as often as the facts differ
    first, second = (next(one for one in found.index["dialogues"] if one["run"] == k) for k in (0, 1))
    same = found.index["questions"]["same"]
    assert [same[k] for k in first["questions"]] == [same[k] for k in second["questions"]]
    assert facts[first["questions"][0]][0] != facts[second["questions"][0]][0]


def test_a_tree_marks_the_messages_of_its_pairs(tmp_path: Path) -> None:
    run = read_run(made_runs.make(tmp_path / "run"))
    found = contents([run])
    (trees,), (pairs,) = found.index["trees"], found.index["pairs"]
    (nodes, expanded), _ = values(found, trees["texts"])
    stored = run.read("iteration_00/6_trees", Tree)[0]
    assert [node[0] for node in nodes] == [node.parent for node in stored.nodes]
    assert [node[5] for node in nodes] == [[], ["chosen"], ["rejected"], [], [], [], []]
    assert expanded == [0, 1]
    assert trees["marked"] == [1, 1]
    assert [(p[1][0][2], p[2][0][2]) for p in values(found, pairs["texts"])] == [("message 1", "message 2")] * 2


def test_two_runs_are_told_apart_and_compared(tmp_path: Path) -> None:
    found = shown(made_runs.make(tmp_path / "a"), made_runs.make(tmp_path / "b", held_out=3))
    assert [one["run"] for one in found.index["compared"]] == ["a", "b"]
    assert found.index["compared"][1]["shared"] == 3
    assert {one["prefix"] for one in found.index["dialogues"]} == {"1.", "2."}


def test_a_team_of_four_keeps_its_names(tmp_path: Path) -> None:
    found = shown(made_runs.make(tmp_path / "run", made_runs.FOUR))
    assert found.index["runs"][0]["speakers"] == ("First", "Second", "Third", "Fourth")
    assert found.index["runs"][0]["holders"] == ()
    turns, _, beats = values(found, found.index["dialogues"][0]["texts"])[0]
    assert [turn[0] for turn in turns] == [0, 1, 2, 3]
    assert not beats  # messages are told in the order in which they were said


def test_of_a_stream_is_told_who_spoke_at_which_tick(tmp_path: Path) -> None:
    streamed = made_runs.FOUR | {"team": made_runs.FOUR["team"] | {"transfer": "stream"}}
    found = shown(made_runs.make(tmp_path / "run", streamed))
    for one in found.index["dialogues"]:
        for turns, _, beats in values(found, one["texts"]):
            assert len(turns) == 4
            assert beats == [["First", [1]], ["Second", [2]], ["Third", [3]], ["Fourth", [4]]]


def test_a_run_that_has_only_begun_is_shown(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", {"recipe": made_runs.PAIR, "recipe_name": "made"}):
        pass
    found = shown(tmp_path / "run")
    assert found.index["dialogues"] == found.index["trees"] == found.index["runs"][0]["evaluations"] == []
    assert MARK in page(found)


def test_texts_stay_apart_from_the_index_in_blocks_of_bounded_size(tmp_path: Path) -> None:
    """What is unpacked at the start grows with the number of dialogues, not with what is said in them."""
    short = shown(made_runs.make(tmp_path / "short", length=4, training=40))
    long = shown(made_runs.make(tmp_path / "long", length=2000, training=40))
    assert len(json.dumps(long.index)) < 1.3 * len(json.dumps(short.index))
    sizes = [len(gzip.decompress(base64.b64decode(packed))) for packed in long.blocks.values()]
    assert len(sizes) > 4
    assert max(sizes) < BLOCK + 20_000  # one dialogue more than a block holds
    assert sum(sizes) > 20 * max(len(json.dumps(short.index)), 1000)


def test_a_shelf_has_a_block_for_everything_and_none_for_nothing() -> None:
    blocks: dict[str, str] = {}
    assert shelve([], blocks) == {"count": 0, "starts": [], "names": []}
    shelf = shelve(([k] * 10 for k in range(100)), blocks, size=64)
    assert len(shelf["names"]) == len(shelf["starts"]) > 10
    assert [v for name in shelf["names"] for v in unpacked(blocks[name])] == [[k] * 10 for k in range(100)]


# --- The file -------------------------------------------------------------------------------------


class Markup(HTMLParser):
    """The tags of a page with their attributes, and what each script holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.contents.append("")

        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.contents[-1] += data


def test_hostile_texts_are_no_markup_and_come_back_whole(tmp_path: Path) -> None:
    plain = Markup(page(shown(made_runs.make(tmp_path / "plain"))))
    found = shown(made_runs.make(tmp_path / "hostile", hostile=True))
    text = page(found)
    tags = [(tag, sorted(attributes)) for tag, attributes in Markup(text).tags if tag != "script"]
    assert tags == [(tag, sorted(attributes)) for tag, attributes in plain.tags if tag != "script"]
    assert text.isprintable() or not {c for c in text if not c.isprintable()} - {"\n"}
    said = [turns[0][2] for turns, *_ in values(found, found.index["dialogues"][0]["texts"])][-len(made_runs.HOSTILE) :]
    assert said == [*made_runs.HOSTILE]


def test_the_policy_of_the_page_allows_its_own_script_alone(tmp_path: Path) -> None:
    markup = Markup(page(shown(made_runs.make(tmp_path / "run"))))
    (policy,) = (a["content"] for tag, a in markup.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in (policy or "").split("; "))
    assert rules.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    runs = [
        content
        for (tag, attributes), content in zip(markup.tags, markup.contents, strict=True)
        if tag == "script" and "type" not in attributes
    ]
    (script,) = runs
    assert rules["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert not [a for _, a in markup.tags if {"src", "href", "style"} & a.keys() or any(k.startswith("on") for k in a)]


def test_the_script_never_makes_markup_of_text() -> None:
    script = "".join(path.read_text("utf-8") for path in sorted(VIEWER.glob("*.js")))
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?://(?!www\.w3\.org/2000/svg)",
        script,
    )


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run")
    assert page(shown(folder)) == page(shown(folder))


def test_the_script_finds_blocks_searches_and_keeps_its_place() -> None:
    """The parts of the script that need no browser, in node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    stub = "const document = { documentElement: { hasAttribute: () => false } }; const history = {};"
    parts = "".join((VIEWER / f"{name}.js").read_text("utf-8") for name in ("base", "store", "place"))
    checks = Path(__file__).with_name("script_checks.js").read_text("utf-8")
    done = subprocess.run([node, "-"], input=f"{stub}\n{parts}\n{checks}", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", "checks"]


# --- The command ----------------------------------------------------------------------------------


def test_view_writes_a_page_and_replaces_nothing_but_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_runs.make(tmp_path / "runs" / "one")
    first = call("view", "one", "--no-open")
    assert first.code == 0
    assert first.out.startswith("wrote one.html (")
    assert call("view", "one", "--no-open").code == 0
    (tmp_path / "one.html").write_text("mine")
    refused = call("view", "one", "--no-open")
    assert refused.code == 2
    assert "is no page of a run" in refused.err
    assert (tmp_path / "one.html").read_text() == "mine"
    assert call("view", "nothing", "--no-open").code == 2
    assert call("view", "one", "--no-open", "--output", str(tmp_path / "no" / "where.html")).code == 2
    assert call("view", "one", "--live", "--output", "x.html").code == 2


# --- Following a run ------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Followed, HTTPConnection]]:
    folder = made_runs.make(tmp_path / "run")
    followed = Followed([read_run(folder)], clock=lambda: 0.0)
    with server(followed, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = HTTPConnection("127.0.0.1", serving.server_address[1])
        yield folder, followed, connection
        connection.close()
        serving.shutdown()
        thread.join()


def asked(connection: HTTPConnection, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_what_a_run_adds_is_seen_and_what_stands_is_not_sent_again(
    served: tuple[Path, Followed, HTTPConnection],
) -> None:
    folder, followed, connection = served
    status, document, _ = asked(connection, "/")
    assert (status, "data-live" in document, "connect-src 'self'" in document) == (200, True, True)
    status, text, headers = asked(connection, "/index")
    before = unpacked(text)
    assert status == 200
    assert asked(connection, "/index", If_None_Match=headers["ETag"])[:2] == (304, "")
    run = read_run(folder)
    more = [*run.read("iteration_00/2_rewards", Rollouts)]
    with Run.open(folder, run.manifest) as writing:
        writing.append("iteration_01/1_dialogues", more)
    status, text, _ = asked(connection, "/index", If_None_Match=headers["ETag"])
    after = unpacked(text)
    assert status == 200
    new = [one["key"] for one in after["dialogues"] if one not in before["dialogues"]]
    assert new == ["training_1"]
    name = after["dialogues"][0]["texts"]["names"][0]
    assert unpacked(asked(connection, f"/blocks/{name}")[1]) == unpacked(followed.block(name) or "")


def test_the_server_answers_nobody_else(served: tuple[Path, Followed, HTTPConnection]) -> None:
    _, _, connection = served
    assert asked(connection, "/", Host="elsewhere.example")[0] == 403
    for path in ("/manifest.json", "/blocks/../manifest.json", "/blocks/", "/index/x"):
        assert asked(connection, path)[0] == 404


def test_records_that_cannot_be_read_are_told_and_the_server_goes_on(
    served: tuple[Path, Followed, HTTPConnection],
) -> None:
    folder, _, connection = served
    path = folder / "iteration_00" / "2_rewards.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"{}\n" + whole)
    status, text, _ = asked(connection, "/index")
    assert (status, "2_rewards.jsonl" in text) == (503, True)
    path.write_bytes(whole)
    assert asked(connection, "/index")[0] == 200


def test_a_run_is_read_no_more_than_a_tenth_of_the_time(tmp_path: Path) -> None:
    folder, now, readings = made_runs.make(tmp_path / "run"), 0.0, 0

    def clock() -> float:
        return now

    def reading(runs: Any) -> Contents:
        nonlocal now, readings
        now, readings = now + 5.0, readings + 1
        return Contents({"reading": readings}, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "contents", reading)
        followed = Followed([read_run(folder)], clock=clock)
        for moment in range(6, 300, 2):
            now = max(now, float(moment))
            (folder / "summary.json").write_text(json.dumps({"moment": moment}))
            followed.index()
    assert 5 <= readings <= 6  # of five seconds each, in three hundred


def test_a_port_in_use_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    followed = Followed([read_run(made_runs.make(tmp_path / "run"))])
    with server(followed, 0) as serving, pytest.raises(OptimaError, match="cannot be taken"):
        server(followed, int(serving.server_address[1]))
