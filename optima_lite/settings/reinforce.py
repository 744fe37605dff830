"""The section `reinforce` of a recipe: how a team learns from rewards (`method: reinforce`).

The defaults are those of UnityMAS-O (arXiv 2605.26646, on verl) where it has one: clip 0.2, discount and lambda 1, one
epoch, a mean over tokens, no entropy bonus, no KL term. Learning rates are LoRA's own: the published 1e-6 is for all of
a model's weights.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .keys import Count, Section, Text


class ReinforceSettings(Section):
    """How the adapters are trained on rewards. What a message is rewarded with is said by `reward`."""

    restart: ClassVar[str] = "previous"  # reinforcement goes on from what there is

    imitations: int = Field(
        0, ge=0, le=1_000_000, description="Iterations that imitate, as in isft, before the first that reinforces"
    )
    roles: tuple[Text, ...] | None = Field(None, description="The roles that learn; null: all")
    advantage: Literal["group", "value"] = Field(
        "group",
        description="What a message is compared with; group: the question's other dialogues; value: a head's guess",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="What is clipped: each token's ratio, or the mean one of all that an agent says"
    )
    clip: float = Field(0.2, gt=0, lt=1, description="By how much the ratio to the step's beginning counts at most")
    kl_weight: float = Field(0.0, ge=0, description="Weight of the KL term that holds the adapter back")
    kl_to: Literal["start", "base"] = Field(
        "start", description="What it is held to: the adapter as the step began, or the base model"
    )
    discount: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="For advantage: value; discount of a token")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="For advantage: value; how far beyond the next token the estimate looks"
    )
    value_learning_rate: float = Field(0.05, gt=0, description="For advantage: value; of the value head")
    epochs: Count = Field(1, description="Passes over the messages of an iteration")
    learning_rate: float = Field(2e-5, gt=0, description="Learning rate")
    batch_size: Count = Field(64, description="Training examples in one optimiser step: all that an agent says in one")
    warmup_ratio: float = Field(0.0, ge=0, lt=1, description="Share of the steps in which the learning rate rises")
    max_kl: float = Field(
        0.5, gt=0, description="Nats a token by which the adapter may leave the step's beginning before the step stops"
    )
    min_entropy: float = Field(
        0.1, ge=0, lt=1, description="Share of the step's first entropy under which the step stops"
    )
