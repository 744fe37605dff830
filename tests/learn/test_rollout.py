"""Agents: what they are asked, that a row's tokens hang on its own key, and that every message is read by the base."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import DataError  # noqa: E402
from optima_lite.learn.ranking import flexible_answer, flexible_score, ranked, score, search_rewards, worst_losses  # noqa: E402
from optima_lite.learn.reward import Scale  # noqa: E402
from optima_lite.learn.rollout import Agents, Drafts, sample  # noqa: E402
from optima_lite.methods.optima.explore import grow, scale_of  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.records import Dialogue, Ending, Question, Rollouts, Turn  # noqa: E402
from optima_lite.settings.sections import RewardSettings, SearchSettings  # noqa: E402
from optima_lite.settings.workflow import told  # noqa: E402
from optima_lite.stage.cast import Cast  # noqa: E402
from optima_lite.tasks import (  # noqa: E402
    answers,
    world,
)
from optima_lite.tasks.answers import Scoring  # noqa: E402
from optima_lite.team.prompts import view  # noqa: E402
from support import copied  # noqa: E402

SAMPLING = Sampling(0.8, 1.0, 16)
QUESTIONS = world.questions("train", 4, seed=0)


def sampled(cast: Cast, questions: list[Question] = QUESTIONS, **changes: Any) -> list[Rollouts]:
    wanted: dict[str, Any] = {"rollouts": 3, "sampling": SAMPLING, "seed": (0, 1)} | changes
    return sample(cast.team, questions, **wanted)


@pytest.fixture(scope="module")
def talks(assembled: Cast) -> list[Rollouts]:
    return sampled(copied(assembled))


# --- Talking --------------------------------------------------------------------------------------


def test_every_question_gets_its_rollouts_in_order(cast: Cast, talks: list[Rollouts]) -> None:
    assert [group.question for group in talks] == QUESTIONS
    for group in talks:
        assert [(d.question, d.rollout, d.format) for d in group.dialogues] == [
            (group.question.id, k, None) for k in range(3)
        ]
        assert group.rewards == ()
        for dialogue in group.dialogues:
            assert dialogue.ending is not None
            assert [turn.speaker for turn in dialogue.turns] == [k % 2 for k in range(len(dialogue.turns))]
            assert len(dialogue.turns) <= cast.team.workflow.max_steps
            for turn in dialogue.turns:
                assert 1 <= len(turn.ids) <= 16
                assert turn.finished == (turn.ids[-1] in cast.policy.end_ids)
                assert not set(turn.ids[:-1]) & set(cast.policy.end_ids)
                assert turn.text == cast.team.renderer.text(turn.ids)
            assert (dialogue.ending is Ending.TRUNCATED) == (not dialogue.turns[-1].finished)
            assert all(turn.finished for turn in dialogue.turns[:-1])


def test_rollouts_differ_and_repeat_from_their_seed(cast: Cast, talks: list[Rollouts]) -> None:
    assert sampled(cast) == talks
    assert sampled(cast, seed=(0, 2)) != talks
    assert any(len({d.turns[0].ids for d in group.dialogues}) > 1 for group in talks)


def test_a_dialogue_hangs_neither_on_its_company_nor_on_the_number_of_rollouts(
    cast: Cast, talks: list[Rollouts]
) -> None:
    alone = [sampled(cast, [question])[0] for question in reversed(QUESTIONS)]
    assert alone[::-1] == talks
    fewer = sampled(cast, rollouts=1)
    assert [group.dialogues[0] for group in fewer] == [group.dialogues[0] for group in talks]


def test_one_dialogue_as_it_grows_is_the_sampled_one(cast: Cast, talks: list[Rollouts]) -> None:
    grown = list(cast.team.unfold(QUESTIONS[0], sampling=SAMPLING, seed=(0, 1)))
    final = talks[0].dialogues[0]
    assert grown[-1] == final
    assert [dialogue.turns for dialogue in grown] == [final.turns[: k + 1] for k in range(len(final.turns))]


def test_greedy_is_the_likeliest_token_whatever_the_seed(cast: Cast) -> None:
    greedy = replace(SAMPLING, temperature=0.0)
    talks = sampled(cast, sampling=greedy, rollouts=2)
    assert all(one.turns == two.turns for one, two in (group.dialogues for group in talks))
    assert sampled(cast, sampling=greedy, rollouts=2, seed=(5, 5)) == talks
    prompt = cast.team.renderer.prompt(view(QUESTIONS[0], [], 0, workflow=cast.team.workflow))
    with torch.no_grad():
        logits = cast.policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    assert talks[0].dialogues[0].turns[0].ids[0] == int(logits.argmax())


def test_formats_are_dealt_before_any_comes_twice(cast: Cast) -> None:
    talks = sampled(cast, rollouts=5, formats=("json", "table", "csv"), sampling=replace(SAMPLING, max_new_tokens=2))
    dealt = [[d.format for d in group.dialogues] for group in talks]
    for formats in dealt:
        assert formats[3:] == formats[:2] and Counter(formats[:3]) == Counter(["json", "table", "csv"])
    assert len({tuple(formats) for formats in dealt}) > 1, "each question has its own order"


def test_formats_are_asked_for_and_not_trained(cast: Cast) -> None:
    asked: list[str] = []

    def listen(prompts: Any, **named: Any) -> list[tuple[int, ...]]:
        asked.extend(cast.policy.tokenizer.decode(list(prompt)) for prompt in prompts)
        return [(cast.policy.end_ids[0],)] * len(prompts)

    cast.team.generator.generate = listen  # type: ignore[method-assign]
    (group,) = sampled(cast, QUESTIONS[:1], rollouts=1, formats=("json",))
    assert len(asked) == cast.team.workflow.max_steps
    assert all("Write each message as compact JSON." in prompt for prompt in asked)
    for row in cast.team.views(group.question, group.dialogues[0]):
        assert "JSON" not in cast.policy.tokenizer.decode(list(row.ids))


def test_progress_adds_up(cast: Cast) -> None:
    told: list[tuple[int, int]] = []
    talks = sampled(cast, advance=lambda done, tokens: told.append((done, tokens)))
    assert sum(done for done, _ in told) == 12
    assert sum(tokens for _, tokens in told) == sum(d.tokens for group in talks for d in group.dialogues)


# --- Windows --------------------------------------------------------------------------------------


def with_room(cast: Cast, tokens: int) -> Cast:
    """The same agents on a generator whose cache holds so many tokens."""
    layers, heads, width = cast.policy.cache_shape
    size = tokens * 2 * layers * heads * width * cast.policy.model.dtype.itemsize
    generator = Generator(cast.policy, max_batch_tokens=2000, max_cache_bytes=size)
    return replace(cast, team=replace(cast.team, generator=generator))


def drafts(questions: list[Question], *, rollouts: int) -> list[Drafts]:
    return [(question, [Dialogue(question.id, k) for k in range(rollouts)]) for question in questions]


def test_the_room_changes_neither_what_is_said_nor_the_order(cast: Cast) -> None:
    """Rooms for nothing, less than a dialogue, some dialogues, and everything."""
    cast.policy.model.double()
    briefly = cast.recipe.sampling.model_copy(update={"max_turn_tokens": 8})
    searching = {"search": SearchSettings(searches=2, rollouts=2), "sampling": briefly}
    cast = replace(cast, recipe=cast.recipe.model_copy(update=searching))
    wanted = {"formats": ("json", "table"), "rollouts": 3, "sampling": replace(SAMPLING, max_new_tokens=8)}
    rooms = [with_room(cast, tokens) for tokens in (0, 100, 700, 1 << 20)]
    scale = scale_of(rooms[0], ranked(rooms[0].team, sampled(rooms[0], rollouts=1), settings=RewardSettings()))
    talks = [sampled(roomy, **wanted) for roomy in rooms]
    assert all(one == talks[-1] for one in talks)
    assert [group.question for group in talks[0]] == QUESTIONS
    rewards = [ranked(roomy.team, talks[0], settings=RewardSettings()) for roomy in rooms]
    trees = [grow(roomy, QUESTIONS[:2], scale=scale, seed=(1,), advance=lambda *done, **told: None) for roomy in rooms]
    assert [tree.question for tree in trees[0]] == QUESTIONS[:2]
    for found, grown in zip(rewards, trees, strict=True):
        assert [group.dialogues for group in found] == [group.dialogues for group in rewards[-1]]
        assert totals(found) == pytest.approx(totals(rewards[-1]), abs=1e-6)
        assert [[node.turn for node in tree.nodes] for tree in grown] == [
            [node.turn for node in tree.nodes] for tree in trees[-1]
        ]


def totals(groups: list[Rollouts]) -> list[float]:
    return [reward.total for group in groups for reward in group.rewards]


def test_progress_adds_up_in_windows_too(cast: Cast) -> None:
    told: list[tuple[int, int]] = []
    talks = sampled(with_room(cast, 700), advance=lambda done, tokens: told.append((done, tokens)))
    assert sum(done for done, _ in told) == 12 and all(done >= 0 for done, _ in told)
    assert sum(tokens for _, tokens in told) == sum(d.tokens for group in talks for d in group.dialogues)


def test_windows_follow_what_is_really_said(cast: Cast) -> None:
    """The first reckons with 4 turns of 100 tokens in two views; then 10 tokens are said instead of 400."""
    opening = sum(
        len(cast.team.renderer.prompt(view(QUESTIONS[0], [], speaker, workflow=told(cast.team.workflow, ""))))
        for speaker in (0, 1)
    )
    team = with_room(cast, 10 * (opening + 2 * 4 * 100)).team
    sizes = []
    for window in team.windows(drafts(QUESTIONS * 20, rollouts=1), sampling=replace(SAMPLING, max_new_tokens=100)):
        sizes.append(len(window))
        team.generator.counts.sampled += 10 * len(window)
    assert 5 <= sizes[0] <= 9 and sizes[1] > 2 * sizes[0]
    assert sum(sizes) == 80


def test_where_nothing_is_of_use_again_there_is_one_window(cast: Cast) -> None:
    asked = drafts(QUESTIONS, rollouts=3)
    for agents in (with_room(cast, 0).team, with_room(cast, 1 << 20).team):
        assert [list(window) for window in agents.windows(asked, sampling=SAMPLING)] == [asked]
    alone = replace(cast.single, generator=with_room(cast, 10).team.generator)
    assert [list(window) for window in alone.windows(asked, sampling=SAMPLING)] == [asked], "a single turn"
    batch = [len(window) for window in with_room(cast, 10).team.windows(asked, sampling=SAMPLING)]
    assert sum(batch) == 4 and batch[0] > 1, "where not even one fits, as many as make a batch"


def test_views_hold_what_each_speaker_sampled(cast: Cast, talks: list[Rollouts]) -> None:
    for group in talks:
        for dialogue in group.dialogues:
            views = cast.team.views(group.question, dialogue)
            speakers = sorted({turn.speaker for turn in dialogue.turns})
            for speaker, row in zip(speakers, views, strict=True):
                own = [turn.ids for turn in dialogue.turns if turn.speaker == speaker]
                assert [row.ids[a:b] for a, b in row.spans] == own


# --- Room -----------------------------------------------------------------------------------------

LONG = Question("long", "What is it?", ("x",), (tuple(f"fact {i} " + "word " * 200 for i in range(4)), ("brief",)))


def limited(cast: Cast, length: int) -> tuple[Agents, Agents]:
    cast.policy.max_length = length
    return cast.team, cast.single


@pytest.mark.parametrize("who", [0, 1])
def test_what_fits_stays_and_the_longest_dialogue_has_room(cast: Cast, who: int) -> None:
    agents = limited(cast, 420)[who]
    (short,) = agents.fit([LONG], max_turn_tokens=16)
    assert short is not LONG and (short.id, short.text, short.answers) == (LONG.id, LONG.text, LONG.answers)
    turns = [Turn(k % len(agents.workflow.roles), (20,) * 16, "") for k in range(agents.workflow.max_steps)]
    for row in agents.views(short, Dialogue("long", 0, tuple(turns))):
        assert len(row.ids) <= 420
    for speaker in range(len(agents.workflow.roles)):
        said = [turn for turn in turns if turn.speaker != speaker][:1]
        messages = view(short, said, speaker, workflow=agents.workflow, format="pseudo_code")
        assert len(agents.renderer.prompt(messages)) + 16 <= 420
    (same,) = agents.fit([QUESTIONS[0]], max_turn_tokens=16)
    assert same is QUESTIONS[0]


def test_a_question_that_cannot_fit_is_told(cast: Cast) -> None:
    team, _ = limited(cast, 100)
    with pytest.raises(DataError, match="the question and its turns leave no room for its facts") as raised:
        team.fit([LONG], max_turn_tokens=64)
    assert raised.value.where == "question long"


# --- Rewards --------------------------------------------------------------------------------------


def stated(answer: str | None, ending: Ending) -> Dialogue:
    return Dialogue("q", 0, (Turn(0, (20, 21), "", answer),), ending)


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (stated("Tess", Ending.AGREED), 1.0),
        (stated("tess.", Ending.MAX_TURNS), 1.0),
        (stated("Mira", Ending.AGREED), 0.0),
        (stated(None, Ending.MAX_TURNS), 0.0),
        (stated("Tess", Ending.TRUNCATED), 0.0),
    ],
)
def test_the_score_is_that_of_the_last_answer(dialogue: Dialogue, expected: float) -> None:
    assert score(Question("q", "?", ("Tess",), ((), ())), dialogue, scoring=Scoring()) == expected


@pytest.mark.parametrize(
    ("said", "ending", "answer"),
    [
        ([("It is <A>7</A>, not 8.", "7"), ("I say 9.", None)], Ending.MAX_TURNS, "7"),
        ([("I count 6.", None), ("So 5, then 7.", None), ("Agreed!", None)], Ending.MAX_TURNS, "7"),
        ([("<A>7</A>", "7"), ("and then 12 or", None)], Ending.TRUNCATED, "7"),
        ([("Hello!", None)], Ending.MAX_TURNS, None),
    ],
)
def test_flexible_extraction_reads_what_was_not_marked(
    said: list[tuple[str, str | None]], ending: Ending, answer: str | None
) -> None:
    turns = tuple(Turn(k % 2, (1,), text, marked) for k, (text, marked) in enumerate(said))
    dialogue = Dialogue("q", 0, turns, ending)
    assert flexible_answer(dialogue) == answer
    assert flexible_score(Question("q", "?", ("7",), ((), ())), dialogue, scoring=Scoring("exact")) == bool(answer)


def test_an_answer_that_cannot_be_compared_in_time_counts_as_wrong_and_is_marked(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sampled dialogues and in those of a tree, and again when the same answer comes back."""
    monkeypatch.setattr(
        "optima_lite.tasks.answers._EQUAL", lambda one, other: None if "hard" in (one, other) else False
    )
    monkeypatch.setattr("optima_lite.tasks.answers.require", lambda metric: None)
    answers._same_value.cache_clear()
    agents = replace(cast.team, scoring=Scoring("math"))
    question = Question("q", "?", ("5",), ((), ()))
    talks = tuple(stated(answer, Ending.AGREED) for answer in ("hard", "hard", "easy", "5", None))
    (scored,) = ranked(agents, [Rollouts(question, talks)], settings=RewardSettings())
    assert [(reward.task, reward.undecided) for reward in scored.rewards] == [(0, 1), (0, 1), (0, 0), (1, 0), (0, 0)]
    pairs = [(question, dialogue) for dialogue in (*talks, stated("hard", Ending.MAX_TURNS))]
    found = search_rewards(agents, pairs, settings=RewardSettings(), scale=Scale(10, 1.0))
    assert [reward.undecided for reward in found] == [1, 1, 0, 0, 0, 0], "without agreement nothing is compared"
    answers._same_value.cache_clear()


