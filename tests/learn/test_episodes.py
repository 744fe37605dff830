"""From rewarded dialogues to episodes: who is paid what, whose messages are learnt, and that they are what was said."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from optima_lite.learn.episodes import episodes, paid
from optima_lite.learn.rollout import Agents
from optima_lite.model.render import Renderer
from optima_lite.records import Dialogue, Ending, Question, Reward, Rollouts, Turn
from optima_lite.settings.sections import RewardSettings
from optima_lite.settings.teams import resolved, shipped, workflow
from optima_lite.settings.workflow import Workflow
from optima_lite.tasks.answers import Scoring
from optima_lite.team.dialogue import taken
from optima_lite.team.talks import exchange

QUESTION = Question("q", "Who?", ("Mira",), ((), ()))
TALK = exchange(("Alice", "Bob"), 4)


def agents(renderer: Renderer, team: Workflow = TALK) -> Agents:
    nobody: Any = None  # nothing is sampled here
    return Agents(nobody, renderer, team, Scoring("exact"))


def said(renderer: Renderer, speaker: int, text: str, answer: str | None = None, *, cut: bool = False) -> Turn:
    ids = renderer.encode(f" {text}")
    return Turn(speaker, ids if cut else (*ids, min(renderer.end_ids)), text, answer, finished=not cut)


def run(renderer: Renderer, *texts: str, ending: Ending = Ending.AGREED) -> Dialogue:
    turns = []
    for k, text in enumerate(texts):
        answer = text.removeprefix("<A>").removesuffix("</A>") if text.startswith("<A>") else None
        turns.append(said(renderer, k % 2, text, answer, cut=ending is Ending.TRUNCATED and k == len(texts) - 1))
    return Dialogue("q", 0, tuple(turns), ending)


def reward(task: float, total: float) -> Reward:
    return Reward(total, task, 0.5, 1.0, 1.0)


def test_optima_s_reward_is_paid_to_every_message(renderer: Renderer) -> None:
    """As one allocator among others: solve more and say less."""
    right = run(renderer, "hm", "<A>Mira</A>", "<A>Mira</A>")
    wrong = run(renderer, "so", "<A>Tess</A>", "<A>Tess</A>")
    group = Rollouts(QUESTION, (right, wrong), (reward(1.0, 1.7), reward(0.0, 0.4)))
    payment = paid(agents(renderer), group, settings=RewardSettings())
    assert payment.rewards == ((1.7, 1.7, 1.7), (0.4, 0.4, 0.4))
    assert (payment.groups, payment.flat) == (3, 0)
    assert [sum(one) for one in zip(*payment.advantages, strict=True)] == pytest.approx([0, 0, 0])  # type: ignore[arg-type]


def test_a_credit_takes_the_place_of_the_task_score(renderer: Renderer) -> None:
    """What the tokens cost is every message's business."""
    mended = run(renderer, "<A>Tess</A>", "<A>Mira</A>", "<A>Mira</A>")
    group = Rollouts(QUESTION, (mended,), (reward(1.0, 0.7),))
    own = paid(agents(renderer), group, settings=RewardSettings(credit="own_step"))
    assert own.rewards == (pytest.approx((-0.3, 0.7, 0.7)),)
    gained = paid(agents(renderer), group, settings=RewardSettings(credit="code"))
    assert gained.rewards == (pytest.approx((-0.3, 0.7, -0.3)),), "the last one only says it again"


def test_accuracy_plus_format(renderer: Renderer) -> None:
    cut = run(renderer, "hm", "<A>Mira</A>", "and so on", ending=Ending.TRUNCATED)
    group = Rollouts(QUESTION, (cut,), (reward(0.0, 0.0),))
    payment = paid(agents(renderer), group, settings=RewardSettings(parse_weight=1.0))
    assert payment.rewards == ((0.0, 0.0, -1.0),)


def test_episodes_hold_what_each_agent_has_said_with_its_worth(renderer: Renderer) -> None:
    team = workflow(resolved({"name": "exchange", **_keys("exchange")}, lambda _: "", []) or {})
    one = run(renderer, "hm", "<A>Mira</A>", "<A>Mira</A>")
    two = run(renderer, "hm", "<A>Tess</A>", "<A>Mira</A>")
    group = Rollouts(QUESTION, (one, two), (reward(1.0, 1.0), reward(0.0, 0.0)))
    pair = agents(renderer, team)
    payment = paid(pair, group, settings=RewardSettings())
    found = episodes(pair, group, payment, roles=team.names, flat=False)
    assert [adapter for adapter, _ in found] == ["Alice", "Bob", "Alice", "Bob"]
    dialogues = (one, one, two, two)
    for k, ((_, episode), dialogue) in enumerate(zip(found, dialogues, strict=True)):
        own = [turn for turn in dialogue.turns if turn.speaker == k % 2]
        assert [episode.row.ids[start:end] for start, end in episode.row.spans] == [turn.ids for turn in own]
        assert episode.rewards == (1.0 if k < 2 else 0.0,) * len(own)
        assert all(advantage > 0 for advantage in episode.advantages) == (k < 2)
    assert [adapter for adapter, _ in episodes(pair, group, payment, roles=("Bob",), flat=False)] == ["Bob", "Bob"]


def _keys(name: str) -> dict[str, Any]:
    from optima_lite.settings.strict_yaml import load
    from optima_lite.settings.teams import shipped_teams

    return {**load(shipped_teams()[name].read_text()).value, "adapters": "separate"}  # type: ignore[dict-item]


def test_messages_of_flat_groups_are_left_out_unless_a_value_head_wants_them(renderer: Renderer) -> None:
    """Both began with the same worth, and parted later."""
    pair = agents(renderer)
    one, two = run(renderer, "hm", "<A>Mira</A>", "<A>Mira</A>"), run(renderer, "hm", "<A>Tess</A>", "<A>Mira</A>")
    group = Rollouts(QUESTION, (one, two), (reward(1.0, 1.0), reward(1.0, 1.0)))
    payment = paid(pair, group, settings=RewardSettings(credit="own_step"))
    assert payment.rewards == ((1.0, 1.0, 1.0), (1.0, 0.0, 1.0)) and (payment.groups, payment.flat) == (3, 2)
    assert len(episodes(pair, group, payment, roles=TALK.names, flat=False)) == 2, "Bob's two"
    assert len(episodes(pair, group, payment, roles=TALK.names, flat=True)) == 4


def test_what_is_learnt_was_said_after_what_was_read(renderer: Renderer) -> None:
    """The row up to a message is the very prompt that the message was sampled after; also at steps with templates."""
    team = shipped("decompose_retrieve_answer")
    question = Question("q", "Who is it?", ("Mira",), (("Tess mother Mira", "Ann home Rome"), ()))
    pair = agents(renderer, team)
    turns = (said(renderer, 0, "1. who"), Turn(2, (), "Tess mother Mira"), said(renderer, 1, "<A>Mira</A>", "Mira"))
    dialogue = Dialogue("q", 0, turns, Ending.DONE)
    group = Rollouts(question, (dialogue,), (reward(1.0, 1.0),))
    payment = paid(pair, group, settings=RewardSettings())
    assert payment.rewards == ((1.0, None, 1.0),)
    found = [episode.row for _, episode in episodes(pair, group, payment, roles=team.names, flat=True)]
    numbers = [k for k, (step, _, _) in enumerate(taken(turns, team)) if not step.tool]
    for row, number in zip(found, numbers, strict=True):
        prompt = pair.prompt(question, Dialogue("q", 0, turns[:number]))
        assert row.ids[: row.spans[0][0]] == prompt
