"""Runs in which a model elsewhere speaks for a role: killed, out of money, resumed; and teams of it to compare with."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import optima_lite
from chat_server import Body, ChatServer, chat_server, completion
from optima_lite.errors import ConfigError, RunError
from optima_lite.learn.elsewhere import Elsewhere
from optima_lite.records import Demonstration, PreferencePair, Rollouts
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.settings import strict_yaml
from optima_lite.settings.machine import Machine
from optima_lite.settings.teams import shipped_teams
from optima_lite.stage.cast import Cast, spoken_elsewhere
from support import MACHINE, TINIER, Outcome, assert_same_run, call, records, small_chunks, start

KEY = "sk-of-nobody-at-all"
TEAM = TINIER.replace("protocol: {max_turns: 2}", "team: proposer_critic").replace("{name: tiny}", "{name: tiny-teams}")
TEAM = re.sub(r"prompts:\n(  .*\n)+", "", TEAM).replace("max_turn_tokens: 24", "max_turn_tokens: 40")
CRITIC = "team.spoken_by.Critic=gpt"


def verdict(body: Body, number: int) -> Body:
    """Accepts any answer; always the same for what is asked."""
    text = "ACCEPT" if "</A>" in body["messages"][-1]["content"] else "There is no answer. REVISE"
    return completion(text, usage={"prompt_tokens": 100, "completion_tokens": 10})


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_A_TEST", KEY)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(verdict) as running:
        yield running


def prepared(home: Path, server: ChatServer, recipe: str = TEAM, **speaker: Any) -> tuple[str, ...]:
    """The arguments of a command on a run in a folder of its own. One request at a time, so that they have an order."""
    home.mkdir(exist_ok=True)
    (home / "team.yaml").write_text(recipe)
    stated = {"url": server.url, "model": "model-1", "key_env": "KEY_OF_A_TEST", "at_once": 1, **speaker}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in stated.items())
    (home / "machine.toml").write_text(f'{MACHINE}run_folder = "{home}"\n[speakers.gpt]\n{lines}\n')
    return ("--config", str(home / "machine.toml"))


def train(home: Path, config: tuple[str, ...], *more: str) -> Outcome:
    return call("train", home / "team.yaml", CRITIC, "--run", home / "run", "--quiet", *config, *more)


def once(server: ChatServer) -> bool:
    return set(Counter(json.dumps(body, sort_keys=True) for body in server.asked).values()) == {1}


@pytest.mark.slow
def test_a_run_that_reaches_its_ceiling_goes_on_where_it_is_raised(server: ChatServer, tmp_path: Path) -> None:
    """Its records are those of a run that reached none, nothing is asked twice, and the key stands nowhere."""
    small_chunks()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = prepared(whole, server)
    done = train(whole, config)
    assert done.code == 0, done.err
    asked = len(server.asked)
    assert asked and once(server)
    server.asked.clear()
    printed = done.out + done.err
    for ceiling in (110 * asked // 3, 110 * asked * 2 // 3, 10**6):
        before = len(server.asked)
        config = prepared(cut, server, max_total_tokens=ceiling)
        done = train(cut, config)
        printed += done.out + done.err
        assert len(server.asked) > before and 110 * len(server.asked) <= ceiling
        assert (done.code == 0) == (ceiling == 10**6)
        assert done.code == 0 or f"may go over its max_total_tokens, {ceiling:,}" in done.err
    assert once(server) and len(server.asked) == asked
    assert_same_run(cut / "run", whole / "run")
    run = read_run(cut / "run")
    assert run.manifest["speakers"] == {"gpt": "model-1"}
    told = call("report", cut / "run", *config)
    took = f"{asked} messages, {100 * asked:,} tokens read and {10 * asked:,} said by its own count."
    assert f"gpt (model-1) has spoken for Critic: {took}" in " ".join(told.out.split())
    read = {"messages": asked, "refused": 0, "prompt_tokens": 100 * asked, "completion_tokens": 10 * asked}
    assert run.read_json("summary.json")["elsewhere"] == {"gpt": read}
    compared = call("compare", cut / "run", whole / "run", "--json", *config)
    assert [line["elsewhere_tokens"] for line in compared.events] == [110 * asked] * 2
    assert all(KEY.encode() not in path.read_bytes() for path in (cut / "run").rglob("*") if path.is_file())
    assert KEY not in printed + told.out + told.err
    turns = [
        turn for row in run.read("iteration_00/1_dialogues", Rollouts) for one in row.dialogues for turn in one.turns
    ]
    assert {turn.spoken_by for turn in turns if turn.speaker == 1} == {"gpt"}
    assert not any(turn.spoken_by for turn in turns if turn.speaker == 0)
    chosen = run.read("iteration_00/3_demonstrations", Demonstration)
    facts = json.loads((run.folder / "iteration_00/4_adapter/training.json").read_text())
    assert facts["rows"] == len(chosen) > 0, "a view of the one role that learns, and none of the other"


@pytest.mark.slow
def test_what_else_is_done_with_such_a_run(server: ChatServer, tmp_path: Path) -> None:
    """With another model it does not go on; it cannot be served; a team of that model alone stands beside it."""
    small_chunks()
    assert train(tmp_path, prepared(tmp_path, server)).code == 0
    refused = train(tmp_path, prepared(tmp_path, server, model="model-2"))
    assert refused.code == RunError.exit_code
    assert "was begun with model-1 as gpt, and optima_lite.toml has model-2" in refused.err
    config = prepared(tmp_path, server, at_once=4)
    refused = call("serve", tmp_path / "run", "--port", "0", *config)
    assert refused.code == ConfigError.exit_code and "gpt speaks for roles of this team" in refused.err
    table = call("eval", tmp_path / "run", "--questions", "2", "--spoken-by", "gpt", *config)
    assert table.code == 0 and "spoken_by_gpt" in table.out and "iteration_0" in table.out, table.err
    asked = len(server.asked)
    config = prepared(tmp_path, server, at_once=4, max_total_tokens=1)
    assert call("eval", tmp_path / "run", "--questions", "2", "--spoken-by", "gpt", "--quiet", *config).code == 0
    rows = optima_lite.evaluate(tmp_path / "run", questions=2, spoken_by="gpt", config=config[1])
    assert [row.name for row in rows] == ["iteration_0"] * 2 + ["spoken_by_gpt"] * 2
    again = call("eval", tmp_path / "run", "--questions", "2", "--spoken-by", "gpt", "--json", *config)
    assert [one["row"]["tokens"] for one in again.events if one["event"] == "evaluated"] == [row.tokens for row in rows]
    assert len(server.asked) == asked, "what it has said to these questions is known"
    config = prepared(tmp_path, server, at_once=4)
    found = call("eval", tmp_path / "run", "--baselines", "--spoken-by", "gpt", "--questions", "2", "--json", *config)
    assert found.code == 0, found.err
    table = {one["row"]["name"]: one for one in found.events[-1]["baselines"]}
    assert {"spoken_by_gpt", "single_agent", "untrained", "iteration_0"} <= table.keys()
    assert table["spoken_by_gpt"]["row"]["tokens"] > 0 and table["spoken_by_gpt"]["preparation"] == 0


def test_check_says_what_will_be_asked_and_asks_nothing(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared(tmp_path, server, prompt_price=2.0, completion_price=10.0, max_cost=0.01)
    found = call("check", tmp_path / "team.yaml", CRITIC, "--json", *config)
    details = {one["subject"]: one for line in found.events for one in line.get("findings", [line])}
    assert details["speaker gpt"]["detail"] == f"model-1 at {server.url} speaks for Critic"
    # untrained and trained, sampled and greedy, 2 each; validated twice, 1 each; 2 x 2 to learn from: with 5 each
    bill = details["asked of gpt"]
    assert bill["detail"].startswith("at most about 70 messages in 14 dialogues, ")
    assert bill["status"] == "note" and bill["detail"].endswith("; its ceiling may end the run before")
    assert details["time"]["detail"] == "not known: it is for gpt to say how soon they answer"
    monkeypatch.delenv("KEY_OF_A_TEST")
    found = call("check", tmp_path / "team.yaml", CRITIC, "--no-probe", *config)
    assert "KEY_OF_A_TEST is to hold the key of gpt, and is empty" in " ".join(found.out.split())
    unknown = call("train", tmp_path / "team.yaml", "team.spoken_by.Critic=gtp", "--run", tmp_path / "run", *config)
    assert unknown.code == ConfigError.exit_code and not (tmp_path / "run").exists()
    assert (
        'add to optima_lite.toml: [speakers.gtp] with url = "..." and model = "..."; did you mean gpt?' in unknown.err
    )
    assert not server.asked


def test_a_speaker_of_a_role_and_of_all_is_one(cast: Cast, tmp_path: Path) -> None:
    """So that its ceiling is on all that it says, in whatever part."""
    address = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    machine = Machine.model_validate({"speakers": {"gpt": address, "other": address}})
    run = RunFolder(tmp_path, {})
    with_a_role = replace(cast, team=replace(cast.team, elsewhere=Elsewhere({"gpt": lambda requests: []})))
    for name in ("gpt", "other"):
        found = spoken_elsewhere(with_a_role, name, machine=machine, run=run, notify=lambda text: None)
        assert (found.agents.elsewhere is with_a_role.team.elsewhere) == (name == "gpt")
        assert name in found.agents.elsewhere and found.agents.workflow.elsewhere == (name,)
    tree = strict_yaml.load(shipped_teams()["tree"].read_text()).value
    streaming = cast.recipe.model_copy(update={"team": {**tree, "transfer": "stream"}})
    with pytest.raises(ConfigError, match="there is no speaker gtp"):
        spoken_elsewhere(with_a_role, "gtp", machine=machine, run=run, notify=lambda text: None)
    with pytest.raises(RunError, match="a team whose messages fall into steps cannot be spoken by gpt"):
        streamed = replace(with_a_role, recipe=streaming)
        spoken_elsewhere(streamed, "gpt", machine=machine, run=run, notify=lambda text: None)


@pytest.mark.slow
def test_a_run_killed_between_answers_asks_nothing_twice(server: ChatServer, tmp_path: Path) -> None:
    """With imitation and preference: kill -9 again and again, a wrong server now and then, and equal records."""
    recipe = TEAM.replace("min_reward: -9", "min_reward: -9, min_gap: 0, pair_min_reward: -9")
    recipe += "schedule: isft-dpo\nsearch: {searches: 2, rollouts: 2}\ndpo: {questions: 2, epochs: 1, batch_size: 2}\n"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = prepared(whole, server, recipe)
    small_chunks()
    assert train(whole, config).code == 0
    asked = len(server.asked)
    server.asked.clear()
    lost = {7: 500, 12: b'{"choices": [', 20: 429}
    server.answer = lambda body, number: lost.pop(number, None) or verdict(body, number)
    config = prepared(cut, server, recipe)
    arguments = ["train", cut / "team.yaml", CRITIC, "--run", cut / "run", "--quiet", *config]
    kills = 0
    while True:
        process = start(arguments, output=tmp_path / "out.txt")
        until = len(server.asked) + asked // 6 + 3
        while process.is_alive() and len(server.asked) < until:
            time.sleep(0.001)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    process.join()
    assert process.exitcode == 0, (tmp_path / "out.txt").read_text()
    assert kills >= 4 and not lost
    stored = (cut / "run/spoken/gpt.jsonl").read_text().splitlines()
    assert len(stored) >= asked
    assert len(server.asked) - asked <= 3 + kills, "the three that failed, and what was on its way when it was killed"
    here, there = records(cut / "run"), records(whole / "run")
    here.pop("spoken/gpt.jsonl"), there.pop("spoken/gpt.jsonl")
    assert here == there
    pairs = read_run(cut / "run").read("iteration_00/7_pairs", PreferencePair)
    assert pairs and not any(pair.chosen.spoken_by or pair.rejected.spoken_by for pair in pairs)
    assert any(turn.spoken_by for pair in pairs for turn in pair.prefix) or all(pair.depth == 0 for pair in pairs)
