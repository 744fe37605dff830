"""Who is born and who goes: repaired children of the dead and the poor, mutated children of the rich, rent.

A mutated child is its parent with another strategy; a repaired one is its parent with a strategy that is to avoid the
failure that it last took part in. Whoever writes strategies is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from ...settings.agents import Agent, roles_of
from ...settings.market import MarketSettings
from ...settings.workflow import SHARED
from ...team.episodes import Birth, Cause, How, Trace
from ...team.ledger import Economy, charged, with_newborn, without


@dataclass(frozen=True, slots=True)
class Request:
    """A strategy that is wanted. how: mutate the parent's, or repair it by a trace, where there is one."""

    parent: Agent
    how: How
    cause: Cause
    trace: Trace | None = None


Write = Callable[[Sequence[Request]], Sequence[str]]
"""A strategy for each request, in their order."""

Raise = Callable[[Agent, Birth], None]
"""Told of each child and its parent, before anybody acts again: gives it the weights of an adapter of its own."""


@dataclass
class Nature:
    """What births and deaths of an episode go by, and who has gone in it. rng: draws who has children. roles: all that
    there must be. traces: the last failures, by agent. episode: its number."""

    rules: MarketSettings
    write: Write
    rng: Random
    roles: tuple[str, ...]
    traces: Mapping[str, Trace]
    episode: int
    nurture: Raise = lambda parent, birth: None
    dead: list[Agent] = field(default_factory=list)
    births: list[Birth] = field(default_factory=list)

    def remove(self, economy: Economy, names: Sequence[str]) -> Economy:
        """The economy without these agents. A role that has none left gets a repaired child of the last that it had."""
        gone = {agent.role: agent for agent in economy.agents if agent.name in names}
        self.dead += [agent for agent in economy.agents if agent.name in names]
        economy = without(economy, names)
        living = roles_of(economy.agents)
        empty = [role for role in self.roles if role not in living]
        return self._bear(economy, [self._repair(gone[role], "role") for role in empty])

    def collect_rent(self, economy: Economy) -> Economy:
        """The economy after the rent, where it is due, without those who could not pay it."""
        if not self.rules.rent or (self.episode + 1) % self.rules.rent_interval:
            return economy
        economy = charged(economy, self.rules.rent)
        return self.remove(economy, economy.broke)

    def renew(self, economy: Economy) -> Economy:
        """The economy after the births that follow deaths, those of which it is time, and those up to the fewest agents
        that there must be; the first two as far as the cap allows."""
        wanted = list(self._wanted(economy))
        if self.rules.max_population is not None:
            wanted = wanted[: max(0, self.rules.max_population - len(economy.agents))]
        economy = self._bear(economy, wanted)
        missing = (self.rules.min_population or 0) - len(economy.agents)
        return self._bear(economy, [self._mutation(economy, "minimum")] * missing)

    def _wanted(self, economy: Economy) -> Iterator[Request]:
        rules = self.rules
        followed = {birth.child.parent for birth in self.births}  # by a child that fills their role
        for agent in self.dead:
            if agent.name in followed:
                continue
            if self.rng.random() < rules.replace_by_richest:
                yield self._mutation(economy, "death")
            elif self.rng.random() < rules.replace_by_repair:
                yield self._repair(agent, "death")
        for _ in range(rules.births if (self.episode + 1) % rules.birth_interval == 0 else 0):
            if self.rng.random() < rules.births_of_richest:
                yield self._mutation(economy, "regular")
            else:
                yield self._repair(min(economy.agents, key=lambda agent: agent.wealth), "regular")

    def _mutation(self, economy: Economy, cause: Cause) -> Request:
        return Request(max(economy.agents, key=lambda agent: agent.wealth), "mutate", cause)

    def _repair(self, parent: Agent, cause: Cause) -> Request:
        return Request(parent, "repair", cause, self.traces.get(parent.name))

    def _adapter(self, parent: Agent, living: Sequence[Agent]) -> str:
        """The one that a child speaks with: the shared one like its parent, or one that nobody has."""
        if parent.adapter == SHARED:
            return SHARED
        taken = {SHARED, *(agent.adapter for agent in living)}
        return next(name for name in self.rules.adapters if name not in taken)

    def _bear(self, economy: Economy, requests: Sequence[Request]) -> Economy:
        """The economy with a child for every request, all of them written at once."""
        strategies = self.write(requests) if requests else ()
        born: list[Birth] = []
        for number, (request, strategy) in enumerate(zip(requests, strategies, strict=True), start=economy.ever + 1):
            child = replace(
                request.parent,
                name=f"{request.parent.role}-{number}",
                strategy=strategy,
                adapter=self._adapter(request.parent, [*economy.agents, *(birth.child for birth in born)]),
                wealth=self.rules.initial_wealth,
                status="novice",
                bid=None,
                parent=request.parent.name,
                born=self.episode,
            )
            born.append(Birth(child, request.how, request.cause))
        self.births += born
        for request, birth in zip(requests, born, strict=True):
            self.nurture(request.parent, birth)
        return with_newborn(economy, [birth.child for birth in born])
