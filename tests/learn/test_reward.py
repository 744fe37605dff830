"""The reward's arithmetic, equation 1 of the paper, and its monotony."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.errors import ConfigError
from optima_lite.learn.reward import (
    Scale,
    alone,
    confuses,
    format_share,
    mean,
    normaliser,
    rank,
    readability,
    repeats,
    require,
    rewards,
    scale,
)
from optima_lite.records import Dialogue, Ending, Question, Rollouts, Turn
from optima_lite.settings import schemas
from optima_lite.settings.sections import RewardSettings

needs_jsonschema = pytest.mark.skipif(not schemas.installed(), reason="the extra `schema` is not installed")


def dialogue(tokens: int) -> Dialogue:
    return Dialogue("q", 0, (Turn(0, (1,) * tokens, ""),))


def test_by_hand() -> None:
    settings = RewardSettings(token_weight=0.6, readability_weight=0.5)
    short, long = rank([dialogue(10), dialogue(40)], scores=[1.0, 0.5], losses=[2.0, 4.0], settings=settings)
    assert (short.token_share, short.readability, short.worst_loss) == (0.25, 0.5, 2.0)
    assert short.total == pytest.approx(1 - 0.6 * 0.25 + 0.5 * 0.5)
    assert long.total == pytest.approx(0.5 - 0.6 + 0.5 * 0.25)


def test_an_only_child_pays_the_whole_token_weight() -> None:
    (only,) = rank([dialogue(3)], scores=[1.0], losses=[1.0], settings=RewardSettings())
    assert only.token_share == 1.0


def cut(tokens: int) -> Dialogue:
    return Dialogue("q", 0, (Turn(0, (1,) * tokens, "", finished=False),), Ending.TRUNCATED)


def test_a_runaway_sibling_does_not_make_the_others_short() -> None:
    whole = [dialogue(100), dialogue(50)]
    beside = rank([*whole, cut(5000)], scores=[1, 1, 0], losses=[1.0] * 3, settings=RewardSettings())
    assert beside[:2] == rank(whole, scores=[1, 1], losses=[1.0] * 2, settings=RewardSettings())
    assert [one.total for one in beside[:2]] == pytest.approx([1.4, 1.7])
    assert beside[2].token_share == 1.0, "the whole weight, and no more: it must not drown the mean of a report"
    (short, _) = rank([cut(10), dialogue(40)], scores=[0, 1], losses=[1.0] * 2, settings=RewardSettings())
    assert short.token_share == 0.25


def test_siblings_that_were_all_cut_are_compared_with_the_longest() -> None:
    ranked = rank([cut(10), cut(40)], scores=[0, 0], losses=[1.0] * 2, settings=RewardSettings())
    assert [one.token_share for one in ranked] == [0.25, 1.0]


def test_a_runaway_does_not_stretch_the_scale_of_the_trees() -> None:
    def probe(*dialogues: Dialogue) -> list[Rollouts]:
        ranked = rank(dialogues, scores=[0] * len(dialogues), losses=[1.0] * len(dialogues), settings=RewardSettings())
        return [Rollouts(Question("q", "?", ("x",), ((), ())), tuple(dialogues), ranked)]

    whole = [dialogue(10), dialogue(20), dialogue(30)]
    found = scale(probe(*whole, cut(5000), cut(4000)), percentile=100, settings=RewardSettings())
    assert found == scale(probe(*whole), percentile=100, settings=RewardSettings()) and found.tokens == 31
    assert scale(probe(cut(50)), percentile=100, settings=RewardSettings()).tokens == 51


def test_a_loss_of_nothing_is_held_by_the_floor() -> None:
    (r,) = rank([dialogue(1)], scores=[0.0], losses=[0.0], settings=RewardSettings(loss_floor=0.1))
    assert (r.readability, r.worst_loss) == (10.0, 0.0)


def test_the_three_forms_of_the_readability_term() -> None:
    losses = [0.5, 1.0, 2.0]
    assert readability(losses, form="inverse") == [2.0, 1.0, 0.5]
    assert readability(losses, form="capped") == [1.0, 1.0, 0.5]
    assert readability(losses, form="relative") == [1.0, 0.5, 0.25]


siblings = st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1), st.floats(0.01, 10)), min_size=1, max_size=8)
forms = st.sampled_from(["inverse", "capped", "relative"])


def totals(rows: list[tuple[int, float, float]], settings: RewardSettings) -> list[float]:
    ranked = rank(
        [dialogue(t) for t, _, _ in rows],
        scores=[s for _, s, _ in rows],
        losses=[x for _, _, x in rows],
        settings=settings,
    )
    return [r.total for r in ranked]


@given(siblings, forms, st.floats(0.01, 1))
def test_a_better_answer_never_costs(rows: list[tuple[int, float, float]], form: str, more: float) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    tokens, score, loss = rows[0]
    assert totals([(tokens, score + more, loss), *rows[1:]], settings)[0] > totals(rows, settings)[0]


@given(siblings, forms, st.integers(1, 100))
def test_more_tokens_never_pay(rows: list[tuple[int, float, float]], form: str, more: int) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    tokens, score, loss = rows[0]
    assert totals([(tokens + more, score, loss), *rows[1:]], settings)[0] <= totals(rows, settings)[0] + 1e-9


@given(siblings, forms, st.floats(0.01, 5))
def test_a_worse_message_never_pays(rows: list[tuple[int, float, float]], form: str, more: float) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    tokens, score, loss = rows[0]
    assert totals([(tokens, score, loss + more), *rows[1:]], settings)[0] <= totals(rows, settings)[0] + 1e-9


def test_mean_is_taken_part_by_part() -> None:
    ranked = rank([dialogue(10), dialogue(20)], scores=[1, 0], losses=[1.0, 2.0], settings=RewardSettings())
    average = mean(ranked)
    assert (average.task, average.token_share, average.readability, average.worst_loss) == (0.5, 0.75, 0.75, 1.5)
    assert average.total == pytest.approx(sum(r.total for r in ranked) / 2)


def test_a_fixed_normaliser_makes_rewards_comparable_across_groups() -> None:
    settings = RewardSettings(token_weight=0.5)
    alone = rank([dialogue(30)], scores=[1.0], losses=[1.0], settings=settings, normaliser=20)
    beside = rank([dialogue(30), dialogue(90)], scores=[1.0, 0.0], losses=[1.0, 3.0], settings=settings, normaliser=20)
    assert alone[0] == beside[0]
    assert (alone[0].token_share, alone[0].total) == (1.5, 1 - 0.5 * 1.5 + 1)


def test_the_normaliser_is_a_percentile_of_a_probe_plus_one() -> None:
    assert normaliser([10], 85) == 11
    assert normaliser([30, 10, 20], 50) == 21
    assert normaliser(range(1, 101), 85) == 86  # 85.15 between the 85th and the 86th, cut to whole tokens
    assert normaliser([1, 2, 3], 100) == 4
    with pytest.raises(ValueError, match="a percentile of no dialogues"):
        normaliser([], 85)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=50), st.integers(1, 100))
def test_the_normaliser_lies_within_the_probe(tokens: list[int], percentile: int) -> None:
    assert min(tokens) < normaliser(tokens, percentile) <= max(tokens) + 1
    share = sum(count < normaliser(tokens, percentile) for count in tokens) / len(tokens)
    assert share >= percentile / 100 - 1 / len(tokens)


def test_relative_readability_can_compare_with_a_fixed_loss() -> None:
    settings = RewardSettings(readability="relative")
    rewards = rank([dialogue(1)] * 2, scores=[0, 0], losses=[2.0, 0.5], settings=settings, best_loss=1.0)
    assert [one.readability for one in rewards] == [0.5, 1.0], "never above 1"


# --- Options --------------------------------------------------------------------------------------

ALICE_BOB = ("Alice", "Bob")


def said(*texts: str) -> Dialogue:
    return Dialogue("q", 0, tuple(Turn(k % 2, (1,) * 10, text) for k, text in enumerate(texts)))


def total(dialogue: Dialogue, *, score: float = 1.0, loss: float = 2.0, **options: object) -> float:
    settings = RewardSettings(token_weight=0.6, readability_weight=1.0, **options)  # type: ignore[arg-type]
    (one,) = rank([dialogue], scores=[score], losses=[loss], settings=settings, normaliser=100, roles=ALICE_BOB)
    return one.total


@given(siblings, forms)
def test_no_option_is_on_unless_asked_for(rows: list[tuple[int, float, float]], form: str) -> None:
    settings = RewardSettings(readability=form)  # type: ignore[arg-type]
    talks = [Dialogue("q", 0, (Turn(0, (1,) * t, "Alice: Bob: Alice:"),) * 2) for t, _, _ in rows]
    scores, losses = [s for _, s, _ in rows], [x for _, _, x in rows]
    for one in rank(talks, scores=scores, losses=losses, settings=settings, roles=ALICE_BOB):
        assert one.total == one.task - 0.6 * one.token_share + 1.0 * one.readability, "to the last bit"


@pytest.mark.parametrize(("tokens", "left"), [(0, 1.0), (25, 0.75), (100, 0.0), (101, 0.0), (5000, 0.0)])
def test_the_absolute_token_term_is_what_is_left(tokens: int, left: float) -> None:
    """Whether the dialogue has siblings, a scale, or neither."""
    settings = RewardSettings(token_weight=0.6, max_tokens=100)
    beside, longer = rank([dialogue(tokens), dialogue(9000)], scores=[1.0, 1.0], losses=[2.0, 2.0], settings=settings)
    by_scale = alone(dialogue(tokens), score=1.0, loss=2.0, scale=Scale(7, 1.0), settings=settings)
    assert beside == by_scale
    assert beside.total == pytest.approx(1 + 0.6 * left + 0.5)
    assert (beside.token_share, longer.token_share) == (tokens / 100, 90.0)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 200))
def test_more_tokens_never_pay_by_the_absolute_term_either(tokens: int, more: int, most: int) -> None:
    settings = RewardSettings(max_tokens=most)
    fewer, longer = rank([dialogue(tokens), dialogue(tokens + more)], scores=[1, 1], losses=[1, 1], settings=settings)
    assert longer.total <= fewer.total <= 1 + 0.6 + 1


FACT = {"type": "object", "properties": {"fact": {"type": "string"}}, "required": ["fact"]}


@needs_jsonschema
@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (('{"fact": "a"}', '{"fact": "b"}'), 1.0),
        (('{"fact": "a"}', "b", '{"fact": "c"}', '{"fact": 4}'), 0.5),
        (("a", "b"), 0.0),
        ((), 0.0),
    ],
)
def test_the_format_term_is_the_share_of_valid_messages(texts: tuple[str, ...], share: float) -> None:
    by_role = {"Alice": FACT, "Bob": FACT}
    bare = total(said(*texts))
    assert total(said(*texts), format_weight=0.5, schemas=by_role) == pytest.approx(bare + 0.5 * share)
    settings = RewardSettings(format_weight=0.5, schemas=by_role)
    one = alone(said(*texts), score=1.0, loss=2.0, scale=Scale(100, 1.0), settings=settings, roles=ALICE_BOB)
    assert one.format == share
    assert one.total == pytest.approx(bare + 0.5 * share), "in a tree as among siblings"
    assert total(said(*texts), score=0.0, format_weight=0.5, schemas=by_role, gate_by_correctness=True) == 0


@needs_jsonschema
def test_only_roles_with_a_schema_are_asked_for_a_form() -> None:
    talk = said('{"fact": "a"}', "free text", "free text")
    settings = RewardSettings(format_weight=1.0, schemas={"Alice": FACT})
    assert format_share(talk, settings=settings, roles=ALICE_BOB) == 0.5
    assert format_share(talk, settings=settings, roles=("Ann", "Ben")) == 0.0
    anything = RewardSettings(format_weight=1.0, schemas={"Alice": {}})
    assert format_share(said("[1]", "x", "y"), settings=anything, roles=ALICE_BOB) == 0.5, (
        "an empty schema asks for JSON"
    )


def test_a_missing_library_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optima_lite.settings.schemas.LIBRARY", "no_such_library")
    require(RewardSettings(schemas={"Alice": FACT}))
    with pytest.raises(ConfigError) as caught:
        require(RewardSettings(format_weight=0.5, schemas={"Alice": FACT}))
    assert str(caught.value) == (
        "reward.format_weight needs the library jsonschema, which is not installed\n"
        "  try: in the clone: pip install '.[schema]', or set reward.format_weight=0"
    )


def test_too_few_tokens_cost_a_whole_point() -> None:
    assert total(said("a", "b"), min_tokens=20) == 1 - 1 + 0.5
    assert total(said("a", "b"), min_tokens=19) == total(said("a", "b")) == 1 - 0.6 * 0.2 + 0.5


def test_saying_something_twice_costs_the_readability_term() -> None:
    again = said("Mira  is her mother", "who?", " mira is her MOTHER")
    assert repeats(again) and not repeats(said("a", "b")) and not repeats(Dialogue("q", 0))
    assert total(again, repeated="zero") == pytest.approx(1 - 0.6 * 0.3)
    assert total(again) == pytest.approx(1 - 0.6 * 0.3 + 0.5)
    (one,) = rank([again], scores=[1.0], losses=[2.0], settings=RewardSettings(repeated="zero"))
    assert (one.readability, one.worst_loss) == (0.0, 2.0), "the loss itself stays what it is"


@pytest.mark.parametrize(
    ("text", "confused"),
    [
        ("Alice: hi Bob: hello", True),
        ("Alice: hi Alice: again", True),
        ("Bob: hello", False),
        ("hello Alice: hi", True),
        ("hello Bob: again", True),
        ("Alice and Bob agree", False),
        ("", False),
    ],
)
def test_a_message_for_several_speakers_costs_the_task_score(text: str, confused: bool) -> None:
    talk = said("fine", text)
    assert confuses(talk, ALICE_BOB) is confused
    assert total(talk, confusion="zero") == pytest.approx(total(talk, score=0.0 if confused else 1.0))
    assert not confuses(talk, ())
    (one,) = rank([talk], scores=[1.0], losses=[2.0], settings=RewardSettings(confusion="zero"), roles=ALICE_BOB)
    assert one.task == 1.0, "what the evaluation reports is what the answer scored"


@given(siblings, st.floats(0, 2), st.booleans(), st.sampled_from([None, 10, 1000]))
def test_a_gated_reward_of_a_wrong_answer_is_nothing(
    rows: list[tuple[int, float, float]], cost: float, repeat: bool, least: int | None
) -> None:
    settings = RewardSettings(
        gate_by_correctness=True, turn_cost=cost, repeated="zero" if repeat else "ignore", min_tokens=least
    )
    ungated = settings.model_copy(update={"gate_by_correctness": False})
    assert totals([(t, 0.0, x) for t, _, x in rows], settings) == [0.0] * len(rows)
    right = [(t, 1.0, x) for t, _, x in rows]
    assert totals(right, settings) == totals(right, ungated), "and of a right one what it is without the gate"


@given(st.integers(1, 9), st.floats(0, 1))
def test_every_message_has_its_price(turns: int, cost: float) -> None:
    talk = said(*"abcdefghi"[:turns])
    assert total(talk, turn_cost=cost) == pytest.approx(total(talk) - cost * turns)


def test_rewards_on_a_common_scale_are_averaged() -> None:
    settings = RewardSettings(token_weight=0.5)
    question = Question("q", "?", ("x",), ((), ()))
    groups = []
    for tokens, task in ((9, 1.0), (4, 0.0)):
        talk = dialogue(tokens)
        groups.append(Rollouts(question, (talk,), rank([talk], scores=[task], losses=[2.0], settings=settings)))
    common = scale(groups, percentile=100, settings=settings)
    assert common.tokens == 10
    assert mean(rewards(groups, scale=common, settings=settings)).total == pytest.approx(0.5 - 0.5 * 0.65 + 0.5)
