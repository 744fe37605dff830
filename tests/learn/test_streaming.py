"""Teams that stream: what is said does not depend on who speaks beside it, what is trained is what was sampled, what
was read before is not computed again, and whatever a model does the dialogue comes to its end."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from optima_lite.learn.ranking import ranked
from optima_lite.learn.rollout import Agents, sample
from optima_lite.model.decoding import Row
from optima_lite.model.generate import Generator
from optima_lite.model.policy import Policy
from optima_lite.model.render import Renderer
from optima_lite.model.sampling import Sampling
from optima_lite.records import Dialogue, Ending, Question, Reward, Rollouts, Turn, from_json, to_json
from optima_lite.runs.team_view import TeamView
from optima_lite.settings.sections import RewardSettings, SearchSettings
from optima_lite.settings.teams import shipped, workflow
from optima_lite.settings.workflow import Streaming, Workflow
from optima_lite.stage.asking import Said, Team
from optima_lite.stage.cast import Cast
from optima_lite.tasks.answers import Scoring
from optima_lite.team.dialogue import cues, extend, stand
from optima_lite.team.hearing import overheard
from optima_lite.team.search import search
from optima_lite.team.timeline import ticks, timeline
from optima_lite.team.tree import turns

ASKED = [
    Question("q", "Who is the mother of Mira?", ("Tess",), (("Mira mother Tess",), ("Tess home Oakton",))),
    Question("r", "Where is the home of Tess?", ("Oakton",), (("Mira mother Tess",), ("Tess home Oakton",))),
]
SAMPLING = Sampling(1.0, 1.0, 40)
STEPS = Streaming(steps=3, marker="e", step_tokens=9)  # a mark that a model without sense makes, often within a token
CACHES = {"cached": 1 << 28, "uncached": 0}


@pytest.fixture(scope="module")
def exact(tokenizer: Any) -> Policy:
    """A random Llama in double precision that has the bundled model's words."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            initializer_range=0.15,
        )
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(LlamaForCausalLM(config), lora).to(torch.float64).eval()
    ends = tuple(tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"]))
    return Policy(model=model, tokenizer=tokenizer, max_length=2048, end_ids=ends, base="random")


@pytest.fixture
def agents(exact: Policy, renderer: Renderer) -> Callable[..., Agents]:
    """A team of the random model. how, changes: of its streaming; None: it hands on whole messages without steps."""

    def made(team: str | Workflow, how: Streaming = STEPS, *, cache: int = 1 << 28, **changes: Any) -> Agents:
        found = shipped(team) if isinstance(team, str) else team
        streamed = replace(found, transfer="stream", stream=replace(how, **changes))
        generator = Generator(exact, max_batch_tokens=1 << 16, max_cache_bytes=cache)
        return Agents(generator, renderer, streamed, Scoring("f1", None, None))

    return made


def serial(streamed: Agents, **changes: Any) -> Agents:
    """The same team, with the marker, whose messages are handed on whole."""
    return replace(streamed, workflow=replace(streamed.workflow, transfer="serial", **changes))


def talked(team: Agents, *, sampling: Sampling = SAMPLING) -> Dialogue:
    *_, last = team.unfold(ASKED[0], sampling=sampling, seed=(0, 0))
    return last


# --- What is said ---------------------------------------------------------------------------------


def one_by_one(team: Agents, question: Question) -> Dialogue:
    """A dialogue in which every step is sampled alone."""
    dialogue = Dialogue(question.id, 0)
    while dialogue.ending is None:
        (turn,) = team.speak([(question, team.next_cue(dialogue))], sampling=SAMPLING, seed=(0, 0))
        dialogue = extend(dialogue, turn, workflow=team.workflow)
    return dialogue


@pytest.mark.parametrize(("name", "merge"), [("tree", "drain"), ("graph", "per_step")])
def test_batched_is_one_by_one_token_for_token_with_the_cache_and_without(
    agents: Callable[..., Agents], name: str, merge: str
) -> None:
    how = {"merge": merge, "step_tokens": 6}
    alone = agents(name, **how, cache=0)
    expected = [one_by_one(alone, question) for question in ASKED]
    for cache in CACHES.values():
        groups = sample(agents(name, **how, cache=cache), ASKED, rollouts=1, sampling=SAMPLING, seed=(0, 0))
        assert [dialogue for group in groups for dialogue in group.dialogues] == expected
    assert len({len(turn.ids) for dialogue in expected for turn in dialogue.turns}) > 3, "steps end raggedly"
    assert {turn.finished for dialogue in expected for turn in dialogue.turns} == {True, False}


@pytest.mark.parametrize("how", [STEPS, Streaming(steps=3, marker="e"), Streaming(border="sentence", at_most=4)])
def test_who_hears_nobody_says_in_steps_what_it_says_in_one_go(agents: Callable[..., Agents], how: Streaming) -> None:
    """With the same random numbers, and no more of it: the control differs in when others read, in nothing else."""
    team = agents("chain", how)
    whole = talked(serial(team)).turns[0]
    ids = [turn.ids for turn in talked(team).turns if turn.speaker == 0]
    assert sum(ids, ()) == whole.ids
    assert len(ids) > 1


def test_ticks_of_the_stream_and_of_its_serial_control(agents: Callable[..., Agents]) -> None:
    """Of a model that never ends a step by itself: every step is as long as it may be."""
    never = Streaming(steps=4, marker="never said", step_tokens=4)
    for name, shorter, longer in (("chain", 7, 16), ("tree", 6, 12), ("graph", 7, 16)):
        team = agents(name, never)
        for found, expected in ((team, shorter), (serial(team), longer)):
            dialogue = talked(found)
            assert all(len(turn.ids) % 4 == 0 for turn in dialogue.turns), "nobody ended by chance"
            assert ticks(timeline(dialogue, found.workflow)) == expected


def test_a_tree_search_grows_streams_step_by_step(agents: Callable[..., Agents]) -> None:
    """Its nodes are steps, and what is said side by side follows one another; every way down it is a dialogue."""
    team = agents("tree", step_tokens=4)
    settings = SearchSettings(searches=2, rollouts=2)

    def speak(drafts: Sequence[tuple[Question, Dialogue]]) -> list[Turn]:
        return team.speak([(one, team.next_cue(dialogue)) for one, dialogue in drafts], sampling=SAMPLING, seed=(0,))

    def score(ended: Sequence[tuple[Question, Dialogue]]) -> list[Reward]:
        return [Reward(len(dialogue.turns), 0.0, 0.0, 0.0, 0.0) for _, dialogue in ended]

    (tree,) = search(ASKED[:1], workflow=team.workflow, speak=speak, score=score, settings=settings, seed=(0,))
    ends = [k for k, node in enumerate(tree.nodes) if node.ending is not None]
    assert len(ends) >= 2
    for end in ends:
        again = Dialogue("q", 0)
        for turn in turns(tree, end):
            again = extend(again, turn, workflow=team.workflow)
        assert again.ending is tree.nodes[end].ending


def test_a_team_says_how_it_hands_on(agents: Callable[..., Agents]) -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(TeamView(agents("chain").workflow), TeamView(serial(agents("chain")).workflow))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "messages of 3 steps, e ends one; handed on as they are said\n" in shown
    assert "messages of 3 steps, e ends one; handed on all at once\n" in shown


# --- What is trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chain", "graph", "decompose_retrieve_answer"])
def test_every_step_is_trained_once_after_what_its_speaker_had_read(agents: Callable[..., Agents], name: str) -> None:
    team = agents(name)
    dialogue = talked(team)
    rows = team.views(ASKED[0], dialogue)
    assert sum(end - start for row in rows for start, end in row.spans) == dialogue.tokens
    for k, turn in enumerate(dialogue.turns):
        if turn.ids:
            told = (*team.prompt(ASKED[0], Dialogue("q", 0, dialogue.turns[:k])), *turn.ids)
            assert any(row.ids[: len(told)] == told and row.mask[len(told) - 1] for row in rows)


def test_a_streamed_dialogue_is_a_dialogue(agents: Callable[..., Agents]) -> None:
    team = agents("graph")
    groups = sample(team, ASKED, rollouts=2, sampling=SAMPLING, seed=(0, 0))
    scored = ranked(team, groups, settings=RewardSettings())
    assert all(len(group.rewards) == 2 for group in scored)
    assert [from_json(Rollouts, to_json(group)) for group in scored] == scored
    lessons = team.lessons(ASKED[0], scored[0].dialogues[0])
    assert [(adapter, row.in_steps) for adapter, row in lessons] == [("shared", True)] * 4


# --- What is computed -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chain", "graph"])
def test_a_later_step_costs_only_what_is_new(agents: Callable[..., Agents], name: str) -> None:
    """What an agent has read is computed once; and of what it says itself the last token of a step, once more."""
    team = agents(name)
    dialogue, counts = talked(team), team.generator.counts
    now = stand(dialogue.turns, team.workflow)
    rows = [team.renderer.conversation(overheard(ASKED[0], now, step, workflow=team.workflow)) for step in now.steps]
    read = sum(len(row.ids) - sum(row.mask) for row in rows)
    assert counts.computed <= read + 2 * len(dialogue.turns)
    assert counts.reused > 1.5 * counts.computed
    without = agents(name, cache=0)
    assert talked(without).turns == dialogue.turns
    assert (without.generator.counts.computed, without.generator.counts.reused) == (counts.computed + counts.reused, 0)


def test_many_dialogues_reuse_as_much_in_a_room_for_few(agents: Callable[..., Agents]) -> None:
    """Windows of dialogues: what a window has read stays until its last step needs it."""
    many = [replace(ASKED[0], id=f"q{k}", text=f"{k}: who is the mother of Mira?") for k in range(10)]
    roomy, small = agents("chain"), agents("chain", cache=5 * 4 * 300 * 2 * 2 * 1 * 16 * 8)  # five dialogues of four
    said = [sample(team, many, rollouts=1, sampling=SAMPLING, seed=(0, 0)) for team in (roomy, small)]
    assert said[0] == said[1]
    assert small.generator.counts.computed < 1.3 * roomy.generator.counts.computed


# --- What a model may do --------------------------------------------------------------------------

Script = Callable[[str, int], str]
"""The name of who speaks and the number of its message in, what it says out."""


def scripted(team: Agents, script: Script, *, endless: Sequence[str] = ()) -> Agents:
    """The team with agents who say what is written; those named never end a message."""

    def carry_on(rows: Sequence[Row], *, sampling: Sampling) -> None:
        for row in rows:
            read = team.renderer.decode(row.ids[: row.prompt])
            name = next(role.name for role in team.workflow.roles if f"You are {role.name}." in read)
            ids = [*team.renderer.encode(script(name, read.count("assistant")))]
            ids += ids * 100 if name in endless else [*team.renderer.end_ids][:1]
            for token in ids[len(row.said) :]:
                pause = row.pause_in([token], len(row.said))
                row.ids.append(token)
                if token in team.renderer.end_ids or pause or not row.left:
                    break

    team.generator.carry_on = carry_on  # type: ignore[method-assign]
    return team


def steps_of(team: Agents, dialogue: Dialogue, name: str) -> list[str]:
    return [beat.text for beat in timeline(dialogue, team.workflow) if beat.name == name]


MARKED = Streaming()
SECOND = shipped("chain").step("second")
LONG = Sampling(1.0, 1.0, 200)


@pytest.mark.parametrize(
    ("said", "steps"),
    [
        ("one END_STEP two END_STEP three END_STEP", ["one", "two", "three", ""]),  # and only then it ends
        ("one END_STEP two END_STEP three", ["one", "two", "three"]),
        ("one", ["one"]),
        ("END_STEP one END_STEP END_STEP", ["", "one", "", ""]),
        ("look:\n```\nx = 'END_STEP'\n``` END_STEP two", ["look:\n```\nx = 'END_STEP'\n```", "two"]),
        ("```\nnever closed END_STEP two", ["```\nnever closed END_STEP two"]),
        ("", [""]),
    ],
)
def test_what_is_handed_on(agents: Callable[..., Agents], said: str, steps: list[str]) -> None:
    team = scripted(agents("chain", MARKED), lambda name, k: said if name == "First" else f"{name} {k}")
    dialogue = talked(team, sampling=LONG)
    assert steps_of(team, dialogue, "first") == steps
    handed_on = max(1, sum(map(bool, steps)))  # who is told nothing speaks once
    assert len(steps_of(team, dialogue, "fourth")) == handed_on
    assert dialogue.ending is Ending.DONE
    _, read, *_ = overheard(ASKED[0], stand(dialogue.turns, team.workflow), SECOND, workflow=team.workflow)
    assert ("END_STEP" in read.text) == ("'END_STEP'" in said or "closed" in said), "others do not read the marks"


@pytest.mark.parametrize("how", [MARKED, Streaming(steps=2), Streaming(step_tokens=6, steps=3)])
@pytest.mark.parametrize("name", ["First", "Third"])
def test_an_agent_that_never_stops_is_cut(agents: Callable[..., Agents], name: str, how: Streaming) -> None:
    team = scripted(agents("chain", how), lambda *_: "and so on", endless=[name])
    dialogue = talked(team, sampling=LONG)
    assert dialogue.ending is (Ending.DONE if how.step_tokens else Ending.TRUNCATED)
    said = sum(len(turn.ids) for turn in dialogue.turns if team.workflow.names[turn.speaker] == name)
    if how.step_tokens:
        assert said == 18 if name == "First" else said <= 18
    else:
        assert said == 200


def test_an_agent_that_only_marks_is_stopped(agents: Callable[..., Agents]) -> None:
    told = scripted(agents("chain", Streaming(steps=5)), lambda *_: "END_STEP ", endless=["First"])
    dialogue = talked(told, sampling=LONG)
    assert steps_of(told, dialogue, "first") == [""] * 5
    assert (dialogue.ending, len(dialogue.turns)) == (Ending.DONE, 5 + 3)
    free = scripted(agents("chain", MARKED, at_most=5), lambda *_: "END_STEP ", endless=["First"])
    dialogue = talked(free, sampling=LONG)
    assert steps_of(free, dialogue, "first")[:4] == [""] * 4
    assert (dialogue.ending, len(dialogue.turns) < 9) == (Ending.TRUNCATED, True), "its fifth step is all that is left"


@pytest.mark.parametrize("border", ["marker", "sentence"])
def test_the_last_step_is_all_that_is_left_where_nobody_was_told_of_it(
    agents: Callable[..., Agents], border: str
) -> None:
    said = "One. END_STEP\nTwo. END_STEP\nThree. END_STEP\nFour." if border == "marker" else "One. Two. Three. Four."
    how = Streaming(border=border, at_most=3)  # type: ignore[arg-type]
    team = scripted(agents("chain", how), lambda name, _: said if name == "First" else "Yes. No.")
    dialogue = talked(team, sampling=LONG)
    left = "Three.\nFour."
    assert steps_of(team, dialogue, "first") == ["One.", "Two.", left]
    assert steps_of(team, dialogue, "second") == ["Yes. No."] * 3, "an answer to others is one step"


def test_all_that_an_agent_answers_is_no_longer_than_a_message(agents: Callable[..., Agents]) -> None:
    team = scripted(agents("chain", MARKED), lambda name, k: "a END_STEP " * 9 if name == "First" else "and so on" * 9)
    dialogue = talked(team, sampling=LONG)
    assert dialogue.ending is Ending.TRUNCATED
    for speaker in range(4):
        assert sum(len(turn.ids) for turn in dialogue.turns if turn.speaker == speaker) <= 200


CHECKED = {"accepted": "end", "otherwise": "mend"}
TEAM: dict[str, Any] = {
    "transfer": "stream",
    "roles": {name: {"system": "You are {name}."} for name in ("Planner", "Solver", "Checker", "Mender")},
    "steps": {
        "plan": {"speaker": "Planner", "reads": "{question}", "parse": "list", "then": "look"},
        "look": {"tool": "retrieve", "reads": "{plan}", "then": "solve"},
        "solve": {"speaker": "Solver", "reads": "{question} {plan} {look}", "then": "check"},
        "check": {"speaker": "Checker", "reads": "{solve}", "parse": "verdict", "then": CHECKED},
        "mend": {"speaker": "Mender", "reads": "{solve} {check} {look}", "then": "end"},
    },
    "answer": ["solve", "mend"],
}
SAYS = {
    "Planner": "Look up: END_STEP\n1. mother of Mira",
    "Solver": "Mira END_STEP mother END_STEP <A>Tess</A>",
    "Mender": "<A>Tess</A>",
}


def test_what_is_parsed_is_read_whole_and_behind_a_condition_one_waits(agents: Callable[..., Agents]) -> None:
    def script(verdict: str) -> Script:
        return lambda name, k: SAYS.get(name, verdict)

    team = scripted(agents(workflow(TEAM), MARKED), script("ACCEPT"))
    dialogue = talked(team, sampling=LONG)
    told = [(beat.tick, beat.name, beat.text) for beat in timeline(dialogue, team.workflow)]
    assert told == [
        (1, "plan", "Look up:"), (2, "plan", "1. mother of Mira"), (3, "look", "- Mira mother Tess"),
        (4, "solve", "Mira"), (5, "solve", "mother"), (5, "check", "ACCEPT"), (6, "solve", "<A>Tess</A>"),
        (6, "check", "ACCEPT"), (7, "check", "ACCEPT"),
    ]  # fmt: skip
    assert (dialogue.ending, dialogue.answer) == (Ending.AGREED, "Tess")
    revised = talked(scripted(agents(workflow(TEAM), MARKED), script("REVISE")), sampling=LONG)
    assert revised.ending is Ending.DONE
    last = timeline(revised, team.workflow)[-1]
    assert (last.name, last.heard) == ("mend", 3), "it hears what was said before it began"


def test_a_chat_that_is_cancelled_leaves_the_team_as_it_was(cast: Cast) -> None:
    team = replace(shipped("chain"), transfer="stream", stream=replace(STEPS, step_tokens=5))
    chain = Team(replace(cast, team=replace(cast.team, workflow=team)))
    weights = [weight.clone() for weight in cast.policy.model.parameters()]
    first, heard = chain.ask(ASKED[0], sample=True), list[Said]()

    def cancel(said: Said) -> None:
        heard.append(said)
        if said.tick == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chain.ask(ASKED[0], sample=True, hear=cancel)
    assert heard == list(first.turns[: len(heard)])
    assert all(map(torch.equal, weights, cast.policy.model.parameters()))
    assert chain.ask(ASKED[0], sample=True) == first
    assert [said.tick for said in first.turns] == sorted(said.tick for said in first.turns)


def test_the_probe_hands_on_only_a_part_of_what_was_said_first(agents: Callable[..., Agents]) -> None:
    seen = dict[str, str]()

    def script(name: str, number: int) -> str:
        return "one END_STEP two END_STEP three" if name == "First" else f"{name} a END_STEP {name} b"

    for passed, expected in (((0, 1), "one"), ((2, 3), "three"), ((0, 3), "one\ntwo\nthree")):
        team = scripted(serial(agents("chain", MARKED), stream=replace(MARKED, passed=passed)), script)
        dialogue = talked(team, sampling=LONG)
        for k, name in ((1, "Second"), (2, "Third")):
            seen[name] = team.renderer.decode(team.prompt(ASKED[0], Dialogue("q", 0, dialogue.turns[:k])))
        assert f"Solution to review:\n{expected}" in seen["Second"]
        assert "Second a\nSecond b" in seen["Third"]


def test_a_prompt_never_outgrows_the_model(agents: Callable[..., Agents], exact: Policy) -> None:
    long = replace(ASKED[0], contexts=(("word " * 2000,), ("word " * 2000,)))
    for name in ("chain", "tree", "graph"):
        team = scripted(agents(name, MARKED, at_most=6), lambda *_: ("w " * 9 + "END_STEP ") * 6)
        (short,) = team.fit([long], max_turn_tokens=LONG.max_new_tokens)
        dialogue = Dialogue("q", 0)
        longest = 0
        while dialogue.ending is None:
            ready = [(short, cue) for cue in cues(dialogue, team.workflow)]
            longest = max(longest, len(team.prompt(short, dialogue)))
            dialogue = extend(dialogue, *team.speak(ready, sampling=LONG, seed=()), workflow=team.workflow)
        assert exact.max_length // 4 < longest <= exact.max_length
