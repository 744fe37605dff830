"""The bundled synthetic world: endless two-hop questions whose facts are dealt to two agents who must talk.

In: a split, a seed and question numbers. Out: `Question` records. Each agent holds four facts, one of the two that the
answer needs and three that look like it, so neither agent can answer alone and guessing fails. People and places are
dealt anew for each question ("Mira mother Tess" holds in one question only): there is nothing to memorise.

The splits share no fact: a hash gives every (entity, relation, value) to one split, and all facts of a question,
distractors too, come from the question's own split.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from functools import cache
from itertools import accumulate
from math import gcd
from random import Random
from typing import NamedTuple

from ..records import Question

FACTS_EACH = 4
SPLITS = {"train": 0.6, "validation": 0.2, "held_out": 0.2}  # share of all facts; insertion order matters to the hash


def _names(starts: str, ends: str) -> tuple[str, ...]:
    return tuple(start + end for start in starts.split() for end in ends.split())


# Entities by kind. Every name is one word, and no name has two kinds.
ENTITIES = {
    "person": _names("Mi Ta Lo Ke Va Su Ro Ja Ni Be Do Fe", "ra len vik sa tor nel din mo"),
    "city": _names("Port Glen Nor East Kirk Oak Wes Lun", "ham dale by ford ton"),
    "company": _names("Axo Bri Cor Dyn Ele Fin Gra Hex", "tech labs corp works soft"),
    "country": _names("Ald Bor Cym Dal Erm Fry Gal Hol Ist Jut", "ia land mark mere"),
}

# Relations: what kind of entity has one, and the kind of its value.
RELATIONS = {
    "mother": ("person", "person"),
    "boss": ("person", "person"),
    "teacher": ("person", "person"),
    "friend": ("person", "person"),
    "employer": ("person", "company"),
    "home": ("person", "city"),
    "birthplace": ("person", "city"),
    "founder": ("company", "person"),
    "base": ("company", "city"),
    "mayor": ("city", "person"),
    "country": ("city", "country"),
}

# Every pair of relations that can follow one another, as in "the home of the mother of".
HOPS = tuple((one, two) for one in RELATIONS for two in RELATIONS if RELATIONS[one][1] == RELATIONS[two][0])


class Fact(NamedTuple):
    """One thing that holds in one question; `str(fact)` is the context line an agent sees."""

    entity: str
    relation: str
    value: str

    def __str__(self) -> str:
        return " ".join(self)


def split_of(fact: Fact) -> str:
    """The only split in which `fact` may appear: a hash of its text, the same in every run and on every machine."""
    place = int.from_bytes(hashlib.blake2b(str(fact).encode(), digest_size=8).digest()) / 2**64
    bounds = accumulate(SPLITS.values())
    return next((split for split, bound in zip(SPLITS, bounds, strict=True) if place < bound), "held_out")


def questions(split: str, count: int, *, seed: int, start: int = 0) -> list[Question]:
    """Questions number `start` to `start + count - 1` of the endless stream of (split, seed).

    Number i depends on (split, seed, i) alone. No chain of facts comes twice before the split's smallest family of
    chains is used up (held_out: after about 115,000 numbers). Raises KeyError for an unknown split.
    """
    return [_question(split, seed, number) for number in range(start, start + count)]


def _question(split: str, seed: int, number: int) -> Question:
    first, second = _chain(split, seed, number)
    rng = Random(f"facts/{split}/{seed}/{number}")
    taken = {first.entity, first.value, second.value}
    hands = [[fact, *_distractors(rng, split, fact, taken)] for fact in (first, second)]
    for hand in hands:
        rng.shuffle(hand)
    if rng.random() < 0.5:  # either agent may hold the first hop
        hands.reverse()

    text = f"What is the {second.relation} of the {first.relation} of {first.entity}?"
    contexts = tuple(str(fact) for fact in hands[0]), tuple(str(fact) for fact in hands[1])
    digest = hashlib.blake2b(repr((text, contexts)).encode(), digest_size=6).hexdigest()
    return Question(f"world-{digest}", text, (second.value,), contexts, (str(first), str(second)))


def _chain(split: str, seed: int, number: int) -> tuple[Fact, Fact]:
    """The two facts that question `number` needs.

    Numbers take turns through the pairs of relations; within a pair they walk through all its chains in an order given
    by the seed (a stride without a common divisor with their count), so no chain returns before all have been seen.
    """
    rng = Random(f"chains/{split}/{seed}")
    pair = rng.sample(range(len(HOPS)), len(HOPS))[number % len(HOPS)]
    firsts, ends = _chains(split, pair)
    rng = Random(f"walk/{split}/{seed}/{pair}")
    offset, stride = rng.randrange(ends[-1]), rng.randrange(1, ends[-1])
    while gcd(stride, ends[-1]) > 1:
        stride += 1
    rank = (offset + number // len(HOPS) * stride) % ends[-1]

    place = bisect_right(ends, rank)
    first = firsts[place]
    values = _seconds(split, first, HOPS[pair][1])
    return first, Fact(first.value, HOPS[pair][1], values[rank - ends[place]])  # a negative index: counted from the end


@cache
def _chains(split: str, pair: int) -> tuple[list[Fact], list[int]]:
    """All first hops of a pair of relations, and after each one how many chains there are so far."""
    one, two = HOPS[pair]
    firsts = [Fact(entity, one, v) for entity in ENTITIES[RELATIONS[one][0]] for v in _values(split, entity, one)]
    leads = ((first, _values(split, first.value, two)) for first in firsts)
    return firsts, list(accumulate(len(values) - (first.entity in values) for first, values in leads))  # see _seconds


def _seconds(split: str, first: Fact, relation: str) -> list[str]:
    """What the second hop can lead to; not back to where the question starts, which would show the answer in it."""
    return [value for value in _values(split, first.value, relation) if value != first.entity]


def _values(split: str, entity: str, relation: str) -> list[str]:
    """Everything that `relation` of `entity` may be in this split."""
    return _by_split(entity, relation)[split]  # an unknown split is a KeyError, not an empty world


@cache
def _by_split(entity: str, relation: str) -> dict[str, list[str]]:
    """Everything that `relation` of `entity` may be, by split."""
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for value in ENTITIES[RELATIONS[relation][1]]:
        if value != entity:
            found[split_of(Fact(entity, relation, value))].append(value)
    return found


def _distractors(rng: Random, split: str, fact: Fact, taken: set[str]) -> list[Fact]:
    """Three facts that look like `fact`: two or three share its relation, at most one its entity.

    The latter has another kind of value. No entity outside the chain comes twice in a question (`taken` is extended),
    so every key has one value.
    """
    kind = RELATIONS[fact.relation][0]
    found: list[Fact] = []
    if rng.random() < 0.5:
        value_kind = RELATIONS[fact.relation][1]
        relation = rng.choice([r for r, (k, v) in RELATIONS.items() if k == kind and v != value_kind])
        found += _deal(rng, split, fact.entity, relation, taken)
    while len(found) < FACTS_EACH - 1:
        entity = rng.choice([e for e in ENTITIES[kind] if e not in taken])
        taken.add(entity)
        found += _deal(rng, split, entity, fact.relation, taken)
    return found


def _deal(rng: Random, split: str, entity: str, relation: str, taken: set[str]) -> list[Fact]:
    """One fact with a value not in `taken`, which gains it; none where the split leaves no such value."""
    free = [value for value in _values(split, entity, relation) if value not in taken]
    chosen = rng.sample(free, min(1, len(free)))
    taken.update(chosen)
    return [Fact(entity, relation, value) for value in chosen]
