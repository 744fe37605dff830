"""Teams that somebody might write, at random, and a speaker for all of them, without a model."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from optima_lite.records import Dialogue, Question, Turn
from optima_lite.settings.grammar import read
from optima_lite.settings.layers import Mistake
from optima_lite.settings.workflow import Workflow
from optima_lite.team.dialogue import Cue, converse, moment, taken
from optima_lite.team.prompts import brief, view

ASKED = Question("q", "Who?", ("Tess",), (("Mira mother Tess",), ("Tess home Oakton",)))
LINES = (
    "1. one\n2. two\n3. three",
    "I ACCEPT.",
    "No: REVISE it.",
    "REPLAN",
    "STOP",
    "It is <A>Tess</A>.",
    "It is <A>Mira</A>.",
    "Hm.",
    "```\nx = 1\n```",
)


@st.composite
def teams(draw: st.DrawFn) -> dict[str, Any]:
    """A valid team as plain values: levels of one to three steps, with ways back, and out, from those of one."""
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    levels = [[f"s{k}_{i}" for i in range(width)] for k, width in enumerate(widths)]
    steps: dict[str, Any] = {}
    for k, level in enumerate(levels):
        following: Any = levels[k + 1] if k + 1 < len(levels) else "end"
        earlier = [name for above in levels[:k] for name in above]
        for name in level:
            step: dict[str, Any] = {"speaker": draw(st.sampled_from(("Ann", "Ben"))), "then": following}
            read = draw(st.lists(st.sampled_from(earlier), max_size=3)) if earlier else []
            if len(level) > 1 or draw(st.booleans()):
                step["reads"] = "{question} " + " ".join(f"{{{one}}} {{{one}.all}}" for one in read)
            if len(level) == 1:
                conditions = draw(
                    st.sets(st.sampled_from(("says STOP", "rounds < 3", "accepted", "answered")), max_size=3)
                )
                ways = {text: draw(st.sampled_from([*levels[: k + 1], "end"])) for text in sorted(conditions)}
                step["parse"] = "verdict"
                step["then"] = {**ways, "otherwise": following}
            steps[name] = step
    spoken = [step["speaker"] for step in steps.values()]
    return {
        "roles": {name: {"system": "You are {name}."} for name in sorted(set(spoken))},
        "steps": steps,
        "start": levels[0],
        "answer": list(steps),
        "max_steps": draw(st.integers(sum(widths), 15)),
    }


def workflow(team: dict[str, Any]) -> Workflow:
    mistakes: list[Mistake] = []
    found = read(team, ".".join, mistakes)
    assert found is not None, mistakes
    return found


class Speaker:
    """Says a line drawn from the seed, the step and how often it was taken; reads what it is told before."""

    def __init__(self, team: Workflow, seed: int) -> None:
        self.team, self.seed = team, seed
        self.calls: list[list[str]] = []

    def __call__(self, ready: Sequence[Cue]) -> list[Turn]:
        self.calls.append([cue.step.name for cue in ready])
        return [self.turn(cue) for cue in ready]

    def turn(self, cue: Cue) -> Turn:
        done = moment(cue.dialogue.turns, self.team).done
        if cue.step.reads is None:
            view(ASKED, cue.dialogue.turns, self.team.speaker(cue.step), workflow=self.team)
        elif not cue.step.tool:
            _, told = brief(ASKED, done, cue.step, workflow=self.team)
            assert not re.search(r"\{\w", told.text), "an input is left open"
        times = sum(step.name == cue.step.name for step, _ in done)
        text = random.Random(f"{self.seed} {cue.step.name} {times}").choice(LINES)
        answer = re.search("<A>(.*)</A>", text)
        ids = () if cue.step.tool else (7, 0)
        return Turn(self.team.speaker(cue.step), ids, text, answer[1] if answer else None)


def said(dialogue: Dialogue, team: Workflow) -> list[tuple[str, str]]:
    return sorted((step.name, turn.text) for step, turn, _ in taken(dialogue.turns, team))


def talk(team: Workflow, seed: int, turns: tuple[Turn, ...] = ()) -> tuple[Dialogue, Speaker]:
    speaker = Speaker(team, seed)
    (done,) = converse([Dialogue("q", 0, turns)], workflow=team, speak=speaker)
    return done, speaker
