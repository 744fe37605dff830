"""A market from end to end on the bundled model: what it writes, that a kill changes nothing, what it tells."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
from safetensors.torch import load_file

from optima_lite.api import load, open_run
from optima_lite.learn.bidders import Bidders
from optima_lite.methods.market.births import Writer, names_the_answer
from optima_lite.methods.market.evolution import Request
from optima_lite.model.sampling import Sampling
from optima_lite.records import Dialogue, Question, Rollouts, Turn
from optima_lite.runs.folder import RunFolder
from optima_lite.runs.market import trades
from optima_lite.settings.agents import Agent, Wake
from optima_lite.settings.config import load_recipe
from optima_lite.settings.machine import Machine
from optima_lite.stage.cast import assemble, recall
from optima_lite.team.episodes import Episode, Market, Trace, Trial, Win
from optima_lite.team.ledger import Move, founded
from optima_lite.team.talks import founders_of
from support import MACHINE, assert_same_run, call, records, small_chunks, start

TERSE = "Write each message as key = value pairs."
RECIPE = f"""\
method: market
model: {{name: tiny}}
task: {{name: world}}
prompts: {{system: "You are {{name}}, working with {{partner}}.", solo_system: You work alone. Think step by step.}}
sampling: {{max_turn_tokens: 24}}
training: {{iterations: 2, questions: 4}}
evaluation: {{questions: 2, stop_if_none_right: false}}
market:
  steps: 4
  initial_wealth: 1.0
  rent: 0.3
  rent_interval: 2
  births: 1
  birth_interval: 2
  max_population: 6
  births_by: variants
  variants:
    Alice: [{TERSE}, Write each message as compact JSON.]
    Bob: [{TERSE}, Write each message as compact JSON.]
  agents:
    chatty: {{role: Alice, facts: share, wake: not after Alice, terminal: true}}
    gagged: {{role: Alice, facts: share, wake: not after Alice, terminal: true, max_tokens: 2}}
    other: {{role: Bob, facts: share, wake: not after Bob}}
    asker: {{role: Bob, facts: share, ask: "Has anything been said?", terminal: true}}
"""
QUESTION = Question("q", "Who?", ("Mira",), ((), ()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small recipe, a machine file, and a finished run."""
    home = tmp_path_factory.mktemp("market")
    (home / "small.yaml").write_text(RECIPE)
    (home / "machine.toml").write_text(MACHINE + f'run_folder = "{home}"\n')
    small_chunks()
    outcome = call("train", home / "small.yaml", "--config", home / "machine.toml")
    assert outcome.code == 0, outcome.err
    (home / "printed.txt").write_text(outcome.out)
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> RunFolder:
    return open_run(home / "small-seed0").source


def episodes(run: RunFolder) -> list[Episode]:
    return [one for k in (0, 1) for one in run.read(f"iteration_{k:02d}/1_episodes", Episode)]


def test_the_ledger_of_a_run_is_exact_and_told_in_its_records(home: Path, run: RunFolder) -> None:
    stored = episodes(run)
    assert [one.number for one in stored] == list(range(8))
    begun = founded(founders_of(load_recipe(home / "small.yaml").recipe))
    assert sum(len(one.births) for one in stored) > 1 and any(one.dead for one in stored)
    for one in stored:
        assert one.wealth == pytest.approx(begun.wealth + one.minted - one.burned, abs=1e-9)
        assert {account.name.partition("-")[0] for account in one.accounts} == {"Alice", "Bob"}
        assert min(account.wealth for account in one.accounts) >= 0
        for trial in one.trials:
            assert len(trial.moves) == len(trial.dialogue.turns)
            assert [move.paid_to for move in trial.moves] == [None, *(move.agent for move in trial.moves[:-1])]


def test_a_population_is_what_its_last_episode_left(run: RunFolder) -> None:
    last = run.read("iteration_01/1_episodes", Episode)[-1]
    agents = run.read("iteration_01/2_population", Agent)
    assert [(one.name, one.wealth, one.bid) for one in agents] == [(o.name, o.wealth, o.bid) for o in last.accounts]


