"""Rows that others have said, for a team: what becomes a demonstration, and every reason why a row does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.errors import DataError
from optima_lite.learn.rollout import Agents
from optima_lite.learn.teaching import require_alike, retold
from optima_lite.records import Ending, Origin, Question, Rollouts, from_json
from optima_lite.runs.demonstrations import read_demonstrations
from optima_lite.settings.teams import shipped
from optima_lite.stage.cast import Cast
from optima_lite.tasks import world
from optima_lite.tasks.trajectories import Unfit
from optima_lite.team.prompts import marked
from support import SMALL, call
from talks import openai_row, said_about, sharegpt_row

ROLES = "user=Alice,assistant=Bob,human=Alice,gpt=Bob"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def test_every_row_is_used_or_refused_with_its_line_and_its_reason(recipe: Path) -> None:
    train, held_out = world.questions("train", 4, seed=0), world.questions("held_out", 1, seed=0)[0]
    first, second = train[:2]
    said = said_about(first)
    bare = {key: value for key, value in openai_row(first).items() if key != "contexts"}
    rows: list[Any] = [
        b"\xef\xbb\xbf" + json.dumps(openai_row(first)).encode(),
        sharegpt_row(second),
        openai_row(first),  # line 3: again
        openai_row(train[2], ["user", "user", "assistant", "user"]),  # the wrong speaker
        {**openai_row(first), "answers": []},
        openai_row(held_out),
        b'{"messages": [',  # line 7
        {**openai_row(train[2]), "messages": [{"role": "narrator", "content": "Once."}]},
        openai_row(train[2], said=["x" * 100_000, *said[1:]]),
        openai_row(train[2], said=[f"{said[0]} <|eot_id|>", *said[1:]]),
        openai_row(train[2], said=[*said, " ok"]),
        openai_row(train[2], said=said[:1]),
        {**openai_row(first), "messages": []},
        bare,
        {**bare, "facts": [fact for hand in first.contexts for fact in hand]},
        {**openai_row(train[3]), "source": "kept out of what is stored"},
    ]
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    Path("talks.jsonl").write_bytes(b"\n".join(lines))

    licence = ("--licence", "CC-BY-4.0", "--source", "example.org/talks")
    done = call("import", "talks.jsonl", "--recipe", recipe, "--roles", ROLES, *licence)
    assert done.code == 0, done.err
    told = [line.strip() for line in done.out.splitlines()]
    assert told[0] == "wrote talks.demonstrations.jsonl: 3 demonstrations"
    assert told[1] == (
        "refused 13 rows: 3 wrong order, 2 no facts, 1 duplicate, 1 no answer, 1 held out, 1 not JSON, "
        "1 unknown role, 1 too long, 1 special token, 1 empty"
    )
    expected = {
        3: "duplicate: says what line 1 says",
        4: "wrong order: message 2 is Alice's, and the team's step `second` is Bob's",
        5: "no answer: no field answers, and without it there is no score",
        6: "held out: its question is among the held-out questions, and a run would learn what judges it",
        7: "not JSON: Expecting value at column 15",
        8: "unknown role: message 1 is by narrator, who has no part in the team",
        9: "too long: message 1 has 100,001 tokens, and a message has 24 at most",
        10: "special token: message 1 spells <|eot_id|>",
        11: "wrong order: goes on with message 4 after the end of the team's talk",
        12: "wrong order: ends where the team goes on: with Bob at the step `second`",
        13: "empty: messages holds a list, and no messages",
        14: "no facts: has no facts, and Alice and Bob share some out",
        15: "no facts: has its facts in one list; `contexts` tells Alice and Bob theirs",
    }
    assert told[2:] == [f"line {line}: {why}" for line, why in expected.items()]

    found = read_demonstrations(Path("talks.demonstrations.jsonl"))
    origins = [row.dialogues[0].taught for row in found]
    assert [origin.line for origin in origins if origin] == [1, 2, 16]
    assert {(one.teacher, one.licence, one.source, len(one.sha256 or "")) for one in origins if one} == {
        ("talks.jsonl", "CC-BY-4.0", "example.org/talks", 64)
    }
    for row, question in zip(found, (first, second, train[3]), strict=True):
        (dialogue,) = row.dialogues
        assert dialogue.answer == question.answers[0] and dialogue.ending is Ending.AGREED
        assert (row.question.text, row.question.contexts) == (question.text, question.contexts)
        assert all(turn.ids and turn.finished for turn in dialogue.turns)

    again = call("import", "talks.jsonl", "--recipe", recipe, "--roles", ROLES, "--licence", "unknown")
    assert again.code == 2 and "exists already" in again.err
    none = call("import", "talks.jsonl", "--recipe", recipe, "--licence", "unknown", "-o", "other.jsonl")
    assert none.code == 2 and "none of its rows can be used\n  try: --roles says who is who" in none.err
    assert not Path("other.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--recipe: for which team, model and task?"),
        (("--recipe", "quickstart"), "--licence: under which licence may the file be used?"),
        (("--recipe", "quickstart", "--licence", "x", "--roles", "user"), "--roles: must be such as user=Alice"),
        (("--recipe", "market_quickstart", "--licence", "x"), "a market has no fixed order of messages"),
        (
            ("--recipe", "quickstart", "--licence", "x", "--roles", "user=Carol"),
            "--roles: user=Carol: nobody of the team is called Carol\n  try: one of Alice, Bob, question, nobody",
        ),
    ],
)
def test_what_the_command_needs_to_know(recipe: Path, options: tuple[str, ...], said: str) -> None:
    Path("talks.jsonl").write_text("{}\n")
    done = call("import", "talks.jsonl", *options)
    assert done.code == 2 and said in done.err


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("", "talks.jsonl: is empty"),
        ("\n\n", "talks.jsonl: holds no row"),
        ("[\n{\n", "none of its rows can be used\n  try: a JSON object a line, in UTF-8"),
        ("{}\n", "none of its rows can be used\n  try: docs/teacher.md tells what a row needs"),
    ],
)
def test_a_file_of_which_nothing_can_be_used(recipe: Path, held: str, said: str) -> None:
    Path("talks.jsonl").write_text(held)
    done = call("import", "talks.jsonl", "--recipe", recipe, "--licence", "unknown")
    assert done.code == 2 and said in done.err


def test_many_refused_rows_are_all_in_a_file(recipe: Path) -> None:
    good = json.dumps(openai_row(world.questions("train", 1, seed=0)[0]))
    Path("talks.jsonl").write_text("\n".join([good, *["[]"] * 30]))
    done = call("import", "talks.jsonl", "--recipe", recipe, "--roles", ROLES, "--licence", "unknown")
    assert "and 10 more, all in talks.demonstrations.refused.jsonl" in done.out
    refused = [json.loads(line) for line in Path("talks.demonstrations.refused.jsonl").read_text().splitlines()]
    assert [one["line"] for one in refused] == [*range(2, 32)] and {one["why"] for one in refused} == {"not JSON"}


def test_a_team_with_a_tool_and_one_of_a_single_agent(assembled: Cast) -> None:
    question, origin = world.questions("train", 1, seed=0)[0], Origin("x", "unknown")
    value = question.answers[0]

    def said(team: str, *messages: tuple[str, str]) -> Any:
        agents = replace(assembled.team, workflow=marked(shipped(team), "f1"))
        return retold(agents, question, messages, most_tokens=40, origin=origin)

    looked_up = said(
        "decompose_retrieve_answer",
        ("Decomposer", "1. who is it"),
        ("retrieve", "nobody knows"),
        ("Answerer", f"<A> {value} </A>"),
    )
    assert [len(turn.ids) > 0 for turn in looked_up.turns] == [True, False, True] and looked_up.answer == value
    assert looked_up.ending is Ending.DONE
    alone = said("solo", ("Solo", f"<A> {value} </A>\n"))
    assert alone.answer == value and alone.turns[0].text == f"<A> {value} </A>"
    with pytest.raises(Unfit, match="message 2 is Answerer's, and the team's step `retrieve` is retrieve's"):
        said("decompose_retrieve_answer", ("Decomposer", "1. who"), ("Answerer", "x"))


# --- A stored row, read again ---------------------------------------------------------------------


@pytest.fixture
def told(assembled: Cast) -> tuple[Agents, Question, Rollouts]:
    question = world.questions("train", 1, seed=0)[0]
    said = [(("Alice", "Bob")[k % 2], text) for k, text in enumerate(said_about(question))]
    dialogue = retold(assembled.team, question, said, most_tokens=24, origin=Origin("x", "unknown", line=1))
    return assembled.team, question, Rollouts(question, (dialogue,))


def test_a_row_reads_back_as_it_was_and_a_changed_one_is_refused(told: tuple[Agents, Question, Rollouts]) -> None:
    agents, question, row = told
    stored = json.loads(json.dumps(json_of(row)))
    assert from_json(Rollouts, stored) == row
    require_alike(agents, question, row.dialogues[0], most_tokens=24)

    def refusal(change: Any) -> str:
        other = json.loads(json.dumps(stored))
        change(other["dialogues"][0]["turns"])
        with pytest.raises(Unfit) as raised:
            require_alike(agents, question, from_json(Rollouts, other).dialogues[0], most_tokens=24)
        return raised.value.why

    assert refusal(lambda turns: turns[0]["ids"].insert(0, turns[0]["ids"][0])) == "other model"
    assert refusal(lambda turns: turns[0]["ids"].insert(0, 10**6)) == "other model"
    assert refusal(lambda turns: turns[1].update(answer=None)) == "other team"
    assert refusal(lambda turns: turns[1].update(speaker=7)) == "other team"
    assert refusal(lambda turns: turns.reverse()) == "wrong order" or len(stored["dialogues"][0]["turns"]) % 2
    assert refusal(lambda turns: turns.pop()) == "wrong order"


def test_a_file_that_is_none_of_demonstrations_is_told(tmp_path: Path, told: tuple[Agents, Question, Rollouts]) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match="no such file of demonstrations"):
        read_demonstrations(path)
    path.write_text("")
    with pytest.raises(DataError, match="holds no demonstration"):
        read_demonstrations(path)
    stored = json_of(told[2])
    path.write_text(json.dumps(stored) + "\n{\n")
    with pytest.raises(DataError, match="line 2 is damaged"):
        read_demonstrations(path)
    del stored["dialogues"][0]["origin"]
    path.write_text(json.dumps(stored) + "\n")
    with pytest.raises(DataError, match="line 1 is no demonstration: it does not say where it comes from"):
        read_demonstrations(path)


def json_of(row: Rollouts) -> Any:
    from optima_lite.records import to_json

    return to_json(row)
