"""The recipe's section `market`: the agents that a market begins with, and the rules of its economy.

Defaults are those of the published code of EoM (arXiv 2606.02859); those of its three domains are the presets
`market_science`, `market_cloudcast` and `market_accelerator`. What that code has not is said beside the key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from .agents import OWN, Agent, founders, roles_of
from .keys import Count, Section
from .workflow import SHARED

Chance = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]


class MarketSettings(Section):
    """Who bids for the right to act, and what it costs and brings."""

    agents: dict[str, Any] = Field(
        {}, description="For each agent's name its role, prompt, strategy and limits (docs/market.md)"
    )
    steps: Count = Field(10, description="Actions of one episode at most")
    terminal_steps: Annotated[int, Field(ge=0)] = Field(
        1, description="In so many last steps only agents with terminal: true bid, whether they wake or not"
    )
    trials: Count = Field(4, description="Times a question is played at most when somebody goes bankrupt over it")
    scheme: Literal["fixed", "fixed_with_eps", "holland"] = Field(
        "fixed",
        description="How agents bid: a base; a bid for life above the highest; the rich a share of their wealth",
    )
    base_bid: Amount = Field(0.1, description="What an agent bids that has no reason for another bid")
    eps: Amount = Field(0.01, description="By how much a newcomer bids more")
    tycoon_wealth: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Wealth from which a veteran bids a share of it; holland needs it (published: 5)"
    )
    tycoon_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="That share; holland needs it (published: 0.1)"
    )
    initial_wealth: Annotated[float, Field(gt=0)] = Field(0.5, description="What every agent begins with")
    rent: Amount = Field(0.0, description="What everybody pays every rent_interval episodes")
    rent_interval: Count = Field(5, description="Episodes from one rent to the next")
    births: Annotated[int, Field(ge=0)] = Field(2, description="Children born every birth_interval episodes")
    birth_interval: Count = Field(5, description="Episodes from one round of births to the next")
    min_population: Count | None = Field(None, description="Fewer agents get children of the richest; null: no limit")
    max_population: Count | None = Field(None, description="No child is born beyond so many; null: no limit")
    replace_by_richest: Chance = Field(
        0.0, description="Chance that a dead agent is followed by a child of the richest"
    )
    replace_by_repair: Chance = Field(1.0, description="Else the chance that it is followed by its own repaired child")
    births_of_richest: Chance = Field(
        0.5, description="Chance that a regular birth is a child of the richest; else the poorest's repaired child"
    )
    centred: bool = Field(True, description="The signal is 2 score - 1, so that failure costs; else the score")
    env_scale: Amount = Field(1.0, description="The signal times this is what an episode mints")
    path_scale: Amount = Field(1.0, description="Share of the signal that all who acted divide among them")
    path_share: Literal["action", "author"] = Field(
        "action", description="It is divided by actions, or equally by the distinct agents (cloudcast)"
    )
    bonus_scale: Amount = Field(0.5, description="Share of the signal for the author of the final answer, on top")
    step_rewards: bool = Field(
        False, description="What a message adds to the score of the answer marked last is paid at once; ours"
    )
    step_share: Literal["winner", "recent"] = Field(
        "winner", description="Who gets that: who acted, or the distinct winners of the last three steps"
    )
    pass_score: Chance = Field(
        0.5, description="An episode below this score has failed, and leaves a trace to repair by"
    )
    births_by: Literal["model", "variants"] = Field(
        "model", description="Who writes a child's strategy: the base model, or a draw from `variants`"
    )
    variants: dict[str, list[str]] = Field({}, description="For each role the strategies that children draw from; ours")
    imitation: bool = Field(
        False,
        description="A child of the richest, if that has an adapter of its own, learns what its parent won with; ours",
    )
    lessons: Count = Field(16, description="An agent's last so many won episodes, which such a child learns; ours")
    strategy_tokens: Count = Field(256, description="Tokens of a strategy; a longer one is cut; ours")

    @field_validator("agents")
    @classmethod
    def _are_agents(cls, stated: dict[str, Any]) -> dict[str, Any]:
        if stated:
            founders(stated, wealth=0.0)
        return stated

    @field_validator("variants")
    @classmethod
    def _are_strategies(cls, by_role: dict[str, list[str]], info: ValidationInfo) -> dict[str, list[str]]:
        roles = roles_of(founders(info.data["agents"], wealth=0.0)) if info.data.get("agents") else ()
        for role, texts in by_role.items():
            if role not in roles:
                raise ValueError(f"there is no role {role} among market.agents")
            if len(texts) < 2:
                raise ValueError(f"{role} needs two strategies at least, so that a child can differ from its parent")
        return by_role

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if not self.agents:
            return self
        roles, count = roles_of(self.founders), len(self.founders)
        if self.scheme == "holland" and (self.tycoon_wealth is None or self.tycoon_share is None):
            raise ValueError("scheme holland needs tycoon_wealth and tycoon_share (published: 5 and 0.1)")
        if self.scheme == "fixed_with_eps" and not self.eps:
            raise ValueError("scheme fixed_with_eps needs eps above 0: a newcomer would outbid nobody")
        if self.max_population is not None and self.max_population < max(len(roles), count):
            needs = (
                f"the {len(roles)} roles" if self.max_population < len(roles) else f"the {count} agents it begins with"
            )
            raise ValueError(f"max_population {self.max_population} is below {needs}")
        if self.min_population is not None and self.min_population > (self.max_population or self.min_population):
            raise ValueError(f"min_population {self.min_population} is above max_population {self.max_population}")
        if self.terminal_steps > self.steps:
            raise ValueError(f"terminal_steps {self.terminal_steps} is above steps {self.steps}")
        own = [agent.name for agent in self.founders if agent.adapter != SHARED]
        if own and self.max_population is None:
            raise ValueError(f"{', '.join(own)} with adapter: own needs max_population: so many adapters are held")
        if self.imitation and not own:
            raise ValueError("imitation trains adapters, and no agent has adapter: own")
        if self.births_by == "variants" and (without := [role for role in roles if role not in self.variants]):
            raise ValueError(f"births_by variants needs variants for {', '.join(without)}")
        return self

    @property
    def adapters(self) -> tuple[str, ...]:
        """All that agents may come to speak with: the shared one, and where some have their own, one for each agent
        that the market may hold."""
        own = any(agent.adapter != SHARED for agent in self.founders)
        return (SHARED, *(f"{OWN}{k + 1}" for k in range(self.max_population or 0) if own))

    @property
    def founders(self) -> tuple[Agent, ...]:
        """The agents that the market begins with, none where none are stated."""
        return founders(self.agents, wealth=self.initial_wealth) if self.agents else ()
