"""Every shipped team with the tiny model: what is trained is what was sampled, after what its speaker saw."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from optima_lite.learn.ranking import ranked
from optima_lite.learn.rollout import Agents, sample
from optima_lite.model.sampling import Sampling
from optima_lite.records import Dialogue, Rollouts, Turn, from_json, to_json
from optima_lite.settings.sections import RewardSettings
from optima_lite.settings.teams import shipped, shipped_teams
from optima_lite.stage.cast import Cast
from optima_lite.tasks.world import questions
from optima_lite.team.dialogue import taken
from optima_lite.team.retrieval import Index

ASKED = questions("train", 2, seed=0)
TURN = 8  # tokens of a message at most; most are cut, so messages end by themselves below


def speaking(cast: Cast, name: str) -> Agents:
    """The team, whose messages all end by themselves: the last token that fits is a turn end."""
    agents = replace(cast.team, workflow=shipped(name))
    generate, end = agents.generator.generate, cast.policy.end_ids[0]

    def ended(*arguments: object, **named: object) -> list[tuple[int, ...]]:
        said = generate(*arguments, **named)  # type: ignore[arg-type]
        return [ids if ids[-1] == end else (*ids[:-1], end) for ids in said]

    agents.generator.generate = ended  # type: ignore[assignment, method-assign]
    return agents


def talks(agents: Agents, rollouts: int = 2) -> list[Rollouts]:
    return sample(agents, ASKED, rollouts=rollouts, sampling=Sampling(1.0, 1.0, TURN), seed=(0, 0))


@pytest.mark.parametrize("name", shipped_teams())
def test_every_message_is_trained_once_after_what_its_speaker_saw(cast: Cast, name: str) -> None:
    agents = speaking(cast, name)
    for group in talks(agents):
        for dialogue in group.dialogues:
            spans = [row.ids[start:stop] for row in agents.views(group.question, dialogue) for start, stop in row.spans]
            assert sorted(spans) == sorted(turn.ids for turn in dialogue.messages)
            seen = [
                (row.ids[:start], row.ids[start:stop])
                for row in agents.views(group.question, dialogue)
                for start, stop in row.spans
            ]
            for k, (step, turn, _) in enumerate(taken(dialogue.turns, agents.workflow)):
                if not step.tool:
                    told = agents.prompt(group.question, Dialogue(dialogue.question, 0, dialogue.turns[:k]))
                    assert (told, turn.ids) in seen, f"{step.name}: trained after something else than it was sampled"


@pytest.mark.parametrize("name", ["exchange", "plan_code_test_reflect", "writers_picker_formatter"])
def test_only_the_turns_that_are_to_be_learnt_are_marked(cast: Cast, name: str) -> None:
    agents = speaking(cast, name)
    for group in talks(agents):
        for dialogue in group.dialogues:
            whole = [row for _, row in agents.lessons(group.question, dialogue)]
            spoken = [k for k, turn in enumerate(dialogue.turns) if turn.ids]
            for learnt in (set(spoken[1::2]), set(spoken[:1]), set()):
                rows = [row for _, row in agents.lessons(group.question, dialogue, frozenset(learnt))]
                spans = [row.ids[start:stop] for row in rows for start, stop in row.spans]
                assert sorted(spans) == sorted(dialogue.turns[k].ids for k in learnt)
                assert {row.ids for row in rows} <= {row.ids for row in whole}, "what is not learnt is still read"


@pytest.mark.parametrize("name", ["tree", "ask_search_summarise", "planner_executor"])
def test_a_dialogue_is_the_same_alone_and_among_others(cast: Cast, name: str) -> None:
    agents = speaking(cast, name)
    assert [group.dialogues[:1] for group in talks(agents)] == [group.dialogues for group in talks(agents, rollouts=1)]


def test_tools_are_recorded_and_cost_nothing(cast: Cast) -> None:
    agents = speaking(cast, "decompose_retrieve_answer")
    scored = ranked(agents, talks(agents), settings=RewardSettings(turn_cost=0.5, token_weight=0, readability_weight=0))
    for group in scored:
        for dialogue, reward in zip(group.dialogues, group.rewards, strict=True):
            ask, tool, answer = dialogue.turns
            assert (tool.ids, agents.workflow.names[tool.speaker]) == ((), "retrieve")
            assert dialogue.tokens == len(ask.ids) + len(answer.ids)
            assert reward.total == reward.task - 2 * 0.5, "two messages, and the tool's output is none"
    assert [from_json(Rollouts, to_json(group)) for group in scored] == scored


def test_what_is_looked_up_elsewhere_is_cut_to_the_room_of_a_message(cast: Cast) -> None:
    team = shipped("decompose_retrieve_answer")
    library = replace(team, steps=tuple(replace(step, index="texts") if step.tool else step for step in team.steps))
    facts = ("mother of Mira Tess", " ".join(["home of Mira"] * 100))
    agents = replace(cast.team, workflow=library, indexes={"texts": Index(facts)})
    end = cast.policy.end_ids[0]

    def found(asked: str) -> str:
        dialogue = Dialogue(ASKED[0].id, 0, (Turn(0, (5, end), asked),))
        (turn,) = agents.speak([(ASKED[0], agents.next_cue(dialogue))], sampling=Sampling(1.0, 1.0, 16), seed=(0,))
        assert turn.ids == ()
        return turn.text

    assert found("1. mother") == "- mother of Mira Tess"
    cut = found("1. home")
    assert cut.startswith("- home of Mira") and len(agents.renderer.encode(cut)) <= 16
    assert found("1. birthplace") == "(nothing found)", "not even in the question's own facts"


def test_facts_are_cut_so_that_every_prompt_fits(cast: Cast) -> None:
    cast.policy.max_length = 420
    for name in shipped_teams():
        agents = speaking(cast, name)
        long = replace(ASKED[0], contexts=(("word " * 400,), ("word " * 400,)))
        (short,) = agents.fit([long], max_turn_tokens=TURN)
        told = agents.prompt(short, Dialogue("q", 0))
        assert len(told) + TURN <= 420, name
