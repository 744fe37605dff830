"""The prompts of a search: whose placeholders they have, where they come from, and how a team gets them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from optima_lite.errors import ConfigError
from optima_lite.records import Domain, Prompt
from optima_lite.settings.teams import shipped
from optima_lite.settings.workflow import told
from optima_lite.team.domains import STYLES, combined, given, is_faithful, with_prompts, written
from optima_lite.team.prompts import FORMATS, Message, instructed

TEAM = told(shipped("exchange"), "You are {name}, with {partner}.")
OTHER = "{name} talks to {partner}."


def test_own_prompt_first_then_formats_then_what_is_listed() -> None:
    alice, bob = given(TEAM, listed={"Alice": [OTHER]}, formats=["json"])
    assert [prompt.origin for prompt in alice.prompts] == ["own", "format json", "listed"]
    assert alice.prompts[1].system == f"You are {{name}}, with {{partner}}. {FORMATS['json']}"
    assert [prompt.origin for prompt in bob.prompts] == ["own", "format json"]


def test_every_mistake_in_the_listed_prompts_is_told() -> None:
    listed = {"Alice": ["{name} alone", "{name} and {partner} and {facts}", OTHER, OTHER], "Alcie": [OTHER]}
    with pytest.raises(ConfigError) as refusal:
        given(TEAM, listed=listed)
    told_so = str(refusal.value)
    assert "domains.Alice: item 1 lacks {partner}, which the role's own prompt has" in told_so
    assert "domains.Alice: item 2 has {facts}, which the role's own prompt has not" in told_so
    assert "domains.Alice: item 4 is there already" in told_so
    assert "domains.Alcie: there is no such role; did you mean Alice?" in told_so


def test_braces_that_are_no_placeholders_are_text() -> None:
    given(TEAM, listed={"Alice": [OTHER + r" Answer as \boxed{answer}, or {{so}}."]})


def test_a_combination_is_what_the_roles_are_told() -> None:
    domains = given(TEAM, listed={"Bob": [OTHER]}, formats=["json"])
    team = with_prompts(TEAM, combined(domains, (1, 2)))
    assert instructed(team, 0) == f"You are Alice, with Bob. {FORMATS['json']}"
    assert instructed(team, 1) == "Bob talks to Alice."
    assert [role.formats for role in team.roles] == [False, True], "a format in the prompt leaves no room for another"
    assert instructed(team, 0, "xml") == instructed(team, 0)


def test_written_prompts_are_kept_only_if_they_are_faithful_and_new() -> None:
    asked: list[Sequence[Message]] = []

    def write(requests: Sequence[Sequence[Message]]) -> tuple[list[str], int]:
        asked.extend(requests)
        return [f" {OTHER}\n", "{name} only", "You are {name}, with {partner}.", OTHER, "{partner}, {name}!", "x"], 60

    own = Domain("Alice", (Prompt("You are {name}, with {partner}.", "own"),))
    found = written(own, wanted=4, write=write, seed=0)
    assert [prompt.system for prompt in found.prompts[1:]] == [OTHER, "{partner}, {name}!"]
    assert {prompt.origin for prompt in found.prompts[1:]} == {"written"}
    assert found.tokens == 60
    assert len(asked) == 6, "half as many again are asked for"
    said = [request[1].text for request in asked]
    assert len(set(said)) == 6 and all("{name}, {partner}" in text and own.prompts[0].system in text for text in said)
    assert all(f"- {style}: " in text for style in STYLES for text in said)


def test_at_most_as_many_as_wanted() -> None:
    own = Domain("Solo", (Prompt("Think.", "own"),))
    found = written(own, wanted=2, write=lambda asked: ([f"Think {k}." for k, _ in enumerate(asked)], 9), seed=0)
    assert [prompt.system for prompt in found.prompts] == ["Think.", "Think 0.", "Think 1."]


def test_a_written_prompt_keeps_the_mark_of_answers() -> None:
    own = "You are {name}. Answer as <A>answer</A>."
    assert is_faithful("{name}: <A>answer</A>", own)
    assert not is_faithful("{name}, answer.", own)
    assert not is_faithful("", "Think.")
