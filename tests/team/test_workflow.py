"""What holds for any workflow: it ends, its inputs are there, side by side is no order, and it goes on anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import Dialogue, Ending, Turn
from optima_lite.settings import strict_yaml
from optima_lite.settings.grammar import read
from optima_lite.settings.layers import Mistake
from optima_lite.settings.teams import shipped, shipped_teams
from optima_lite.team.dialogue import Cue, converse, cues, extend, moment, taken
from optima_lite.team.prompts import brief
from random_teams import ASKED, Speaker, talk, teams, workflow


@given(teams(), st.integers(0, 99))
def test_any_team_comes_to_an_end_in_its_steps_with_all_inputs_there(team: dict[str, Any], seed: int) -> None:
    found = workflow(team)
    done, speaker = talk(found, seed)
    assert done.ending is not None and 1 <= len(done.turns) <= found.max_steps
    assert sum(map(len, speaker.calls)) == len(done.turns), "nothing is said that is not kept"
    assert [step.name for step, _, _ in taken(done.turns, found)] == [name for call in speaker.calls for name in call]


@given(teams(), st.integers(0, 99))
def test_the_order_of_steps_side_by_side_changes_nothing(team: dict[str, Any], seed: int) -> None:
    def turned(to: Any) -> Any:
        if isinstance(to, dict):
            return {text: turned(names) for text, names in to.items()}
        return to[::-1] if isinstance(to, list) else to

    other = {**team, "start": team["start"][::-1], "steps": {}}
    for name, step in team["steps"].items():
        other["steps"][name] = {**step, "then": turned(step["then"])}
    one, two = workflow(team), workflow(other)
    if any(step.reads is None for step in one.steps):
        return  # a conversation has an order, and it is that of the workflow
    first, second = talk(one, seed)[0], talk(two, seed)[0]
    assert first.ending is second.ending
    said = [
        sorted((step.name, turn.text) for step, turn, _ in taken(d.turns, w)) for d, w in ((first, one), (second, two))
    ]
    assert said[0] == said[1]


@given(teams(), st.integers(0, 99), st.integers(0, 14))
def test_a_dialogue_that_was_cut_off_anywhere_goes_on_to_the_same_end(
    team: dict[str, Any], seed: int, cut: int
) -> None:
    found = workflow(team)
    whole, _ = talk(found, seed)
    if cut < len(whole.turns):
        assert talk(found, seed, whole.turns[:cut])[0] == whole


@given(teams(), st.integers(0, 99))
def test_a_dialogue_step_by_step_is_the_one_in_batches(team: dict[str, Any], seed: int) -> None:
    """As a tree search takes it: of steps side by side one at a time, each without what the others say."""
    found = workflow(team)
    speaker, dialogue = Speaker(found, seed), Dialogue("q", 0)
    while dialogue.ending is None:
        dialogue = extend(dialogue, speaker.turn(cues(dialogue, found)[0]), workflow=found)
    assert dialogue == talk(found, seed)[0]


@pytest.mark.parametrize("name", shipped_teams())
def test_a_shipped_team_comes_to_an_end_whatever_is_said(name: str) -> None:
    endings = set()
    for seed in range(60):
        done, _ = talk(shipped(name), seed)
        assert len(done.turns) <= shipped(name).max_steps
        endings.add(done.ending)
        answering = {step.name for step, turn, _ in taken(done.turns, shipped(name)) if turn.answer}
        assert done.answer is None or answering
    assert endings <= {Ending.AGREED, Ending.DONE, Ending.MAX_TURNS}
    assert endings & {Ending.AGREED, Ending.DONE} or name == "solo"


# --- Wrong ones -----------------------------------------------------------------------------------


@given(
    teams(), st.randoms(use_true_random=False), st.sampled_from(("target", "input", "role", "speaker", "stray", "key"))
)
def test_what_is_wrong_with_a_random_team_is_told_with_its_line(
    team: dict[str, Any], draw: random.Random, kind: str
) -> None:
    name = draw.choice(list(team["steps"]))
    step = dict(team["steps"][name])
    wrong = {**team, "steps": {**team["steps"], name: step}}
    path: tuple[str, ...] = ("steps", name)
    if kind == "target":
        step["then"], path = "nowhere", (*path, "then")
    elif kind == "input":
        step["reads"], path = "{nothing}", (*path, "reads")
    elif kind == "speaker":
        step["speaker"], path = "Nobody", (*path, "speaker")
    elif kind == "key":
        step["wrties"], path = "x", (*path, "wrties")
    elif kind == "role":
        wrong["roles"], path = {**team["roles"], "Idle": {"system": "x"}}, ("roles", "Idle")
    else:
        wrong["steps"]["stray"], path = {**step, "reads": "{question}", "then": "end"}, ("steps", "stray")
    document = strict_yaml.load(yaml.safe_dump(wrong, sort_keys=False))
    mistakes: list[Mistake] = []
    assert read(document.value, lambda keys: str(document.lines.get(keys, 0)), mistakes) is None
    assert (str(document.lines[path]), ".".join(path)) in {(one.origin, one.path) for one in mistakes}


# --- One thing at a time --------------------------------------------------------------------------


def turns(*said: tuple[int, str]) -> tuple[Turn, ...]:
    return tuple(Turn(speaker, (5, 0), text) for speaker, text in said)


def test_a_plan_is_carried_out_item_by_item_and_made_anew_once() -> None:
    team = shipped("planner_executor")
    said = turns((0, "1. find\n2. add"), (1, "found 3"))
    (cue,) = cues(Dialogue("q", 0, said), team)
    _, told = brief(ASKED, moment(said, team).done, cue.step, workflow=team)
    assert "Results so far:\n1. found 3\nYour sub-task: add\n" in told.text
    again = (*said, *turns((1, "REPLAN, nothing to add")))
    (cue,) = cues(Dialogue("q", 0, again), team)
    assert cue.step.name == "plan"
    rest = (*again, *turns((0, "1. guess"), (1, "REPLAN")))
    (cue,) = cues(Dialogue("q", 0, rest), team)
    assert cue.step.name == "compose", "a plan is made twice at most, and this one has no more items"


def test_three_write_in_one_call_and_the_picker_reads_them_all() -> None:
    team = shipped("writers_picker_formatter")
    done, speaker = talk(team, 1)
    assert speaker.calls == [["ann", "ben", "cy"], ["pick"], ["format"]]
    assert done.ending is Ending.DONE
    (cue,) = cues(Dialogue("q", 0, done.turns[:3]), team)
    _, told = brief(ASKED, moment(done.turns[:3], team).done, cue.step, workflow=team)
    assert [told.text.index(label) for label in ("First", "Second", "Third")] == sorted(
        told.text.index(label) for label in ("First", "Second", "Third")
    )
    assert all(turn.text in told.text for turn in done.turns[:3])


def test_the_last_proposal_counts_when_the_critic_never_accepts() -> None:
    team = shipped("proposer_critic")
    dialogue = Dialogue("q", 0)
    for k in range(5):
        dialogue = extend(dialogue, Turn(0, (5, 0), "", answer=str(k)), workflow=team)
        dialogue = extend(dialogue, Turn(1, (5, 0), "Wrong. REVISE."), workflow=team)
    assert (dialogue.ending, dialogue.answer) == (Ending.MAX_TURNS, "4")
    accepted = extend(Dialogue("q", 0, dialogue.turns[:1]), Turn(1, (5, 0), "Right: ACCEPT"), workflow=team)
    assert (accepted.ending, accepted.answer) == (Ending.AGREED, "0")


def test_steps_side_by_side_that_do_not_all_fit_are_not_begun() -> None:
    team = replace(shipped("tree"), max_steps=2)
    done, speaker = talk(team, 0)
    assert (done.ending, speaker.calls) == (Ending.MAX_TURNS, [["solve"]])


def test_one_cut_message_of_several_side_by_side_ends_the_talk_with_all_of_them() -> None:
    team = shipped("writers_picker_formatter")

    def speak(ready: Sequence[Cue]) -> list[Turn]:
        return [Turn(team.speaker(cue.step), (5,), "", finished=cue.step.name != "ann") for cue in ready]

    (done,) = converse([Dialogue("q", 0)], workflow=team, speak=speak)
    assert (done.ending, len(done.turns), done.tokens) == (Ending.TRUNCATED, 3, 3)