def test_in_a_tree_an_agent_alone_needs_nobody_s_agreement(cast: Cast) -> None:
    question = Question("q", "?", ("Tess",), ((), ()))
    right, cut = stated("Tess", Ending.MAX_TURNS), stated("Tess", Ending.TRUNCATED)

    def tasks(agents: Agents) -> list[float]:
        pairs = [(question, right), (question, cut)]
        found = search_rewards(agents, pairs, settings=RewardSettings(), scale=Scale(10, 1.0))
        return [reward.task for reward in found]

    assert tasks(cast.single) == [1, 0] and tasks(cast.team) == [0, 0]


@pytest.mark.parametrize("condition", ["dialogue", "message"])
def test_the_worst_message_is_the_one_the_base_model_finds_least_natural(
    cast: Cast, talks: list[Rollouts], condition: str
) -> None:
    """Against one plain forward pass a row, with an adapter that must not matter."""
    with cast.policy.changing(), torch.no_grad():
        for name, weight in cast.policy.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
    pairs = [(group.question, dialogue) for group in talks for dialogue in group.dialogues]
    found = worst_losses(cast.team, pairs, condition=condition)
    for (question, dialogue), worst in zip(pairs, found, strict=True):
        losses = []
        own = [cast.team.renderer.alone(turn) for turn in dialogue.turns]
        for row in cast.team.views(question, dialogue) if condition == "dialogue" else own:
            with torch.no_grad(), cast.policy.model.disable_adapter():
                logits = cast.policy.model(input_ids=torch.tensor([row.ids])).logits[0]
            ids = torch.tensor(row.ids)
            losses += [float(torch.nn.functional.cross_entropy(logits[a - 1 : b - 1], ids[a:b])) for a, b in row.spans]
        assert len(losses) == len(dialogue.turns)
        assert worst == pytest.approx(max(losses), abs=2e-4)


def test_ranking_keeps_the_rollouts_and_adds_a_reward_each(cast: Cast, talks: list[Rollouts]) -> None:
    scored = ranked(cast.team, talks, settings=RewardSettings())
    assert [replace(group, rewards=()) for group in scored] == talks
    for group in scored:
        uncut = [dialogue for dialogue in group.dialogues if dialogue.ending is not Ending.TRUNCATED]
        longest = max(dialogue.tokens for dialogue in uncut or group.dialogues)
        for dialogue, reward in zip(group.dialogues, group.rewards, strict=True):
            assert reward.token_share == pytest.approx(min(1.0, dialogue.tokens / longest))
            assert reward.task == score(group.question, dialogue, scoring=Scoring())
            assert reward.worst_loss > 0
