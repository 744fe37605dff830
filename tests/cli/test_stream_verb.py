"""A team that streams from the command line and from Python: compared with its controls, asked, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import optima_lite
from optima_lite.records import Dialogue, Turn
from optima_lite.settings import strict_yaml
from optima_lite.settings.teams import workflow
from optima_lite.stage.transfers import Probed, steps_said
from support import MACHINE, SMALL, Outcome, call

TEAM = """\
team:
  roles:
    Ann: {system: "You are {name}."}
    Ben: {system: "You are {name}."}
  steps:
    first: {speaker: Ann, reads: "{facts} {question}", then: second}
    second: {speaker: Ben, reads: "{question} {first}", then: end}
  answer: second
  stream: {marker: e, step_tokens: 6}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a chain of two that was trained as a stream of two steps, and its machine file."""
    home = tmp_path_factory.mktemp("streamed")
    small = SMALL.replace("protocol: {max_turns: 4}\n", "").replace(
        "iterations: 2, questions: 4", "iterations: 1, questions: 2"
    )
    (home / "small.yaml").write_text(small + TEAM)
    (home / "machine.toml").write_text(MACHINE)
    streamed = (
        "team.transfer=stream",
        "team.stream.steps=2",
        "evaluation.questions=2",
        "evaluation.validation_questions=1",
    )
    outcome = call("train", home / "small.yaml", *streamed, "--run", home / "run", "--config", home / "machine.toml")
    assert outcome.code == 0, outcome.err
    return home / "run", home / "machine.toml"


def told(run: tuple[Path, Path], verb: str, *arguments: str) -> Outcome:
    outcome = call(verb, run[0], *arguments, "--config", run[1])
    assert outcome.code == 0, outcome.err
    return outcome


def test_the_stream_beside_its_controls_with_a_picture_and_the_probe(run: tuple[Path, Path]) -> None:
    out = told(run, "stream", "--questions", "2", "--alone", "1", "--probe", "--quiet").out
    assert "stream: 3 ticks\nAnn          1  2  · \nBen          ·  1  2 \n" in out
    for way in ("stream", "serial with the marker", "serial", "single agent", "first 1 of 2", "last 1 of 2", "all 2"):
        assert f"\n{way} " in out
    assert "heads score" in out


def test_the_probe_draws_no_conclusion_from_messages_of_one_step() -> None:
    """Their head is all of them and their tail nothing, which says nothing about steps."""
    heads_win = (0.5, 0.4, 0.6) * 7
    assert "nothing to hand on early" in Probed((), heads_win, said=1.0).verdict
    assert "speaks for streaming" in Probed((), heads_win, said=3.2).verdict
    whole = Dialogue("q", 0, (Turn(0, (1, 2), "all in one go"), Turn(1, (3,), "yes")))
    marked = Dialogue("q", 0, (Turn(0, (1, 2), "one END_STEP two END_STEP three"), Turn(1, (3,), "yes")))
    team = workflow({**strict_yaml.load(TEAM).value["team"], "transfer": "serial", "stream": {}})
    assert [steps_said(one, team) for one in (whole, marked)] == [1.0, 3.0]


def test_the_table_as_json(run: tuple[Path, Path]) -> None:
    last = told(run, "stream", "--questions", "1", "--alone", "0", "--steps", "1", "--json").events[-1]
    ways = {row["row"]["name"]: row for row in last["transfers"]}
    assert [row["ticks"] for row in ways.values()] == [2, 2, None, None]
    assert ways["stream"]["row"]["tokens"] == ways["serial with the marker"]["row"]["tokens"], "one step is a message"
    assert last["probe"] == []


def test_a_chat_shows_who_said_what_in_which_tick(run: tuple[Path, Path]) -> None:
    out = told(run, "chat", "--sample", "1", "--greedy").out
    assert "tick 1 Ann" in out and "tick 2 Ben" in out
    assert "tick 1" not in told(run, "chat", "--sample", "1", "--greedy", "--transfer", "serial").out


def test_the_same_agents_in_python_hand_on_as_they_are_told(run: tuple[Path, Path]) -> None:
    facts = ["Mira mother Tess"]
    streamed = optima_lite.load(run[0], config=run[1]).ask("Who is the mother of Mira?", facts)
    whole = optima_lite.load(run[0], config=run[1], transfer="serial").ask("Who is the mother of Mira?", facts)
    assert [one.tick for one in streamed.turns if one.role == "Ben"] == [2, 3][: len(streamed.turns) - 2]
    assert [(one.role, one.tick) for one in whole.turns] == [("Ann", 0), ("Ben", 0)]
    rows = optima_lite.evaluate(run[0], questions=1, transfer="stream", steps=1, config=run[1])
    assert rows[0].turns == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(("--transfer", "steam"), "must be serial or stream, not steam"), (("--steps", "2"), "--steps needs --transfer")],
)
def test_what_cannot_be_meant_is_told(run: tuple[Path, Path], arguments: tuple[str, str], why: str) -> None:
    outcome = call("chat", run[0], *arguments, "--config", run[1])
    assert (outcome.code, why in outcome.err) == (2, True)
