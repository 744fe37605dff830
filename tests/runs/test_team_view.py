"""A team drawn: as a table in the terminal, as Mermaid text in a document."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from optima_lite.runs.team_view import TeamView, mermaid
from optima_lite.settings.teams import shipped, shipped_teams
from support import call


def drawn(name: str, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(TeamView(shipped(name)))
    return stream.getvalue()


def test_a_team_in_the_terminal() -> None:
    lines = [" ".join(line.split()) for line in drawn("ask_search_summarise").splitlines()]
    assert lines[0] == "team ask_search_summarise: 10 steps at most, begins with ask; answer answers"
    assert "search tool retrieve query found → summarise" in lines
    assert "says STOP → answer" in lines and "→ answer" in lines
    assert "begins with ann + ben + cy" in drawn("writers_picker_formatter")
    assert "Alice (a share of the facts)" in drawn("exchange")


@pytest.mark.parametrize("name", shipped_teams())
def test_every_step_and_every_way_is_drawn(name: str) -> None:
    team, text = shipped(name), mermaid(shipped(name))
    ways = sum(max(1, len(way.to)) for step in team.steps for way in step.ways)
    arrows = [line for line in text.splitlines() if "-->" in line]
    assert len(arrows) == ways + len(team.start)
    for step in team.steps:
        assert step.name in drawn(name) and f"step_{step.name}[" in text


def test_what_a_condition_holds_cannot_break_the_chart() -> None:
    assert '-->|"says STOP and rounds of summarise &lt; 1"| step_search' in mermaid(shipped("ask_search_summarise"))


def test_teams_are_listed_shown_and_copied(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert all(name in call("teams", "list").out for name in shipped_teams())
    assert "propose" in call("teams", "show", "proposer_critic").out
    assert call("teams", "show", "tree", "--mermaid").out == mermaid(shipped("tree"))
    assert "wrote my.yaml" in call("teams", "copy", "tree", "my.yaml").out
    assert call("teams", "show", "my.yaml").code == 0
    refused = call("teams", "show", "tre")
    assert refused.code == 2 and "did you mean tree?" in refused.err
    assert call("check", "quickstart", "team=tree", "--mermaid").out == mermaid(shipped("tree"))
