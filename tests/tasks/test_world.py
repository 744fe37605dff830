"""The bundled world: its questions can be answered, but only by both agents together, and its splits share no fact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optima_lite.records import Question
from optima_lite.tasks import world
from optima_lite.tasks.world import ENTITIES, RELATIONS, SPLITS, Fact

splits = st.sampled_from(list(SPLITS))
seeds = st.integers(0, 2**32)
numbers = st.integers(0, 10**6)


def facts(question: Question) -> list[Fact]:
    return [Fact(*text.split()) for context in question.contexts for text in context]


@settings(max_examples=200, deadline=None)
@given(splits, seeds, numbers)
def test_the_answer_follows_from_both_hands_and_from_neither_alone(split: str, seed: int, number: int) -> None:
    (question,) = world.questions(split, 1, seed=seed, start=number)
    value = {fact[:2]: fact.value for fact in facts(question)}
    assert len(value) == 2 * world.FACTS_EACH, "every key has one value"

    *_, second_relation, _, _, first_relation, _, entity = question.text.rstrip("?").split()
    middle = value[entity, first_relation]
    assert (value[middle, second_relation],) == question.answers

    first, second = question.supporting
    assert (first, second) == (
        f"{entity} {first_relation} {middle}",
        f"{middle} {second_relation} {question.answers[0]}",
    )
    assert sorted((first in context) + 2 * (second in context) for context in question.contexts) == [1, 2]


@settings(max_examples=200, deadline=None)
@given(splits, seeds, numbers)
def test_guessing_fails(split: str, seed: int, number: int) -> None:
    (question,) = world.questions(split, 1, seed=seed, start=number)
    (answer,) = question.answers
    assert answer not in question.text.rstrip("?").split()
    assert sum(answer in fact for fact in facts(question)) == 1, "the answer stands in its own fact only"
    for context, needed in ((c, s) for c in question.contexts for s in question.supporting if s in c):
        relation = Fact(*needed.split()).relation
        assert sum(Fact(*text.split()).relation == relation for text in context) >= 3
        kinds = {(Fact(*text.split()).entity, RELATIONS[Fact(*text.split()).relation][1]) for text in context}
        assert len(kinds) == len(context) == world.FACTS_EACH, "an entity has one value of a kind"


@settings(max_examples=100, deadline=None)
@given(splits, seeds, numbers)
def test_facts_are_of_the_right_kinds_and_of_the_questions_split(split: str, seed: int, number: int) -> None:
    (question,) = world.questions(split, 1, seed=seed, start=number)
    for fact in facts(question):
        kind, value_kind = RELATIONS[fact.relation]
        assert fact.entity in ENTITIES[kind]
        assert fact.value in ENTITIES[value_kind]
        assert world.split_of(fact) == split


def test_splits_share_no_fact() -> None:
    seen = {split: {f for q in world.questions(split, 1000, seed=3) for f in facts(q)} for split in SPLITS}
    assert all(seen[a].isdisjoint(seen[b]) for a in SPLITS for b in SPLITS if a != b)


def test_the_hash_that_splits_facts_never_changes() -> None:
    """The shipped weights were trained on the train split: another hash would leak held-out facts into training."""
    homes = {city: world.split_of(Fact("Mira", "home", city)) for city in ("Portham", "Portford", "Glenby")}
    assert homes == {"Portham": "train", "Portford": "held_out", "Glenby": "validation"}


@given(splits, seeds, numbers, st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_a_stream_goes_on_where_it_ended(split: str, seed: int, start: int, one: int, two: int) -> None:
    whole = world.questions(split, one + two, seed=seed, start=start)
    first = world.questions(split, one, seed=seed, start=start)
    assert whole == first + world.questions(split, two, seed=seed, start=start + one)


@pytest.mark.parametrize("split", SPLITS)
def test_no_chain_comes_twice(split: str) -> None:
    asked = world.questions(split, 3000, seed=0, start=50)
    assert len({question.supporting for question in asked}) == len(asked)
    assert len({question.id for question in asked}) == len(asked)


def test_seeds_differ_and_repeat() -> None:
    assert world.questions("train", 5, seed=1) == world.questions("train", 5, seed=1)
    assert world.questions("train", 5, seed=1) != world.questions("train", 5, seed=2)
    assert world.questions("train", 1, seed=1)[0].id == "world-d271dd686f6f", "the same on every machine"


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(KeyError):
        world.questions("test", 1, seed=0)


def test_every_name_is_one_word_of_one_kind() -> None:
    names = [name for kind in ENTITIES.values() for name in kind]
    assert len(set(names)) == len(names)
    assert all(name.isalpha() for name in [*names, *RELATIONS])
    assert not set(names) & set(RELATIONS)