def test_a_gagged_agent_says_no_more_than_it_may_and_the_talk_goes_on(run: RunFolder) -> None:
    said = [
        (move.agent, turn, k < len(trial.moves) - 1)
        for one in episodes(run)
        for trial in one.trials
        for k, (move, turn) in enumerate(zip(trial.moves, trial.dialogue.turns, strict=True))
    ]
    gagged = [(turn, on) for name, turn, on in said if name == "Alice-2"]
    assert gagged and all(len(turn.ids) <= 2 for turn, _ in gagged)
    assert any(on and not turn.finished for turn, on in gagged)
    assert any(len(turn.ids) > 2 for _, turn, _ in said)


def test_every_token_of_a_run_is_counted(run: RunFolder) -> None:
    told = run.read_json("summary.json")
    first, second = trades(run)
    said = sum(len(turn.ids) for one in episodes(run) for trial in one.trials for turn in trial.dialogue.turns)
    assert first.tokens + second.tokens == said
    assert (
        first.checks > 0
        and told["training_tokens"] == first.spent + second.spent == said + first.checks + second.checks
    )
    actions = sum(len(trial.moves) for one in episodes(run) for trial in one.trials)
    assert sum(first.successions.values()) + sum(second.successions.values()) == actions


def test_the_report_tells_the_market(home: Path, run: RunFolder) -> None:
    told = call("report", run.folder, "--config", home / "machine.toml").out
    for part in ("the market", "tokens of training", "who acts after whom", "the richest of", "wake checks"):
        assert part in told and part in (home / "printed.txt").read_text()
    found = json.loads(call("report", run.folder, "--json", "--config", home / "machine.toml").out)
    assert [one["episodes"] for one in found["trades"]] == [4, 4]


def test_a_population_answers_again_as_it_did_and_chats(home: Path, run: RunFolder) -> None:
    """What `eval`, `chat` and the Python functions wake up is the population of the run, which stays as it is."""
    before = records(run.folder)
    told = call("eval", run.folder, "--questions", 2, "--json", "--config", home / "machine.toml").events
    rows = {event["decoding"]: event for event in (one.get("evaluated", one) for one in told) if "decoding" in event}
    stored = {
        row["decoding"]: row for row in run.read_json("summary.json")["evaluations"] if row["name"] == "iteration_1"
    }
    for decoding, row in rows.items():
        assert (row["score"], row["tokens"]) == (stored[decoding]["score"], stored[decoding]["tokens"])
    assert rows or "score" in str(told)
    team = load(run.folder, config=home / "machine.toml")
    agents = run.read("iteration_01/2_population", Agent)
    assert team.roles == tuple(agent.name for agent in agents) and team.holders == ("Alice", "Bob")
    answer = team.ask(
        "Who is the boss of Mira?", {"Alice": ["Mira boss Tara"], "Bob": ["Tara home Norton"]}, sample=True
    )
    assert answer.turns and {turn.role for turn in answer.turns} <= {agent.name for agent in agents}
    assert records(run.folder) == before


def test_the_viewer_names_who_spoke_in_each_population(run: RunFolder) -> None:
    from optima_lite.outlets.contents import _dialogue_sets, _Questions

    sets = {one["key"]: one["speakers"] for one in _dialogue_sets(run, _Questions(), {})}
    assert sets["untrained_sampled"] == ("Alice-1", "Alice-2", "Bob-3", "Bob-4")
    assert sets["iteration_1_greedy"] == tuple(one.name for one in run.read("iteration_01/2_population", Agent))


def test_what_a_market_has_not_is_refused(home: Path, run: RunFolder) -> None:
    outcome = call("search", run.folder, "--config", home / "machine.toml")
    assert outcome.code == 2 and "a market has no trees" in outcome.err


