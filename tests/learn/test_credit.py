"""What each message is credited with, by tables made by hand, and what holds for any dialogue of any team."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.learn.credit import credits, of_turns
from optima_lite.records import Dialogue, Ending, Reward, Turn
from optima_lite.settings.sections import CreditScheme
from optima_lite.settings.teams import shipped, workflow
from optima_lite.settings.workflow import Workflow

SCHEMES: tuple[CreditScheme, ...] = ("trajectory", "split", "difference", "code", "own_step")

# Rounds of asking, looking up and noting, after each of which an answer is stated (M-ASK of UnityMAS-O).
MASK = workflow(
    {
        "roles": {name: {"system": "You are {name}."} for name in ("Planner", "Searcher", "Noter", "Answerer")},
        "steps": {
            "plan": {"speaker": "Planner", "reads": "{question}", "then": "search"},
            "search": {
                "speaker": "Searcher",
                "reads": "{question} {plan} {notes.all}",
                "then": {"says STOP": "end", "otherwise": "look"},
            },
            "look": {"tool": "retrieve", "reads": "{search}", "then": "note"},
            "note": {"speaker": "Noter", "reads": "{look}", "writes": "notes", "then": "answer"},
            "answer": {
                "speaker": "Answerer",
                "reads": "{notes}",
                "parse": "answer",
                "then": {"rounds < 3": "search", "otherwise": "end"},
            },
        },
        "answer": ["plan", "answer"],
        "max_steps": 13,
    }
)
CODE = shipped("plan_code_test_reflect")
TALK = shipped("exchange")


def dialogue(team: Workflow, script: str, ending: Ending | None = Ending.DONE) -> Dialogue:
    """A dialogue from its steps: `name`, or `name=0.5`, which states an answer of that score; `name!` says nothing that
    its step could be read for, `name~` is cut, `name/STOP` says just that."""
    turns = []
    for part in script.split():
        name, _, words = part.partition("/")
        name, _, score = name.partition("=")
        step, cut = team.step(name.rstrip("!~")), part.endswith("~")
        text = "" if part.endswith("!") else f"<A>{score}</A>" if score else words or "words"
        if step.parse == "code" and score:
            text = "```python\nx = 1\n```"
        turns.append(Turn(team.speaker(step), () if step.tool else (5, 0), text, score or None, finished=not cut))
    return Dialogue("q", 0, tuple(turns), ending)


def table(team: Workflow, scheme: CreditScheme, talk: Dialogue, final: float, weight: float = 0) -> list[float | None]:
    found = credits(talk, workflow=team, scheme=scheme, final=final, score_of=float, parse_weight=weight)
    return [None if value is None else round(value, 6) for value in found]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("trajectory", [0.75, 0.75, None, 0.75, 0.75, 0.75]),
        ("split", [0.15, 0.15, None, 0.15, 0.15, 0.15]),
        ("difference", [0.25, 0.5, None, 0.5, 0.75, 0]),
        ("code", [0.25, 0.5, None, 0.5, 0.5, 0]),
        ("own_step", [0.25, 0.75, None, 0.75, 0.75, 0.75]),
    ],
)
def test_a_round_and_an_early_stop(scheme: CreditScheme, expected: list[float | None]) -> None:
    """The plan has its own first answer; whoever says that it is enough gains nothing; a tool learns nothing."""
    talk = dialogue(MASK, "plan=0.25 search look note answer=0.75 search/STOP")
    assert table(MASK, scheme, talk, 0.75) == expected


def test_a_round_that_made_it_worse_pays() -> None:
    talk = dialogue(MASK, "plan=1 search look note answer=0 search look note answer=0.5")
    gains = [1, -1, None, -1, 0, 0.5, None, 0.5, 0.5]
    assert table(MASK, "difference", talk, 0.5) == gains
    assert table(MASK, "code", talk, 0.5) == [1, -1, None, -1, -1, 0.5, None, 0.5, 0.5]


def test_an_answer_that_does_not_come_ends_no_round_and_gains_nothing() -> None:
    """The team still has the answer before; what the second search has found goes with the next answer."""
    talk = dialogue(MASK, "plan=0.5 search look note answer! search look note answer=1")
    assert table(MASK, "difference", talk, 1) == [0.5, 0.5, None, 0.5, 0, 0.5, None, 0.5, 1]
    assert table(MASK, "own_step", talk, 1) == [0.5, 1, None, 1, 0, 1, None, 1, 1]
    never = dialogue(MASK, "plan search look note answer!")
    for scheme in SCHEMES:
        assert table(MASK, scheme, never, 0) == [0, 0, None, 0, 0]


def test_a_coder_is_paid_by_its_round_and_a_reviewer_by_the_next() -> None:
    talk = dialogue(CODE, "plan code=0.25 test reflect code=0.75 test reflect code=0.5 test", Ending.DONE)
    assert table(CODE, "code", talk, 0.5) == [0.25, 0.25, None, 0.5, 0.5, None, -0.25, -0.25, None]
    stopped = dialogue(CODE, "plan code=0.25 test reflect code!", Ending.MAX_TURNS)
    assert table(CODE, "code", stopped, 0.25) == [0.25, 0.25, None, 0, 0], "no next round: nothing"


def test_a_cut_dialogue_has_lost_what_it_had() -> None:
    """Its score is 0: what was said since the last answer pays for it, and the answers keep what they were."""
    talk = dialogue(MASK, "plan=0.5 search look note~", Ending.TRUNCATED)
    assert table(MASK, "difference", talk, 0) == [0.5, -0.5, None, -0.5]
    assert table(MASK, "trajectory", talk, 0, weight=1) == [0, 0, None, -1], "a cut message does not hold anything"
    answer = dialogue(MASK, "plan=0.5 search look note answer=1~", Ending.TRUNCATED)
    assert table(MASK, "difference", answer, 0) == [0.5, -0.5, None, -0.5, -0.5], "an answer in a cut message is none"


def test_a_dialogue_that_has_not_ended_has_no_credit() -> None:
    assert table(MASK, "difference", dialogue(MASK, "plan=1 search", None), 1) == [None, None]
    assert table(MASK, "split", Dialogue("q", 0, (), None), 0) == []


def test_a_talk_in_which_most_messages_state_nothing() -> None:
    talk = dialogue(TALK, "first second first=0 second=1 first=1", Ending.AGREED)
    assert table(TALK, "difference", talk, 1) == [0, 0, 0, 1, 1]
    assert table(TALK, "own_step", talk, 1) == [1, 1, 0, 1, 1]


def test_steps_side_by_side_stand_in_one_round() -> None:
    """Each drafter states an answer; the later one counts, and none is measured by what stands beside it."""
    team = workflow(
        {
            "roles": {"Ann": {"system": "x"}, "Ben": {"system": "x"}},
            "steps": {
                "ann": {"speaker": "Ann", "reads": "{question}", "then": "pick"},
                "ben": {"speaker": "Ben", "reads": "{question}", "then": "pick"},
                "pick": {"speaker": "Ann", "reads": "{ann} {ben}", "then": "end"},
            },
            "start": ["ann", "ben"],
            "answer": ["ann", "ben", "pick"],
        }
    )
    talk = dialogue(team, "ann=0.25 ben=0.5 pick=1")
    assert table(team, "code", talk, 1) == [0.25, 0.5, 0.5]
    silent = dialogue(team, "ann ben=0.5 pick=1")
    assert table(team, "code", silent, 1) == [0.5, 0.5, 0.5]


def test_accuracy_plus_format() -> None:
    """What does not hold what its step is to say costs a point, whoever said it; tools have no format."""
    talk = dialogue(MASK, "plan! search look! note answer=1")
    assert table(MASK, "trajectory", talk, 1, weight=1) == [0, 1, None, 1, 1]
    assert table(MASK, "difference", talk, 1, weight=0.5) == [-0.5, 1, None, 1, 1], "unreadable: it gained nothing"
    verdict = dialogue(shipped("proposer_critic"), "propose=1 criticise", Ending.MAX_TURNS)
    assert table(shipped("proposer_critic"), "trajectory", verdict, 1, weight=1) == [1, 0], "no verdict in it"


@given(st.lists(st.sampled_from(("", "=0", "=0.25", "=1", "!")), min_size=1, max_size=6), st.sampled_from(SCHEMES))
def test_credit_hangs_together(states: list[str], scheme: CreditScheme) -> None:
    """The gains of a talk's rounds add up to its score, and the parts of a split; every agent's turn has a number."""
    step = {"speaker": "Ann", "then": {"rounds < 6": "say", "otherwise": "end"}}
    team = workflow({"roles": {"Ann": {"system": "x"}}, "steps": {"say": step}, "answer": "say", "max_steps": 6})
    talk = dialogue(team, " ".join(f"say{state}" for state in states), Ending.MAX_TURNS)
    final = float(talk.answer or 0)
    found = credits(talk, workflow=team, scheme=scheme, final=final, score_of=float)
    assert all(value is not None for value in found)
    if scheme == "split":
        assert sum(value or 0 for value in found) == pytest.approx(final)
    if scheme == "code" and "!" not in states:
        rounds = [value for turn, value in zip(talk.turns, found, strict=True) if turn.answer is not None]
        assert sum(value or 0 for value in rounds) == pytest.approx(final)


def test_a_turn_s_reward_has_its_credit_in_place_of_the_score() -> None:
    reward = Reward(total=0.7, task=1.0, token_share=0.5, readability=0.0, worst_loss=1.0)
    mine, same, tool = of_turns(reward, (0.25, 1.0, None))
    assert (mine.task, round(mine.total, 6), mine.token_share) == (0.25, -0.05, 0.5)
    assert same == reward == tool
