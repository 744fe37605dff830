"""A market for people: what became of the money and of the agents, and who acts after whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..settings.agents import Agent, Wake
from .dialogue_view import printable
from .folder import RunFolder
from .market import Trade, evaluation_checks, living, trades

_CAUSES = {"role": "role empty", "death": "after a death", "regular": "regular", "minimum": "too few"}
_RICHEST = 8  # agents that are shown
_LONGEST = 60  # characters of a strategy


def market_parts(run: RunFolder) -> Iterator[RenderableType]:
    """Everything that a report shows of a market; nothing for a run of another method."""
    found = trades(run)
    if not found:
        return
    yield Group(Text("the market"), trade_table(found))
    yield Group(Text("tokens of training"), token_table(found))
    yield Group(Text("who acts after whom"), succession_table(found))
    yield population_table(run)
    if line := _checks_line(run):
        yield line


def agents_view(agents: Sequence[Agent]) -> RenderableType:
    """Who bids in a market, when, and within which limits."""
    table = Table("agent", "wakes", "facts", "tool", "may say", "answers", "strategy", box=None, padding=(0, 2, 0, 0))
    for agent in agents:
        limit = f"{agent.max_tokens} tokens" if agent.max_tokens else ""
        told = printable(agent.strategy)
        table.add_row(
            Text(agent.name, "bold"), Text(waking(agent.wake)), agent.facts, agent.tool or "", limit,
            "yes" if agent.terminal else "", Text(told if len(told) <= _LONGEST else told[: _LONGEST - 3] + "..."),
        )  # fmt: skip
    return Group(Text(f"a market of {len(agents)} agents: whoever bids most of those awake speaks next"), table)


def waking(wake: Wake) -> str:
    """A wake rule as a recipe states it."""
    clauses = (f"{'not ' * one.negated}{one.kind}{one.of and f' {one.of}'}" for one in wake.when)
    asked = [f"the model says yes to: {wake.ask}"] if wake.ask else []
    return " and ".join([*clauses, *asked]) or "always"


def trade_table(found: Sequence[Trade]) -> Table:
    """The economy over the iterations."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("iteration", "episodes", "score", "agents", "wealth", "minted", "burned", "deaths", "replays"):
        table.add_column(heading, justify="right")
    table.add_column("births")
    for one in found:
        births = ", ".join(f"{count} {_CAUSES[cause]}" for cause, count in one.births.items()) or "none"
        cells = (one.iteration, one.episodes, f"{one.score:.3f}", one.population, f"{one.wealth:.2f}")
        money = (f"{one.minted:.2f}", f"{one.burned:.2f}", one.deaths, one.replays)
        table.add_row(*map(str, (*cells, *money)), births)
    return table


def token_table(found: Sequence[Trade]) -> Table:
    """What the iterations have sampled, all attempts counted, and trained on, times epochs."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("iteration", "said", "wake checks", "births", "trained", "all"):
        table.add_column(heading, justify="right")
    for one in found:
        counts = (one.tokens, one.checks, one.written, one.trained, one.spent)
        table.add_row(str(one.iteration), *(f"{count:,}" for count in counts))
    return table


def succession_table(found: Sequence[Trade]) -> Table:
    """Who acts after whom, by role: of all actions after one of a line's role the share of each column's."""
    total: Counter[tuple[str, str]] = Counter()
    for one in found:
        total.update(one.successions)
    after = list(dict.fromkeys(first for first, _ in total))
    then = list(dict.fromkeys(second for _, second in total))
    table = Table("after", box=None, padding=(0, 1, 0, 0))
    for role in then:
        table.add_column(role, justify="right")
    for role in after:
        row = [total[role, other] for other in then]
        table.add_row(role or "(the start)", *(f"{count / sum(row):.2f}" for count in row))
    return table


def population_table(run: RunFolder) -> RenderableType:
    """The richest of those who live after the last whole iteration."""
    done = run.trained()
    agents = living(run, done[-1] if done else None)
    richest = sorted(agents, key=lambda agent: -agent.wealth)[:_RICHEST]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("agent", "wealth", "status", "born", "child of", "strategy"):
        table.add_column(heading, justify="right" if heading == "wealth" else "left")
    for agent in richest:
        told = printable(agent.strategy)
        strategy = Text(told if len(told) <= _LONGEST else told[: _LONGEST - 3] + "...")
        born = "founder" if agent.born is None else f"episode {agent.born}"
        table.add_row(agent.name, f"{agent.wealth:.2f}", agent.status, born, agent.parent or "", strategy)
    return Group(Text(f"the richest of {len(agents)} agents"), table)


def _checks_line(run: RunFolder) -> RenderableType | None:
    """What the evaluations' tables leave out: a token for every wake check."""
    done = run.trained()
    if not done:
        return None
    checks = evaluation_checks(run, f"iteration_{done[-1]}", "sampled", done[-1])
    return Text(f"{checks:,} wake checks in the last evaluation, sampled, beside its tokens") if checks else None
