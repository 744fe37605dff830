"""The section `market`: what it refuses and why, its defaults, and the presets of the published domains."""

from __future__ import annotations

from pathlib import Path

import pytest

from optima_lite.errors import ConfigError
from optima_lite.settings.config import load_recipe
from optima_lite.settings.presets import PRESETS

RECIPE = """\
method: market
model: {name: tiny}
task: {name: world}
prompts: {system: "You are {name}, working with {partner}."}
market:
  agents:
    left: {role: Alice, facts: share, terminal: true}
    right: {role: Bob, facts: share, wake: not after Bob and said Alice}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "trade.yaml"
    path.write_text(RECIPE)
    return path


def test_agents_are_numbered_in_their_order_and_share_the_recipe_s_prompt(recipe: Path) -> None:
    from optima_lite.team.talks import founders_of

    alice, bob = founders_of(load_recipe(recipe).recipe)
    assert (alice.name, alice.role, alice.terminal) == ("Alice-1", "Alice", True)
    assert (bob.name, bob.wake.when[0].negated, bob.wake.when[1].of) == ("Bob-2", True, "Alice")
    assert bob.prompt == "You are {name}, working with {partner}." and bob.wealth == 0.5


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (", terminal: true", "", "no agent with terminal: true"),
        ("left: {", "left: {termnal: true, ", "no such key; did you mean terminal"),
        ("not after Bob", "before Bob", "`before Bob` is no condition"),
        ("said Alice", "said Carol", "there is no role Carol"),
        ("role: Bob, facts: share", "role: Bob", "has 1 roles with facts: share"),
        ("role: Alice, facts: share", "role: Alice, facts: share, tool: run_tests", "runs tests, and task.name world"),
        ("prompts:", "sampling: {top_p: 0.9}\n#", "has no prompt for Alice-1, Bob-2"),
        ("  agents:", "  max_population: 1\n  agents:", "max_population 1 is below the 2 roles"),
        (
            "  agents:",
            "  min_population: 5\n  max_population: 4\n  agents:",
            "min_population 5 is above max_population 4",
        ),
        ("  agents:", "  scheme: holland\n  agents:", "scheme holland needs tycoon_wealth and tycoon_share"),
        ("  agents:", "  scheme: fixed_with_eps\n  eps: 0\n  agents:", "fixed_with_eps needs eps above 0"),
        ("  agents:", "  tycoon_share: 0.2\n  agents:", "is read with market.scheme: holland only"),
        ("  agents:", "  births_by: variants\n  agents:", "births_by variants needs variants for Alice, Bob"),
        ("  agents:", "  variants: {Alice: [one]}\n  agents:", "Alice needs two strategies at least"),
        ("  agents:", "  variants: {Carol: [a, b]}\n  agents:", "there is no role Carol"),
        ("  agents:", "  steps: 2\n  terminal_steps: 3\n  agents:", "terminal_steps 3 is above steps 2"),
        ("terminal: true", "terminal: true, adapter: own", "adapter: own needs max_population"),
        ("  agents:", "  imitation: true\n  agents:", "no agent has adapter: own"),
        ("market:\n", "team: exchange\nmarket:\n", "is not read by method market"),
        ("market:\n", "schedule: idpo\nmarket:\n", "is not read by method market"),
        ("method: market", "method: optima", "is read by method: market only, not by optima"),
        (RECIPE[RECIPE.index("market:\n") :], "", "has no agents, and method market needs some"),
    ],
)
def test_what_makes_no_market_is_refused_in_a_sentence(recipe: Path, before: str, after: str, said: str) -> None:
    assert before in RECIPE
    recipe.write_text(RECIPE.replace(before, after))
    with pytest.raises(ConfigError, match=r"trade\.yaml") as refused:
        load_recipe(recipe)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["market_science", "market_cloudcast", "market_accelerator"])
def test_a_published_domain_is_a_preset(recipe: Path, name: str) -> None:
    loaded = load_recipe(recipe, overrides=[f"preset={name}"])
    values = PRESETS[name]("world", None)
    market = loaded.recipe.to_dict()["market"]
    assert all(market[key.removeprefix("market.")] == value for key, value in values.items())
    assert loaded.origins["market.rent"] == f"preset {name}"
    stated = load_recipe(recipe, overrides=[f"preset={name}", "market.rent=0.7"]).recipe
    assert stated.market.rent == 0.7, "what is stated wins"
