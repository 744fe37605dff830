"""The recipe's section `task`: which questions, where a row keeps its parts, and how answers are scored."""

from __future__ import annotations

import re
import warnings
from typing import Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from ..records import CODE_METRICS, Metric
from .keys import PathText, Section, Share, Text
from .plugin import Plugin

SPLITS = ("train", "validation", "held_out")

BenchmarkName = Literal[
    "hotpotqa", "2wikimultihopqa", "triviaqa", "cbt", "gsm8k", "math", "arc_challenge", "mmlu", "humaneval", "mbpp"
]  # fmt: skip
CODE_TASKS = ("humaneval", "mbpp")  # their gold answers are tests
ContextForm = Literal["paragraphs", "first_sentence"]
FileOrFiles = str | dict[str, str]


class FieldSettings(Section):
    """Where a row keeps its parts. A path is dotted; a name on a list means that of each item (see `tasks.jsonl`)."""

    question: Text = Field("question", description="Path to the question's text")
    answers: Text = Field("answers", description="Path to the accepted answers: text, a number, or a list of them")
    context: Text | None = Field("context", description="Path to one list of facts to deal out; null: there are none")
    contexts: tuple[Text, Text] | None = Field(
        None, description="Paths to the facts of the first and of the second agent; takes the place of context"
    )
    titles: Text | None = Field(None, description="Path to a title for each item of context")
    support: Text | None = Field(
        None, description="Path to the marks of the facts needed: titles, positions from 0, or true/false for each"
    )
    id: Text | None = Field(None, description="Path to a unique id; null: made from the row's content")
    split: Text | None = Field(
        None, description="Path to the row's split: train, validation or held_out (also dev, test); null: by the shares"
    )


class TaskSettings(Section):
    """The questions and how answers to them are scored."""

    name: Literal["world", "jsonl", "plugin", BenchmarkName] = Field(
        description="world: the bundled synthetic questions; jsonl: a file of rows in any layout; plugin: `questions` "
        "of the plugin; else a benchmark"
    )
    path: PathText | dict[str, PathText] | None = Field(
        None,
        description="The file of rows, relative to the working folder, or {train: .., validation: .., held_out: ..}; "
        "null: a benchmark comes from the hub",
    )
    context: ContextForm = Field(
        "paragraphs", description="What a benchmark's paragraphs are cut to; first_sentence: as in the official code"
    )
    fields: FieldSettings = FieldSettings()
    answer_pattern: Text | None = Field(
        None, description="Regular expression; the last match's last group, or whole match, is the answer"
    )
    metric: Metric = Field(
        "f1",
        validate_default=True,
        description="How an answer is scored; a program: by the share of its tests passed (tests), or by all (pass)",
    )
    scoring: Literal["standard", "official"] = Field(
        "standard", description="standard: F1 of words, formulas by value; official: the authors' code's own rules"
    )
    held_out_share: Share = Field(0.2, description="Share of the rows kept for the final report")
    validation_share: Share = Field(0.1, validate_default=True, description="Share of the rows kept for choices")

    _code: Plugin | None = PrivateAttr(None)

    @property
    def code(self) -> Plugin | None:
        """The plugin that was loaded with the recipe, or None; no part of the values."""
        return self._code

    def with_code(self, code: Plugin | None) -> Self:
        """The same settings with the plugin at hand."""
        task = self.model_copy()
        task._code = code
        return task

    @property
    def has_facts(self) -> bool:
        """Whether its questions come with facts that can be dealt out."""
        if self.name == "jsonl":
            return self.fields.context is not None or self.fields.contexts is not None
        return self.name not in ("gsm8k", "math", "arc_challenge", "mmlu", *CODE_TASKS)

    @property
    def endless(self) -> bool:
        """Whether its questions are made as they are asked for, and so have no last one."""
        return self.name in ("world", "plugin")

    @property
    def runs_code(self) -> bool:
        """Whether the answers are programs, which are run."""
        return self.metric in CODE_METRICS

    @field_validator("path")
    @classmethod
    def _path_is_read(cls, path: FileOrFiles | None, info: ValidationInfo) -> FileOrFiles | None:
        name = info.data.get("name")
        if path is not None and name in ("world", "plugin"):
            raise ValueError(f"is not read by task.name {name}, which makes its own questions; set task.name=jsonl")
        if isinstance(path, dict) and path.keys() != set(SPLITS):
            raise ValueError(f"must be one file, or a file each for {', '.join(SPLITS)}, not for {', '.join(path)}")
        return path

    @field_validator("context")
    @classmethod
    def _has_paragraphs(cls, context: ContextForm, info: ValidationInfo) -> ContextForm:
        if context != "paragraphs" and info.data.get("name") not in ("hotpotqa", "2wikimultihopqa"):
            raise ValueError("is read by task.name hotpotqa and 2wikimultihopqa only")
        return context

    @field_validator("metric")
    @classmethod
    def _suits_the_answers(cls, metric: Metric, info: ValidationInfo) -> Metric:
        name = info.data.get("name")
        if name in CODE_TASKS and metric not in CODE_METRICS:
            raise ValueError(f"must be {' or '.join(CODE_METRICS)}, not {metric}: the answers to {name} are programs")
        if name is not None and name not in CODE_TASKS and metric in CODE_METRICS:
            raise ValueError(f"cannot be {metric}, which runs programs; it is for {' and '.join(CODE_TASKS)}")
        return metric

    @field_validator("answer_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if len(pattern or "") > 1_000:
            raise ValueError("must not be longer than 1,000 characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what Python warns of will mean something else one day
                re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError, Warning) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return pattern

    @field_validator("validation_share")
    @classmethod
    def _leaves_rows_to_train(cls, share: float, info: ValidationInfo) -> float:
        if share + info.data.get("held_out_share", 0) >= 1:
            raise ValueError("and held_out_share together must stay below 1, to leave rows to train on")
        return share
