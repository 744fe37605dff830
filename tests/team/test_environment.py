"""Talks by auction with scripted speakers: who may bid, when it ends, what is paid, and what an evaluation leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from optima_lite.records import Dialogue, Ending, Question, Turn
from optima_lite.settings.agents import Agent, Clause, Wake
from optima_lite.settings.market import MarketSettings
from optima_lite.tasks.answers import extract
from optima_lite.team.dialogue import Cue
from optima_lite.team.environment import Environment, Talk, checks_of
from optima_lite.team.ledger import founded
from optima_lite.team.population import population
from optima_lite.team.prompts import view

QUESTION = Question("q", "What is it?", ("red",), (("one",), ("two",)))
PLANNER = Agent("Planner-1", "Planner", "You plan.", wake=Wake((Clause("first"),)), wealth=1.0)
SOLVER = Agent("Solver-2", "Solver", "You solve.", wake=Wake((Clause("said", "Planner"),)), wealth=1.0, terminal=True)


class Script:
    """Says for each agent, in turn, what it is given to say; keeps what was asked."""

    def __init__(self, **lines: Sequence[str]) -> None:
        self.lines = {name.replace("_", "-"): list(texts) for name, texts in lines.items()}
        self.asked: list[list[str]] = []
        self.batches: list[int] = []

    def speak(self, ready: Sequence[tuple[Question, Cue]]) -> list[tuple[Turn, ...]]:
        self.batches.append(len(ready))
        said = []
        for _, cue in ready:
            name = cue.step.speaker
            text = self.lines[name].pop(0) if len(self.lines[name]) > 1 else self.lines[name][0]
            answer = extract(text) if name.startswith("Solver") else None
            said.append((Turn(self.speakers.index(name), (7,), text, answer),))
        return said

    def ask(self, asked: Sequence[tuple[Question, Dialogue, Agent]]) -> list[bool]:
        self.asked.append([agent.name for _, _, agent in asked])
        return [agent.wake.ask == "yes?" for _, _, agent in asked]

    def play(self, agents: Sequence[Agent], count: int = 1, *, worth: Any = None, **rules: Any) -> list[Talk]:
        """So many talks of these agents, who pay where `worth` or `paying` says so."""
        paying = rules.pop("paying", False) or worth is not None
        settings = MarketSettings(**{"eps": 0.0, **rules})
        team = population(agents, settings, metric="f1")
        self.speakers = team.names
        environment = Environment(settings, team, self.speak, self.ask, lambda talk: Random(0), paying, worth)
        questions = [replace(QUESTION, id=f"q{k}") for k in range(count)]
        return environment.play([Talk(q, Dialogue(q.id, 0), founded(agents)) for q in questions])


def actors(talk: Talk) -> list[str]:
    return [move.agent for move in talk.moves]


def test_who_wakes_bids_and_an_answer_of_a_terminal_agent_ends_the_talk() -> None:
    script = Script(Planner_1=["<A> blue </A>"], Solver_2=["I think", "<A> red </A>"])
    (talk,) = script.play([PLANNER, SOLVER])
    assert actors(talk) == ["Planner-1", "Solver-2", "Solver-2"]
    assert (talk.dialogue.ending, talk.dialogue.answer, talk.author) == (Ending.DONE, "red", "Solver-2")
    assert [move.paid_to for move in talk.moves] == [None, "Planner-1", "Solver-2"]


def test_nobody_who_wishes_to_act_ends_the_talk_without_an_answer() -> None:
    (talk,) = Script(Planner_1=["plan"]).play([PLANNER])
    assert (actors(talk), talk.dialogue.ending, talk.dialogue.answer) == (["Planner-1"], Ending.DONE, None)


def test_in_the_last_steps_only_terminal_agents_act_and_they_need_not_wake() -> None:
    planner = replace(PLANNER, wake=Wake())
    sleeper = replace(SOLVER, wake=Wake((Clause("says", "never"),)))
    (talk,) = Script(Planner_1=["plan"], Solver_2=["hm"]).play([planner, sleeper], steps=4, terminal_steps=2)
    assert actors(talk) == ["Planner-1", "Planner-1", "Solver-2", "Solver-2"]
    assert talk.dialogue.ending is Ending.MAX_TURNS


def test_the_model_is_asked_in_one_batch_whose_condition_holds_and_every_check_counts() -> None:
    yes, no = Wake(ask="yes?"), Wake(ask="no?")
    later = Wake((Clause("said", "Solver"),), "yes?")
    agents = [
        replace(SOLVER, wake=yes),
        replace(SOLVER, name="Solver-3", wake=no),
        replace(PLANNER, wake=later),
    ]
    script = Script(Solver_2=["hm", "hm", "<A> red </A>"], Solver_3=["never"], Planner_1=["hm"])
    talks = script.play(agents, count=2, steps=3, terminal_steps=0)
    assert script.asked[0] == ["Solver-2", "Solver-3"] * 2, "one call for both talks"
    assert all("Solver-3" not in actors(talk) for talk in talks)
    rules = MarketSettings(steps=3, terminal_steps=0)
    for talk in talks:
        assert talk.checks == checks_of(talk.dialogue, agents, rules, "f1") > 2
    assert sum(talk.checks for talk in talks) == sum(map(len, script.asked))


def test_checks_are_counted_where_nobody_wished_to_act() -> None:
    agents = [replace(SOLVER, wake=Wake(ask="no?"))]
    (talk,) = Script(Solver_2=["never"]).play(agents)
    assert talk.checks == 1 == checks_of(talk.dialogue, agents, MarketSettings(), "f1")


def test_an_evaluation_pays_nothing_and_changes_nobody() -> None:
    agents = [PLANNER, SOLVER]
    script = Script(Planner_1=["plan"], Solver_2=["<A> red </A>"])
    evaluated, trained = script.play(agents, eps=0.05), script.play(agents, eps=0.05, paying=True)
    assert evaluated[0].economy.agents == tuple(agents)
    assert actors(evaluated[0]) == actors(trained[0])
    assert [one.wealth for one in trained[0].economy.agents] == pytest.approx([1.0, 0.85])
    assert trained[0].economy.burned == pytest.approx(0.15)


def test_in_an_evaluation_an_untested_newcomer_waits_where_its_role_has_somebody() -> None:
    """In training it outbids everybody, to be tried."""
    known = replace(SOLVER, name="Solver-3", status="veteran")
    script = Script(Planner_1=["plan"], Solver_2=["<A> blue </A>"], Solver_3=["<A> red </A>"])
    evaluated = script.play([PLANNER, SOLVER, known], eps=0.05)
    trained = script.play([PLANNER, SOLVER, known], eps=0.05, paying=True)
    assert (actors(evaluated[0]), actors(trained[0])) == (["Planner-1", "Solver-3"], ["Planner-1", "Solver-2"])


def test_a_step_is_paid_for_what_it_adds_to_the_score() -> None:
    marked = {"plan": 0.0, "<A> blue </A>": 0.25, "<A> red </A>": 1.0}
    script = Script(Planner_1=["<A> blue </A>"], Solver_2=["<A> red </A>"])

    def worth(question: Question, dialogue: Dialogue) -> float:
        return marked[dialogue.turns[-1].text]

    (talk,) = script.play([PLANNER, SOLVER], worth=worth, base_bid=0.0, step_rewards=True)
    assert [move.reward for move in talk.moves] == [0.25, 0.75]
    assert [one.wealth for one in talk.economy.agents] == [1.25, 1.75] and talk.economy.minted == 1.0


def test_talks_go_on_side_by_side() -> None:
    script = Script(Planner_1=["plan"], Solver_2=["<A> red </A>"])
    script.play([PLANNER, SOLVER], count=5)
    assert script.batches == [5, 5]


def test_agents_of_a_role_speak_with_one_voice_and_hold_one_share() -> None:
    agents = [
        Agent("Alice-1", "Alice", "You are {name}, working with {partner}.", facts="share", terminal=True),
        Agent("Bob-2", "Bob", "You are {name}, working with {partner}.", facts="share"),
        Agent("Alice-3", "Alice", "You are {name}, working with {partner}.", "Be brief.", facts="share"),
    ]
    team = population(agents, MarketSettings(), metric="f1")
    assert (team.holders, team.voices, team.answer) == (("Alice", "Bob"), ("Alice", "Bob", "Alice"), ("Alice-1",))
    turns = [Turn(0, (1,), "first"), Turn(1, (2,), "second")]
    system, facts, own, foreign = view(QUESTION, turns, 2, workflow=team)
    assert system.text == "You are Alice, working with Bob. Be brief."
    assert facts.text == "Facts:\n- one\nQuestion: What is it?"
    assert (own.role, own.own, foreign.role) == ("assistant", False, "user"), "the role's words, and not this agent's"
