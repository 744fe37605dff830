"""The bundled world with crippled agents: the market's population against what a sceptical reader asks for.

    python scripts/market_world.py --seeds 0,1,2

Trains `market_quickstart` with each seed, or takes the run that is there, and asks its held-out questions, sampled, of
its population before and after, of both with who acts drawn at random, of each founder by itself (the best by
validation questions), of the single agent that sees everything, and of the fixed exchange pair: as it is, and told to
write in the best of the market's own strategies (by validation questions). What it took to get there stands beside it:
all tokens that were sampled, wake checks and births too. Scores of several seeds are means; theirs stand beside them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from optima_lite.api import open_run, train
from optima_lite.learn.bidders import Bidders
from optima_lite.learn.rollout import Agents
from optima_lite.records import EvalRow, Question, from_json, to_json
from optima_lite.runs.market import trades
from optima_lite.runs.opened import OpenedRun
from optima_lite.settings.agents import Agent
from optima_lite.settings.config import load_machine
from optima_lite.settings.workflow import told
from optima_lite.stage.cast import Cast, recall
from optima_lite.stage.evaluate import examine, summarise
from optima_lite.tasks.questions import questions
from optima_lite.team.talks import exchange

NOBODY = {"scheme": "fixed", "base_bid": 0.0, "eps": 0.0}  # all bids are equal, so that chance decides
KEPT = "market_world.json"
TRIED = 20  # validation questions that each of several ways is tried on


@dataclass(frozen=True)
class Asking:
    """The agents of a run, and its questions. spent: tokens sampled to choose among ways."""

    cast: Cast

    def ask(self, agents: Agents, name: str, split: str = "held_out") -> EvalRow:
        """The row of these agents, sampled."""
        recipe, cast = self.cast.recipe, self.cast
        count = recipe.evaluation.questions if split == "held_out" else TRIED
        drawn: list[Question] = questions(recipe.task, split, count, seed=0)
        fitted, _ = cast.fit(agents, drawn)
        sampling = cast.sampling(cast.team)
        how = {"sampling": sampling, "seed": recipe.seed, "settings": recipe.reward}
        examined = examine(agents, fitted, advance=lambda done, **told: None, **how)
        return summarise(examined, name=name, decoding="sampled", scoring=agents.scoring)

    def best(self, ways: dict[str, Agents], name: str) -> tuple[EvalRow, int]:
        """The held-out row of the way that does best on validation questions, and the tokens that it took to find."""
        tried = {label: self.ask(agents, label, "validation") for label, agents in ways.items()}
        best = max(tried, key=lambda label: tried[label].score)
        spent = sum(round(row.tokens * row.questions) for row in tried.values())
        return self.ask(ways[best], f"{name} ({best})"), spent


def rows_of(run: OpenedRun) -> list[tuple[EvalRow, int]]:
    """Every line of a run's table, with the tokens that it took beforehand; kept in the run's folder."""
    kept = run.folder / KEPT
    if kept.exists():
        return [(from_json(EvalRow, row), spent) for row, spent in json.loads(kept.read_text())]
    stored = {row.name: row for row in run.evaluations if row.decoding == "sampled"}
    cast = recall(run.source, machine=load_machine(None), iteration=None)
    founders, last = cast.team, recall(run.source, machine=load_machine(None), iteration=run.iterations[-1]).team
    assert isinstance(founders, Bidders) and isinstance(last, Bidders)
    last = founders.of(last.living)
    asking, system = Asking(cast), cast.recipe.prompts.system
    spent = sum(one.spent for one in trades(run.source))
    found = [(replace(stored["untrained"], name="the founders, by auction"), 0)]
    found.append((asking.ask(at_random(founders), "the founders, at random"), 0))
    alone = {agent.name: founders.of([unwaked(agent)]) for agent in founders.living}
    found.append(asking.best(alone, "the best founder alone"))
    found.append((replace(stored["single_agent"], name="one agent that sees everything"), 0))
    pair = exchange(("Alice", "Bob"), cast.recipe.market.steps, metric=cast.recipe.task.metric)
    fixed = {"": replace(cast.single, workflow=told(pair, system))}
    found.append((asking.ask(fixed[""], "the fixed pair"), 0))
    for text in cast.recipe.market.variants["Alice"]:
        fixed[text] = replace(cast.single, workflow=told(pair, f"{system} {text}"))
    found.append(asking.best(fixed, "the fixed pair, best strategy"))
    for number in run.iterations:
        before = sum(one.spent for one in trades(run.source)[: number + 1])
        found.append((replace(stored[f"iteration_{number}"], name=f"the market after iteration {number}"), before))
    found.append((asking.ask(at_random(last), "its last population, at random"), spent))
    kept.write_text(json.dumps([[to_json(row), tokens] for row, tokens in found]))
    return found


def at_random(agents: Bidders) -> Bidders:
    """The same population, in which who acts is drawn."""
    return replace(agents, rules=agents.rules.model_copy(update=NOBODY))


def unwaked(agent: Agent) -> Agent:
    """The agent as it would talk to itself."""
    return replace(agent, wake=type(agent.wake)())


def main() -> None:
    """Prints a table over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipe", default="market_quickstart")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    tables = []
    for seed in map(int, asked.seeds.split(",")):
        folder = asked.runs / f"{Path(asked.recipe).stem}-seed{seed}"
        train(asked.recipe, overrides=[f"seed={seed}"], run=folder)
        tables.append(rows_of(open_run(folder)))
    print("| who | score | tokens a question | tokens to prepare |")
    print("|---|---|---|---|")
    for lines in zip(*tables, strict=True):
        print(line([row for row, _ in lines], [spent for _, spent in lines]))


def line(rows: Sequence[EvalRow], spent: Sequence[int]) -> str:
    """A line of the table: means over the seeds."""
    name = rows[0].name.partition(" (")[0]
    scores = " ".join(f"{row.score:.3f}" for row in rows)
    tokens = f"{fmean(row.tokens for row in rows):.1f}"
    return f"| {name} | {fmean(row.score for row in rows):.3f} ({scores}) | {tokens} | {fmean(spent):,.0f} |"


if __name__ == "__main__":
    main()
