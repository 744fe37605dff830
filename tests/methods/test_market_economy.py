"""The economy of a market without a model: three stages, agents of hidden competence, and where the money is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optima_lite.methods.market.episode import Attempt, settle
from optima_lite.records import Dialogue
from optima_lite.settings.agents import Agent, roles_of
from optima_lite.settings.market import MarketSettings
from optima_lite.team.auction import hold
from optima_lite.team.episodes import Market, Trial
from optima_lite.team.ledger import Economy, Move, founded, paid, rolled_back, step_amounts, updated

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from market_toy import CLOUDCAST, NO_BIRTHS, NO_MARKET, QUESTION, STAGES, Toy


def success(seeds: int, **changed: Any) -> float:
    """The mean over seeds of what the market comes to in 400 episodes."""
    return fmean(Toy(MarketSettings(**{**CLOUDCAST, **changed}), seed).success(400) for seed in range(seeds))


def test_a_market_finds_able_agents_where_no_market_and_no_births_do_not() -> None:
    with_market = success(10)
    assert with_market >= 0.2
    assert success(4, **NO_MARKET) <= 0.08
    assert success(10, **NO_BIRTHS) <= with_market - 0.08


# --- Properties -----------------------------------------------------------------------------------

rules = st.builds(
    MarketSettings,
    scheme=st.sampled_from(["fixed", "fixed_with_eps", "holland"]),
    base_bid=st.floats(0, 0.3),
    eps=st.floats(0.001, 0.2),
    tycoon_wealth=st.floats(0.3, 3),
    tycoon_share=st.floats(0.01, 1),
    initial_wealth=st.floats(0.01, 1),
    rent=st.floats(0, 0.5),
    rent_interval=st.integers(1, 4),
    births=st.integers(0, 3),
    birth_interval=st.integers(1, 4),
    min_population=st.none() | st.integers(1, 5),
    max_population=st.none() | st.integers(6, 9),
    replace_by_richest=st.floats(0, 1),
    replace_by_repair=st.floats(0, 1),
    births_of_richest=st.floats(0, 1),
    centred=st.booleans(),
    env_scale=st.floats(0, 4),
    path_share=st.sampled_from(["action", "author"]),
    bonus_scale=st.floats(0, 2),
    trials=st.integers(1, 4),
)


@settings(max_examples=40)
@given(rules=rules, seed=st.integers(0, 999))
def test_no_money_is_lost_no_role_dies_out_and_nobody_stays_in_debt(rules: MarketSettings, seed: int) -> None:
    toy = Toy(rules, seed)
    names = {agent.name for agent in toy.market.economy.agents}
    for _ in range(12):
        before, found = toy.market, toy.episode()
        economy = toy.market.economy
        assert economy.wealth == pytest.approx(toy.start + economy.minted - economy.burned, abs=1e-9)
        assert set(roles_of(economy.agents)) == set(STAGES)
        assert min(agent.wealth for agent in economy.agents) >= 0
        newborn = {birth.child.name for birth in found.births}
        assert not newborn & names, "a name is never given twice"
        names |= newborn
        assert economy.ever == len(names)
        assert len(economy.agents) == len(before.economy.agents) - len(found.dead) + len(newborn)
        if rules.max_population:
            regular = [birth for birth in found.births if birth.cause in ("death", "regular")]
            assert not regular or len(economy.agents) <= max(rules.max_population, rules.min_population or 0)
        assert len(economy.agents) >= (rules.min_population or 0)


@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_no_two_agents_share_an_adapter_of_their_own(seed: int) -> None:
    """As many are held as the market may have agents, and who is born takes one that nobody has."""
    stated = {f"a{k}": {"role": STAGES[k % 3], "prompt": "p", "terminal": True, "adapter": "own"} for k in range(6)}
    toy = Toy(MarketSettings(**{**CLOUDCAST, "max_population": 8, "agents": stated, "rent": 0.1}), seed)
    own = [replace(one, adapter=f"own_{k + 1}") for k, one in enumerate(toy.market.economy.agents)]
    toy.market = Market(founded(own))
    for _ in range(10):
        toy.episode()
        adapters = [one.adapter for one in toy.market.economy.agents]
        assert len(set(adapters)) == len(adapters) and set(adapters) <= set(toy.rules.adapters) - {"shared"}


# --- Single rules ---------------------------------------------------------------------------------


def agent(name: str, wealth: float = 1.0, **fields: Any) -> Agent:
    return Agent(name, name.partition("-")[0], wealth=wealth, **fields)


def move(name: str, bid: float, to: str | None = None) -> Move:
    return Move(name, ((name, bid),), to)


def test_the_first_payment_goes_nowhere_and_the_next_to_the_winner_before() -> None:
    first = paid(founded([agent("a-1"), agent("b-2")]), move("a-1", 0.25))
    assert [one.wealth for one in first.agents] == [0.75, 1.0] and first.burned == 0.25
    second = paid(first, move("b-2", 0.5, "a-1"))
    assert [one.wealth for one in second.agents] == [1.25, 0.5] and second.burned == 0.25


def test_who_follows_itself_pays_nothing() -> None:
    economy = founded([agent("a-1"), agent("b-2")])
    assert paid(economy, move("a-1", 0.25, "a-1")) == economy


def test_a_roll_back_restores_all_money_and_keeps_bids_and_status() -> None:
    before = founded([agent("a-1"), agent("b-2")])
    rules = MarketSettings(scheme="fixed_with_eps", base_bid=0.1, eps=0.05)
    auction, after_bids = hold(before.agents, rules, Random(0))
    after = paid(updated(before, after_bids), Move(auction.winner, auction.bids, None))
    back = rolled_back(before, after)
    assert (back.wealth, back.minted, back.burned) == (before.wealth, 0.0, 0.0)
    assert [(one.status, one.bid) for one in back.agents] == [("veteran", pytest.approx(0.15))] * 2


def test_a_question_is_replayed_until_nobody_breaks_over_it() -> None:
    """The first attempt costs everyone more than they have; the second is right."""
    rules = MarketSettings(
        trials=3, initial_wealth=0.5, env_scale=1.0, bonus_scale=0.0, births=0, base_bid=0.0, eps=0.0
    )
    attempts: list[tuple[str, ...]] = []

    def play(economy: Economy, number: int) -> Attempt:
        attempts.append(tuple(one.name for one in economy.agents))
        actor = economy.agents[0].name
        trial = Trial((move(actor, 0.0),), actor, float(number > 0), Dialogue("toy", 0))
        return Attempt(economy, trial)

    market = Market(founded([agent("a-1", 0.5), agent("a-2", 0.5)]))
    found = settle(market, QUESTION, play=play, write=lambda asked: ["" for _ in asked], rules=rules, rng=Random(0))
    assert attempts == [("a-1", "a-2"), ("a-2",)]
    assert [trial.bankrupt for trial in found.trials] == [("a-1",), ()]
    assert found.dead == ("a-1",)
    assert {one.name: one.wealth for one in found.accounts} == {"a-2": 1.5, "a-3": 0.5}, "and the dead one's child"
    assert (found.minted, found.burned) == (1.5, 0.5), "the attempt that did not count minted nothing"


def test_the_three_schemes_of_bidding() -> None:
    agents = (agent("a-1"), agent("b-2", status="veteran", bid=0.4), agent("c-3", 8.0, status="veteran"))

    def bids(**changed: Any) -> list[float]:
        return [bid for _, bid in hold(agents, MarketSettings(base_bid=0.1, eps=0.05, **changed), Random(0))[0].bids]

    assert bids(scheme="fixed") == pytest.approx([0.15, 0.1, 0.1])
    kept = (*agents[:2], replace(agents[2], bid=0.2))
    auction, after = hold(kept, MarketSettings(scheme="fixed_with_eps", eps=0.05), Random(0))
    assert dict(auction.bids) == pytest.approx({"a-1": 0.45, "b-2": 0.4, "c-3": 0.2})
    assert [one.bid for one in after] == pytest.approx([0.45, 0.4, 0.2]), "a newcomer keeps its bid for life"
    assert bids(scheme="holland", tycoon_wealth=5.0, tycoon_share=0.1) == pytest.approx([0.85, 0.1, 0.8])


def test_equal_bids_are_decided_by_chance() -> None:
    agents = tuple(agent(f"a-{k}", status="veteran") for k in range(3))
    winners = {hold(agents, MarketSettings(), Random(seed))[0].winner for seed in range(40)}
    assert winners == {"a-0", "a-1", "a-2"}


def test_a_step_s_reward_goes_to_the_winner_or_to_the_last_three() -> None:
    moves = [move(name, 0.0) for name in ("a-1", "b-2", "c-3", "b-2")]
    assert step_amounts(moves, 0.6, MarketSettings()) == {"b-2": 0.6}
    recent = step_amounts(moves, 0.6, MarketSettings(step_share="recent"))
    assert recent == pytest.approx({"b-2": 0.3, "c-3": 0.3})