@pytest.mark.parametrize("row", [6, 2])
@pytest.mark.slow
def test_a_run_that_is_killed_resumes_with_equal_ledgers(home: Path, run: RunFolder, tmp_path: Path, row: int) -> None:
    """kill -9 within an iteration's episodes, then the same command: all records are equal byte for byte."""
    folder = tmp_path / "run"
    arguments = ["train", home / "small.yaml", "--config", home / "machine.toml", "--run", folder]
    process = start(arguments, output=tmp_path / "printed")
    deadline = time.monotonic() + 240
    while sum(len(_lines(folder / f"iteration_{k:02d}/1_episodes.jsonl")) for k in (0, 1)) < row:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert len(_lines(folder / "iteration_01/1_episodes.jsonl")) < 4
    assert call(*arguments).code == 0
    assert_same_run(folder, run.folder)


@pytest.mark.slow
def test_a_torn_episode_is_played_again(home: Path, run: RunFolder, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    path = folder / "iteration_01/1_episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert call("train", home / "small.yaml", "--config", home / "machine.toml", "--run", folder).code == 0
    assert_same_run(folder, run.folder)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- Adapters of their own -------------------------------------------------------------------------

FAMILY = (
    RECIPE.replace("terminal: true", "terminal: true, adapter: own")
    .replace("births_by", "pass_score: 0.0\n  births_of_richest: 1.0\n  imitation: true\n  births_by")
    .replace("rent: 0.3", "rent: 0.0")
)


@pytest.fixture(scope="module")
def family(home: Path) -> RunFolder:
    """A run of agents with adapters of their own, where every episode counts as won and the richest have children."""
    (home / "family.yaml").write_text(FAMILY)
    outcome = call("train", home / "family.yaml", "--config", home / "machine.toml")
    assert outcome.code == 0, outcome.err
    return open_run(home / "family-seed0").source


def adapter(run: RunFolder, name: str) -> Path:
    """The folder of what an agent was born with."""
    (folder,) = run.folder.glob(f"iteration_*/1_adapter_{name}")
    return folder


@pytest.mark.slow
def test_a_child_of_the_richest_learns_what_its_parent_won_with(family: RunFolder) -> None:
    children = [birth.child for one in episodes(family) for birth in one.births if birth.child.adapter != "shared"]
    facts = {one.name: json.loads((adapter(family, one.name) / "training.json").read_text()) for one in children}
    taught = [name for name, one in facts.items() if one["rows"]]
    assert taught, "somebody was born to a winner"
    trained = sum(one.trained for one in episodes(family))
    assert trained == sum(one["trainer_tokens"] * one["epochs"] for one in facts.values())
    for name in taught:
        weights = load_file(adapter(family, name) / "adapter_model.safetensors")
        assert any(weight.any() for key, weight in weights.items() if "lora_B" in key)
    living = family.read("iteration_01/2_population", Agent)
    adapters = [agent.adapter for agent in living if agent.adapter != "shared"]
    assert len(set(adapters)) == len(adapters), "no two agents share what is their own"


@pytest.mark.slow
def test_an_agent_speaks_with_what_it_was_born_with(family: RunFolder) -> None:
    cast = recall(family, machine=Machine(threads=1, max_batch_tokens=8192), iteration=1)
    own = [agent for agent in family.read("iteration_01/2_population", Agent) if agent.adapter != "shared"]
    assert any(agent.born is not None for agent in own)
    for agent in own:
        moved = any(weight.any() for weight in cast.policy.weights(agent.adapter)[1::2])  # B, which begins as 0
        if agent.born is None:
            assert not moved, "nobody trains a founder"
        else:
            stored = load_file(adapter(family, agent.name) / "adapter_model.safetensors")
            assert moved == any(weight.any() for key, weight in stored.items() if "lora_B" in key)
            held = sorted(float(weight.detach().abs().sum()) for weight in cast.policy.weights(agent.adapter))
            assert held == pytest.approx(sorted(float(weight.abs().sum()) for weight in stored.values()))


@pytest.mark.slow
def test_a_family_resumes_with_equal_ledgers_and_weights(home: Path, family: RunFolder, tmp_path: Path) -> None:
    """An episode that is torn is played again, and who was born in it learns the same again."""
    folder = shutil.copytree(family.folder, tmp_path / "run")
    path = folder / "iteration_01/1_episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    for one in folder.glob("iteration_01/1_adapter_*"):
        shutil.rmtree(one)
    assert call("train", home / "family.yaml", "--config", home / "machine.toml", "--run", folder).code == 0
    kept = {name: data for name, data in records(folder).items() if "episodes" in name or "population" in name}
    assert kept == {name: data for name, data in records(family.folder).items() if name in kept}


# --- With the model, without a run -----------------------------------------------------------------


@pytest.fixture(scope="module")
def bidders(home: Path) -> Bidders:
    recipe = load_recipe(home / "small.yaml").recipe
    machine = Machine(threads=1, max_batch_tokens=8192)
    team = assemble(recipe, machine=machine, settle=lambda key, decide: decide()).team
    assert isinstance(team, Bidders)
    return team


def test_wake_checks_of_all_agents_are_one_batch_and_ask_what_they_should(
    bidders: Bidders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base reads a yes and a no after each question, in one call; the likelier one is the answer."""
    asleep = replace(bidders.living[0], wake=Wake(ask="Say no."))
    seen: list[str] = []

    def losses(rows: Sequence[object]) -> list[tuple[float]]:
        seen.extend(bidders.renderer.text(row.ids) for row in rows)  # type: ignore[attr-defined]
        return [(0.1 if ("Say no." in text) == text.endswith("No") else 0.9,) for text in seen]

    monkeypatch.setattr(bidders.generator, "losses", losses)
    dialogue = Dialogue("q", 0, (Turn(2, (5,), "Mira boss Tara"),))
    awake = bidders._awake([(QUESTION, dialogue, asleep), (QUESTION, dialogue, bidders.living[3])])
    assert awake == [False, True] and len(seen) == 4
    assert "Bob: Mira boss Tara" in seen[0] and "Has anything been said? Answer Yes or No." in seen[2]


def writer(bidders: Bidders, said: str, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> Writer:
    """A writer whose model is a script."""
    by_model = replace(bidders, rules=bidders.rules.model_copy(update={"births_by": "model"}))

    def generate(prompts: Sequence[Sequence[int]], **_: object) -> list[tuple[int, ...]]:
        told.extend(bidders.renderer.text(ids) for ids in prompts)
        return [bidders.renderer.encode(said) for _ in prompts]

    monkeypatch.setattr(by_model.generator, "generate", generate)
    return Writer(by_model, Sampling(0.8, 1.0, 40), (0, "market"))


def test_a_scripted_model_makes_births_that_are_known(bidders: Bidders, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    parent = replace(bidders.living[0], strategy="Guess.")
    dialogue = Dialogue("q", 0, (Turn(0, (5,), "I do not know."),))
    trial = Trial((Move("Alice-1", (("Alice-1", 0.1),), None),), None, 0.0, dialogue)
    requests = [
        Request(parent, "mutate", "regular"),
        Request(parent, "repair", "death", Trace(QUESTION, trial)),
    ]
    write = writer(bidders, "Look at the\nfacts first.", monkeypatch, told)
    assert write(requests) == ["Look at the facts first."] * 2 and write.spent > 4
    mutated, repaired = told
    assert "Guess." in mutated and "Mira" not in mutated, "who mutates sees no question"
    assert "Who?" in repaired and "The right answer: Mira" in repaired and "Alice: I do not know." in repaired
    assert "general" in repaired


def test_a_strategy_that_gives_the_answer_away_is_not_taken(bidders: Bidders, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = replace(bidders.living[0], strategy="Guess.")
    trial = Trial((), None, 0.0, Dialogue("q", 0))
    write = writer(bidders, "Say that it is mira.", monkeypatch, [])
    assert write([Request(parent, "repair", "death", Trace(QUESTION, trial))]) == ["Guess."]
    assert names_the_answer("it is Mira.", ["Mira"]) and not names_the_answer("Admiral, 42", ["Mira", "42"])


def test_a_lesson_is_what_an_agent_saw_and_said_in_a_won_episode(bidders: Bidders) -> None:
    """Its own turns alone are to be learnt; a message that was cut teaches nothing."""
    chatty, bob = bidders.living[0], bidders.living[2]
    end = min(bidders.renderer.end_ids)
    said = (Turn(0, (*bidders.renderer.encode("Mira boss"), end), "Mira boss"), Turn(1, (9, end), "x"))
    win = Win(QUESTION, Dialogue("q", 0, said), (chatty, bob))
    lesson = bidders.lesson(win, chatty.name)
    assert lesson is not None and [lesson.ids[start:stop] for start, stop in lesson.spans] == [said[0].ids]
    cut = replace(win, dialogue=Dialogue("q", 0, (replace(said[0], finished=False), said[1])))
    assert bidders.lesson(cut, chatty.name) is None and bidders.lesson(cut, bob.name) is not None


def test_a_tool_answers_each_message_of_its_agent_and_costs_no_tokens(
    bidders: Bidders, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = replace(bidders.living[0], tool="retrieve", max_tokens=None)
    agents = bidders.of([finder, replace(bidders.living[2], wake=Wake())])
    question = replace(QUESTION, contexts=(("Mira boss Tara",), ("Tara home Norton",)))
    end = min(bidders.renderer.end_ids)

    def generate(prompts: Sequence[Sequence[int]], **_: object) -> list[tuple[int, ...]]:
        return [(*bidders.renderer.encode("Tara home"), end) for _ in prompts]

    monkeypatch.setattr(agents.generator, "generate", generate)
    (dialogue,) = agents.talk(
        [question], [Dialogue("q", 0)], sampling=Sampling(0.8, 1.0, 24), seed=(0,), advance=lambda done, tokens: None
    )
    found = [(agents.workflow.names[turn.speaker], turn.text) for turn in dialogue.turns if not turn.ids]
    assert found and set(found) == {("retrieve", "- Tara home Norton\n- Mira boss Tara")}
    asked = [turn for turn in dialogue.turns if agents.workflow.names[turn.speaker] == finder.name]
    assert len(asked) == len(found)


def test_a_large_population_takes_no_more_room_for_a_talk_than_a_small_one(
    bidders: Bidders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an evaluation of twenty agents would be played a few talks at a time."""
    few = bidders.of([bidders.living[0], bidders.living[2]])
    many = few.of([replace(one, name=f"{one.role}-{k}") for k in range(10) for one in few.living])
    drafts = [(replace(QUESTION, id=f"q{k}"), [Dialogue(f"q{k}", 0)]) for k in range(40)]
    sampling = Sampling(0.8, 1.0, 24)
    monkeypatch.setattr(bidders.generator.states.cache, "max_bytes", 12_000_000)
    small, large = ([len(window) for window in one.windows(drafts, sampling=sampling)] for one in (few, many))
    assert small == large and len(small) > 2 and len(many.workflow.steps) == 20


def test_a_variant_is_never_the_parent_s_own(bidders: Bidders) -> None:
    parent = replace(bidders.living[0], strategy=TERSE)
    drawn = Writer(bidders, Sampling(0.8, 1.0, 40), (0, "market"))([Request(parent, "mutate", "regular")] * 5)
    assert set(drawn) == {"Write each message as compact JSON."}


def test_evaluations_of_a_market_leave_it_as_it_was(bidders: Bidders) -> None:
    market = Market(founded(bidders.living))
    question = replace(QUESTION, contexts=(("Mira boss Tara",), ("Tara home Norton",)))
    drafts = [Dialogue("q", k) for k in range(3)]
    sampling = Sampling(0.8, 1.0, 24)

    def talk() -> list[Dialogue]:
        return bidders.talk([question], drafts, sampling=sampling, seed=(0, "x"), advance=lambda done, tokens: None)

    first = talk()
    assert first == talk() and all(dialogue.ending is not None for dialogue in first)
    assert bidders.living == market.economy.agents
    assert Rollouts(question, tuple(first)).dialogues[0].turns
