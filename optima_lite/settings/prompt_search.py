"""The section `prompt_search` of a recipe: which prompts are tried, and how the next combination is chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from .keys import Count, Section, Text

PromptList = Annotated[list[Text], Field(min_length=1, max_length=1_000)]


class PromptSearchSettings(Section):
    """How `method: prompts` searches (docs/prompts.md)."""

    domains: dict[str, PromptList] = Field(
        {}, description="For a role's name the prompts to try beside its own, with the same placeholders"
    )
    formats: bool = Field(False, description="Try each role's own prompt with each format of prompts.formats, too")
    written: int = Field(0, ge=0, le=100, description="Prompts for each role that the model itself writes, to be tried")
    writer_temperature: float = Field(0.7, gt=0, le=1e3, description="Sampling temperature of those")
    evaluations: Count = Field(50, description="Combinations evaluated, each once; the whole budget")
    warm_up: Count = Field(
        5, validate_default=True, description="The first of them: everybody's own prompts, then drawn at random"
    )
    questions: Count = Field(100, description="Validation questions of one evaluation, the same for all")
    repeats: Count = Field(1, description="Dialogues about each of them, against noise")
    confirmation_questions: Count = Field(
        100, description="Fresh validation questions, on which the best combination meets everybody's own prompts"
    )
    objective: Literal["score", "reward"] = Field(
        "score", description="What is sought: the task score, or the reward with tokens and readability"
    )
    surrogate: Literal["kernel", "attention"] = Field(
        "kernel", description="What foretells a combination: kernel regression, or graph attention (paper)"
    )
    edges: Literal["both", "dag"] = Field(
        "both", description="Attention looks both ways between roles, or as the workflow flows, which bears no loop"
    )
    exploration: float = Field(0.2, ge=0, description="Weight of the uncertainty in the bound; 0 is greedy")
    information: float = Field(1.0, gt=0, description="What an evaluation adds to the information matrix; official: 10")
    start: Literal["best", "last"] = Field(
        "best", description="The ascent begins at the best combination so far, or at the last one (official)"
    )
    sweeps: Count = Field(1, description="Times the ascent goes through all roles")
    repeated: Literal["skip", "count"] = Field(
        "skip",
        description="A combination proposed again; count: it takes one of the budget, not evaluated anew (official)",
    )

    @field_validator("warm_up")
    @classmethod
    def _leaves_something_to_search(cls, warm_up: int, info: ValidationInfo) -> int:
        budget = info.data.get("evaluations", warm_up)
        if warm_up > budget:
            raise ValueError(f"must be at most evaluations, {budget}: the warm-up is a part of the budget")
        return warm_up
