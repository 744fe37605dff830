"""The sections of a recipe that every method shares: what each key is for, its default, its range.

`task` has a file of its own, and so has what one method alone reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from ..records import Layout
from . import schemas
from .keys import Count, PathText, Section, Share, Text, TokenCount

FormatName = Literal[  # the keys of prompts.FORMATS
    "json", "key_value", "table", "bullets", "triples", "telegraphic", "arrows",
    "pseudo_code", "yaml", "xml", "csv", "symbols", "abbreviated", "form",
]  # fmt: skip
ALL_FORMATS: tuple[FormatName, ...] = get_args(FormatName)

PresetName = Literal["official", "market_science", "market_cloudcast", "market_accelerator"]  # the keys of PRESETS
CreditScheme = Literal["trajectory", "split", "difference", "code", "own_step"]
"""How the task score of a dialogue is handed to its messages; see `learn.credit`."""

Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]


class ModelSettings(Section):
    """The base model and its adapter."""

    name: PathText = Field(
        description="Folder, alias of the machine file, Hugging Face name, or bundled: `tiny`, `tiny-teams`"
    )
    quantization: Literal["auto", "none", "nf4"] = Field(
        "auto", description="Storage of the frozen base; auto: nf4 on a GPU, none (fp32) on the CPU"
    )
    max_length: TokenCount | None = Field(None, description="Tokens the model may see; null: its own limit")
    lora_rank: int = Field(16, ge=1, le=4096, description="Rank of the LoRA adapter")
    lora_alpha: Count = Field(32, description="Scale of the adapter, over its rank")
    lora_dropout: Share = Field(0.0, description="Dropout on the adapter's input while training")


class ProtocolSettings(Section):
    """Who speaks, and when the talk ends."""

    name: Literal["exchange", "debate"] = Field(
        "exchange", description="exchange: each agent holds a part of the facts; debate: a solver and a critic see all"
    )
    roles: tuple[Text, ...] = Field(
        ("Alice", "Bob"), description="The agents' names, in order of speaking; three debate without a critic"
    )
    max_turns: Annotated[int, Field(ge=2, le=1_000)] = Field(6, description="Messages after which a dialogue ends")
    stop: Literal["partner", "anyone"] | None = Field(
        None, description="Whose answer, stated again, ends the talk; null: exchange: the partner's, debate: anyone's"
    )

    @field_validator("roles")
    @classmethod
    def _distinct(cls, roles: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        wanted = (2, 3) if info.data.get("name") == "debate" else (2,)
        if len(roles) not in wanted:
            raise ValueError(f"must hold {' or '.join(map(str, wanted))} names, not {len(roles)}")
        if len(set(roles)) < len(roles):
            raise ValueError("must be different names")
        return roles


SystemPrompt = Annotated[str, Field(max_length=100_000)]


class PromptSettings(Section):
    """What the agents are told."""

    system: SystemPrompt | dict[str, SystemPrompt] | None = Field(
        None,
        description="System prompt with {name} and {partner}, for all roles or by their names; null: the team's own",
    )
    solo_system: Annotated[str, Field(max_length=100_000)] | None = Field(
        None, description="System prompt of the single agent; null: the built-in one"
    )
    formats: tuple[FormatName, ...] = Field(
        ALL_FORMATS, description="The pool of formats that iteration 0 samples with"
    )
    layout: Layout = Field(
        "alternating", description="A partner's messages are user turns; assistant: all are assistant turns (official)"
    )


class SamplingSettings(Section):
    """How dialogues are sampled."""

    rollouts: Count = Field(8, description="Dialogues sampled for each question")
    temperature: Temperature = Field(0.7, description="Sampling temperature")
    pool_temperature: Temperature | None = Field(
        None, description="Temperature of iteration 0, with the format pool; null: temperature"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: the share of probability that is sampled from")
    max_turn_tokens: Count = Field(256, description="Tokens of one message; a longer one is cut and scores 0")


class RewardSettings(Section):
    """How dialogues are ranked: task - token_weight * tokens + readability_weight * readability, and what is added to
    that when asked for; `reward` has the formula."""

    token_weight: float = Field(0.6, ge=0, description="Weight of the token term, which is subtracted")
    readability_weight: float = Field(1.0, ge=0, description="Weight of the readability term, which is added")
    readability: Literal["inverse", "capped", "relative"] = Field(
        "inverse", description="1/L of the worst message's loss L; capped: at most 1; relative: best sibling's L over L"
    )
    loss_condition: Literal["dialogue", "message"] = Field(
        "dialogue", description="What the base model reads before a message: the speaker's view, or nothing"
    )
    loss_floor: float = Field(0.05, gt=0, description="Nats; smaller losses count as this before 1/L")
    max_tokens: Count | None = Field(
        None,
        description="Makes the token term absolute: max(0, 1 - tokens/max_tokens) is added; null: it compares siblings",
    )
    format_weight: float = Field(
        0.0, ge=0, description="Weight of the share of messages that are valid by `schemas`, which is added"
    )
    schemas: dict[str, dict[str, Any]] = Field(
        {},
        validate_default=True,
        description="For a role's name the JSON schema of its messages; others are not looked at",
    )
    min_tokens: Count | None = Field(
        None, description="A dialogue of at most so many tokens pays 1 for its tokens; the official code: 40"
    )
    repeated: Literal["ignore", "zero"] = Field(
        "ignore",
        description="A message said twice; zero: its dialogue's readability term is 0, as in the official code",
    )
    confusion: Literal["ignore", "zero"] = Field(
        "ignore",
        description="A message with another agent's label, or its own twice; zero: its dialogue's task score counts 0",
    )
    turn_cost: float = Field(0.0, ge=0, description="Subtracted for every message")
    plugin_weight: float = Field(0.0, ge=0, description="Weight of the plugin's `reward`, which is added")
    gate_by_correctness: bool = Field(
        False, description="Multiply the other terms by the task score, so that a wrong dialogue is worth 0"
    )
    credit: CreditScheme = Field(
        "trajectory",
        description="What each message gets of the task score: all; split: its part; difference: what it gains, or its "
        "own answer's; code: what its round gains; own_step: its own answer's, without one all (docs/teams.md)",
    )
    parse_weight: float = Field(
        0.0, ge=0, description="Subtracted from the credit of a message that does not hold what its step is to say"
    )

    @field_validator("schemas")
    @classmethod
    def _are_schemas(cls, by_role: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        for role, schema in by_role.items():
            if problem := schemas.problem(schema):
                raise ValueError(f"of {role} is no JSON schema: {problem}")
        if info.data.get("format_weight") and not by_role:
            raise ValueError("must hold a role's schema when format_weight is above 0")
        return by_role


class SelectionSettings(Section):
    """Which dialogues are trained on."""

    min_reward: float = Field(0.5, description="A question's best dialogue is kept when its reward is above this")
    keep_fraction: float = Field(0.7, gt=0, le=1, description="Share of those, best first, that is trained on")
    min_credit: float | None = Field(
        None,
        description="Of a kept dialogue the messages are learnt whose credit is at least this; null: 0, and 0.5 under "
        "own_step (reward.credit)",
    )
    order: Literal["threshold_first", "share_first"] = Field(
        "threshold_first", description="share_first: that share is taken of all questions, before min_reward (official)"
    )
    drop_easiest: Share = Field(
        0.0, description="Share of the best dialogues that is left out before; the official code: 0.1 for MATH"
    )
    pairing: Literal["official", "paper"] = Field(
        "official", description="official: best against worst child of a tree node; paper: every two children of one"
    )
    pair_min_reward: float = Field(0.4, description="The better message of a pair must be worth more than this")
    min_gap: float = Field(0.2, ge=0, description="The two messages of a pair must differ in worth by more than this")
    pair_keep_fraction: float = Field(0.5, gt=0, le=1, description="Share of the pairs, best first, that is trained on")
    keep_scope: Literal["global", "tree"] = Field(
        "global", description="That share is taken of all pairs, or of those of each tree (official)"
    )
    min_visits: Count = Field(1, description="Rollouts that must have gone through each message of a pair")
    skip_early_answers: bool = Field(
        False, description="Leave out pairs that prefer an answer given before a partner has spoken"
    )


class SearchSettings(Section):
    """How the dialogue tree of a question is grown, for preference pairs."""

    searches: Count = Field(8, description="Times a node is chosen and dialogues are rolled out from it")
    rollouts: Count = Field(3, description="Dialogues rolled out each time")
    top_k: Count = Field(10, description="Best nodes among which the next one is drawn")
    temperature: Temperature = Field(1.0, description="Of the softmax over their values, by which it is drawn")
    expand_distance: float = Field(
        0.25, ge=0, le=1, description="Nodes nearer than this to a chosen one are not chosen; edit distance over length"
    )
    merge_distance: float = Field(
        0.1, ge=0, le=1, description="A message nearer than this to a sibling counts as that sibling"
    )
    normaliser_percentile: int = Field(
        85, ge=1, le=100, description="Percentile of a probe's dialogue lengths that counts as one unit of tokens"
    )


class TrainingSettings(Section):
    """How the adapter is trained."""

    iterations: Count = Field(3, description="Rounds of sampling, selecting and training")
    questions: Count = Field(150, description="Training questions in each iteration")
    restart: Literal["base", "previous"] = Field("previous", description="Train a new adapter each time, or go on")
    epochs: Count = Field(3, description="Passes over the selected dialogues in each iteration")
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate")
    batch_size: Count = Field(16, description="Training examples in one optimiser step")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises")
    on_worse: Literal["keep", "revert", "stop"] = Field(
        "keep",
        description="When a step lowers the validation reward beyond noise: keep it with a note, undo it, or stop",
    )


class DpoSettings(Section):
    """How the adapter is trained on preference pairs."""

    questions: Count = Field(50, description="Questions searched in each preference step")
    restart: Literal["base", "previous"] = Field("previous", description="Train a new adapter each time, or go on")
    beta: float = Field(0.1, gt=0, description="How strongly the adapter is held to where the step began")
    sft_weight: float = Field(
        0.0, ge=0, description="Weight of the SFT term on the chosen messages; the paper: 1 in idpo"
    )
    epochs: Count = Field(1, description="Passes over the pairs")
    learning_rate: float = Field(5e-6, gt=0, description="Peak learning rate")
    batch_size: Count = Field(16, description="Pairs in one optimiser step")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises")
    max_chosen_drop: float = Field(
        20.0, gt=0, description="Nats by which the chosen messages may become less likely before the step stops"
    )


class EvaluationSettings(Section):
    """How the result is measured."""

    questions: Count = Field(200, description="Held-out questions, the same for every model")
    validation_questions: Count = Field(50, description="Validation questions, asked after every training step")
    every: Count = Field(1, description="Iterations from one asking of the held-out questions to the next")
    stop_if_none_right: bool = Field(
        True, description="Stop before any training when no question was answered right, not even by one agent alone"
    )
