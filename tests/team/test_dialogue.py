"""Dialogues with scripted speakers: who speaks, when it ends, what counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from optima_lite.records import Dialogue, Ending, Turn
from optima_lite.settings.workflow import Workflow
from optima_lite.team.dialogue import Cue, converse
from optima_lite.team.talks import debate, exchange, solo

PAIR = exchange(("Ann", "Ben"), 6)
ANYONE = debate(("Ann", "Ben"), 6)


class Script:
    """Speaks the answers listed for each question, one a turn; None says nothing, CUT hits the token limit."""

    CUT = "<cut>"

    def __init__(self, **lines: list[str | None]) -> None:
        self.lines = lines
        self.calls: list[list[str]] = []

    def __call__(self, ready: Sequence[Cue]) -> list[Turn]:
        self.calls.append([cue.dialogue.question for cue in ready])
        return [self._turn(cue.dialogue) for cue in ready]

    def _turn(self, dialogue: Dialogue) -> Turn:
        line = self.lines[dialogue.question][len(dialogue.turns)]
        if line == self.CUT:
            return Turn(len(dialogue.turns) % 2, (7, 7), "", None, finished=False)
        return Turn(len(dialogue.turns) % 2, (7, 7, 0), line or "", line)


def talk(script: Script, workflow: Workflow = PAIR) -> dict[str, Dialogue]:
    done = converse([Dialogue(name, 0) for name in script.lines], workflow=workflow, speak=script)
    return {d.question: d for d in done}


def test_it_ends_when_the_partner_confirms() -> None:
    done = talk(Script(q=[None, "Paris", "the Paris."]))["q"]
    assert (done.ending, len(done.turns), done.answer) == (Ending.AGREED, 3, "the Paris.")


def test_repeating_oneself_is_no_agreement_in_an_exchange() -> None:
    done = talk(Script(q=["x", None, "x", None, "x", None]))["q"]
    assert (done.ending, len(done.turns), done.answer) == (Ending.MAX_TURNS, 6, "x")


def test_repeating_oneself_ends_a_debate() -> None:
    done = talk(Script(q=["x", None, "x"]), ANYONE)["q"]
    assert (done.ending, len(done.turns)) == (Ending.AGREED, 3)


def test_only_the_last_answer_counts() -> None:
    exchange_ends = talk(Script(q=["x", "y", "y"]))["q"]
    assert len(exchange_ends.turns) == 3
    debate = talk(Script(q=["x", "y", "x", "y", "x", "z"]), ANYONE)["q"]
    assert (debate.ending, debate.answer) == (Ending.MAX_TURNS, "z")
    # In an exchange, turn 3 says what the partner last said only if the partner has not changed it since.
    changed = talk(Script(q=["x", None, "w", "y", "x", "x"]))["q"]
    assert (changed.ending, len(changed.turns)) == (Ending.AGREED, 6)


def test_a_cut_turn_ends_the_dialogue_without_an_answer() -> None:
    done = talk(Script(q=["x", Script.CUT]))["q"]
    assert (done.ending, done.answer, done.tokens) == (Ending.TRUNCATED, None, 5)


def test_one_call_a_turn_serves_all_that_still_talk() -> None:
    script = Script(short=["x", "x"], cut=[Script.CUT], long=[None] * 6)
    done = talk(script)
    assert script.calls == [["short", "cut", "long"], ["short", "long"], *[["long"]] * 4]
    assert [d.ending for d in done.values()] == [Ending.AGREED, Ending.TRUNCATED, Ending.MAX_TURNS]


def test_speakers_take_turns() -> None:
    assert [turn.speaker for turn in talk(Script(q=[None] * 6))["q"].turns] == [0, 1, 0, 1, 0, 1]


def test_a_single_agent_speaks_once() -> None:
    done = talk(Script(q=["x"]), solo())["q"]
    assert (done.ending, len(done.turns), done.answer) == (Ending.MAX_TURNS, 1, "x")


def test_a_speaker_that_loses_a_turn_is_a_bug() -> None:
    with pytest.raises(ValueError, match="shorter"):
        converse([Dialogue("q", 0)], workflow=PAIR, speak=lambda ready: [])
