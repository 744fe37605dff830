"""Plan, code, test, reflect from end to end: scripted agents, whose code is run for real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from optima_lite.learn.ranking import score
from optima_lite.learn.rollout import Agents
from optima_lite.model.sampling import Sampling
from optima_lite.records import Dialogue, Ending, Metric, Question
from optima_lite.settings.teams import shipped
from optima_lite.tasks import code, sandbox
from optima_lite.tasks.answers import Scoring
from optima_lite.tasks.code import humaneval, mbpp
from optima_lite.team.prompts import Message, marked

walled = pytest.mark.skipif(bool(sandbox.missing()), reason=str(sandbox.missing()))

MBPP = Question("m", *mbpp("Add two numbers.", ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], ""), ((), ()))
HEAD = 'def add(a, b):\n    """Add.\n    >>> add(1, 2)\n    3\n    """\n'
HUMANEVAL = Question("h", *humaneval(HEAD, "add", "def check(f):\n    assert f(40, 2) == 42"), ((), ()))
RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return 3"


class Scripted:
    """A generator and a renderer of agents that say what is written, and of what they read."""

    def __init__(self, programs: Sequence[str]) -> None:
        self.said: list[str] = ["1. add"]
        for k, program in enumerate(programs):
            self.said += ([f"Mend it ({k})."] if k else []) + [f"Here:\n```python\n{program}\n```"]
        self.read: list[str] = []
        self.end_ids = {0}
        self.policy = self

    def wear(self, adapter: str) -> None:
        """There are no weights."""

    def generate(self, prompts: Sequence[Any], **_: Any) -> list[tuple[int, ...]]:
        self.read += prompts
        return [(len(self.read), 0) for _ in prompts]

    def prompt(self, messages: Sequence[Message], opening: str = "") -> str:
        return "\n".join(message.text for message in messages)

    def text(self, ids: tuple[int, ...]) -> str:
        return self.said[ids[0] - 1]

    def conversation(self, messages: Sequence[Message]) -> Any:
        return messages


def talked(question: Question, *programs: str, metric: Metric = "pass") -> tuple[Dialogue, Scripted, Agents]:
    scripted: Any = Scripted(programs)
    team = marked(shipped("plan_code_test_reflect"), metric)
    agents = Agents(scripted, scripted, team, Scoring(metric))
    sampling = Sampling(0.0, 1.0, 99)
    drafts = [Dialogue(question.id, 0)]
    (dialogue,) = agents.talk([question], drafts, sampling=sampling, seed=(), advance=lambda done, tokens: None)
    return dialogue, scripted, agents


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "LIMITS", sandbox.Limits(seconds=8, cpu=1))


def speakers(dialogue: Dialogue, agents: Agents) -> list[str]:
    return [agents.workflow.names[turn.speaker] for turn in dialogue.turns]


@walled
def test_right_code_ends_the_talk() -> None:
    dialogue, _, agents = talked(MBPP, RIGHT)
    assert speakers(dialogue, agents) == ["Planner", "Coder", "run_tests"]
    assert dialogue.turns[-1].text == "passed 2 of 2"
    assert (dialogue.ending, dialogue.answer) == (Ending.AGREED, RIGHT)
    assert score(MBPP, dialogue, scoring=agents.scoring) == 1


@walled
def test_wrong_code_is_mended_by_what_the_tests_say() -> None:
    dialogue, scripted, agents = talked(MBPP, WRONG, RIGHT)
    assert speakers(dialogue, agents) == ["Planner", "Coder", "run_tests", "Reviewer", "Coder", "run_tests"]
    told = dialogue.turns[2].text
    assert told.splitlines()[0] == "passed 1 of 2" and told.endswith("AssertionError")
    assert "test.py" in told and "optima-lite-" not in told, "the folder has another name each time"
    assert told in scripted.read[2], "the reviewer reads it"
    assert "1. Mend it (1)." in scripted.read[3], "the coder reads the advice"
    assert dialogue.ending is Ending.AGREED


@walled
def test_after_three_rounds_the_last_code_counts() -> None:
    dialogue, _, agents = talked(MBPP, WRONG, "oops", WRONG, metric="tests")
    assert speakers(dialogue, agents).count("run_tests") == 3 and len(dialogue.turns) == 9
    assert dialogue.ending is Ending.DONE
    assert "NameError" in dialogue.turns[5].text
    assert score(MBPP, dialogue, scoring=agents.scoring) == 0.5


@walled
def test_what_runs_away_is_contained_and_the_talk_goes_on() -> None:
    flood = "while True: print('x' * 1000)"
    dialogue, _, agents = talked(MBPP, "while True: pass", flood, RIGHT)
    assert [turn.text for turn in dialogue.turns if not turn.ids] == [
        "passed 0 of 2\nstopped at its limit: timeout",
        "passed 0 of 2\nstopped at its limit: output",
        "passed 2 of 2",
    ]
    assert dialogue.ending is Ending.AGREED and score(MBPP, dialogue, scoring=agents.scoring) == 1


@walled
def test_hidden_tests_decide_and_are_told_to_nobody() -> None:
    dialogue, scripted, agents = talked(HUMANEVAL, WRONG)
    assert dialogue.turns[-1].text == "passed 1 of 1", "the docstring's example"
    assert score(HUMANEVAL, dialogue, scoring=agents.scoring) == 0
    everything = "\n".join([*scripted.read, *(turn.text for turn in dialogue.turns)])
    assert "42" not in everything and "check" not in everything


@walled
def test_an_error_is_told_in_few_signs_and_always_alike() -> None:
    loud = "def add(a, b):\n    raise ValueError('\\N{SNOWMAN}' * 1000 + repr(object()))"
    once, again = (talked(MBPP, loud, RIGHT)[0].turns[2].text for _ in range(2))
    code.outcome.cache_clear()
    assert once == again == talked(MBPP, loud, RIGHT)[0].turns[2].text
    assert once.isascii() and len(once) <= 420 and "object at 0x0>" in once


@walled
def test_what_the_tests_say_is_never_trained() -> None:
    dialogue, _, agents = talked(MBPP, WRONG, RIGHT)
    views: Any = agents.views(MBPP, dialogue)
    own = [turn for messages in views for message in messages if message.own for turn in message.turns]
    assert own == [turn for turn in dialogue.turns if turn.ids]
    assert dialogue.tokens == 2 * len(own)
