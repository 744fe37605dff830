"""Recipe and machine settings: the schemas, loading, variants, overrides, and where each value came from.

A recipe (YAML) is the science and means the same on every machine; `optima_lite.toml` is the machine. No key lives in
both. A value is the schema's default unless the recipe's `preset`, then the recipe, then a chosen variant, then
`key.sub=value` on the command line says otherwise. All mistakes of a load are reported together, each with its origin,
its key and the nearest real one.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
import re
import stat
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..errors import ConfigError
from ..records import CODE_METRICS, Layout, Metric
from . import presets, schemas, strict_yaml, teams
from .consistency import idle
from .grammar import At
from .layers import (
    LONGEST_LINE,
    MOST_LINES,
    KeyTree,
    Layer,
    Mistake,
    Setting,
    combine,
    cut,
    either,
    flatten,
    mistaken,
    near_names,
    nearest,
    nested,
    reason,
    variant_layers,
)
from .layers import differences as differences
from .layers import undoing as undoing
from .plugin import Plugin
from .plugin import load as load_plugin

MACHINE_FILE = "optima_lite.toml"
COMMAND_LINE = "command line"
_ADAPTERS = "team.adapters"
_FROM_PRESET = "preset "
_LARGEST_FILE = 100_000  # bytes; a recipe of one line for every setting has a tenth of that

Settings = TypeVar("Settings", bound="_Settings")

FormatName = Literal[  # the keys of prompts.FORMATS
    "json", "key_value", "table", "bullets", "triples", "telegraphic", "arrows",
    "pseudo_code", "yaml", "xml", "csv", "symbols", "abbreviated", "form",
]  # fmt: skip
ALL_FORMATS: tuple[FormatName, ...] = get_args(FormatName)

SPLITS = ("train", "validation", "held_out")

BenchmarkName = Literal[
    "hotpotqa", "2wikimultihopqa", "triviaqa", "cbt", "gsm8k", "math", "arc_challenge", "mmlu", "humaneval", "mbpp"
]  # fmt: skip
CODE_TASKS = ("humaneval", "mbpp")  # their gold answers are tests
ContextForm = Literal["paragraphs", "first_sentence"]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
TokenCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
Gib = Annotated[float, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
Text = Annotated[str, Field(min_length=1, max_length=100_000)]


def _nameable(path: str) -> str:
    if "\0" in path:
        raise ValueError("must not hold a null character")
    return path


PathText = Annotated[str, Field(min_length=1, max_length=4_000), AfterValidator(_nameable)]
FileOrFiles = str | dict[str, str]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSettings(_Settings):
    """The base model and its adapter."""

    name: PathText = Field(description="Folder, alias of the machine file, Hugging Face name, or `tiny` (bundled)")
    quantization: Literal["auto", "none", "nf4"] = Field(
        "auto", description="Storage of the frozen base; auto: nf4 on a GPU, none (fp32) on the CPU"
    )
    max_length: TokenCount | None = Field(None, description="Tokens the model may see; null: its own limit")
    lora_rank: int = Field(16, ge=1, le=4096, description="Rank of the LoRA adapter")
    lora_alpha: Count = Field(32, description="Scale of the adapter, over its rank")
    lora_dropout: Share = Field(0.0, description="Dropout on the adapter's input while training")


class FieldSettings(_Settings):
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


class TaskSettings(_Settings):
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

    @property
    def has_facts(self) -> bool:
        """Whether its questions come with facts that can be dealt out."""
        if self.name == "jsonl":
            return self.fields.context is not None or self.fields.contexts is not None
        return self.name not in ("gsm8k", "math", "arc_challenge", "mmlu", *CODE_TASKS)

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


class ProtocolSettings(_Settings):
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


class PromptSettings(_Settings):
    """What the agents are told."""

    system: Annotated[str, Field(max_length=100_000)] | None = Field(
        None, description="System prompt with {name} and {partner}; null: the protocol's own"
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


class SamplingSettings(_Settings):
    """How dialogues are sampled."""

    rollouts: Count = Field(8, description="Dialogues sampled for each question")
    temperature: Temperature = Field(0.7, description="Sampling temperature")
    pool_temperature: Temperature | None = Field(
        None, description="Temperature of iteration 0, with the format pool; null: temperature"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: the share of probability that is sampled from")
    max_turn_tokens: Count = Field(256, description="Tokens of one message; a longer one is cut and scores 0")


class RewardSettings(_Settings):
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

    @field_validator("schemas")
    @classmethod
    def _are_schemas(cls, by_role: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        for role, schema in by_role.items():
            if problem := schemas.problem(schema):
                raise ValueError(f"of {role} is no JSON schema: {problem}")
        if info.data.get("format_weight") and not by_role:
            raise ValueError("must hold a role's schema when format_weight is above 0")
        return by_role


class SelectionSettings(_Settings):
    """Which dialogues are trained on."""

    min_reward: float = Field(0.5, description="A question's best dialogue is kept when its reward is above this")
    keep_fraction: float = Field(0.7, gt=0, le=1, description="Share of those, best first, that is trained on")
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


class SearchSettings(_Settings):
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


class TrainingSettings(_Settings):
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


class DpoSettings(_Settings):
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


class EvaluationSettings(_Settings):
    """How the result is measured."""

    questions: Count = Field(200, description="Held-out questions, the same for every model")
    validation_questions: Count = Field(50, description="Validation questions, asked after every training step")
    stop_if_none_right: bool = Field(
        True, description="Stop before any training when no question was answered right, not even by one agent alone"
    )


_USED_BY = {"questions": "task.name plugin", "reward": "reward.plugin_weight", "tool": "a step with tool: plugin"}


class Recipe(_Settings):
    """Everything that decides a run's results."""

    seed: int = Field(0, ge=0, lt=2**32, description="Varies sampling and training; held-out questions stay fixed")
    preset: Literal["official"] | None = Field(
        None, description="Defaults to start from; official: as in the authors' code; null: as in the paper"
    )
    model: ModelSettings
    task: TaskSettings
    protocol: ProtocolSettings = ProtocolSettings()
    team: dict[str, Any] | None = Field(
        None, description="A shipped team's name, a YAML file, or roles and steps, in place of protocol (docs/teams.md)"
    )
    prompts: PromptSettings = PromptSettings()
    sampling: SamplingSettings = SamplingSettings()
    reward: RewardSettings = RewardSettings()
    selection: SelectionSettings = SelectionSettings()
    search: SearchSettings = SearchSettings()
    training: TrainingSettings = TrainingSettings()
    dpo: DpoSettings = DpoSettings()
    schedule: Literal["isft", "idpo", "isft-dpo"] = Field(
        "isft", description="Steps of an iteration: imitation, preference (after imitation in iteration 0), or both"
    )
    evaluation: EvaluationSettings = EvaluationSettings()
    plugin: PathText | None = Field(
        None, description="A Python file of yours in the recipe's folder, with functions that it runs (docs/plugins.md)"
    )

    @field_validator("team")
    @classmethod
    def _is_a_team(cls, team: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if team is not None and "task" in info.data:
            workflow = teams.workflow(team)
            holders = workflow.holders
            if len(holders) not in (0, 2):
                raise ValueError(
                    f"has {len(holders)} of its roles with `facts: share`; the facts of a task come in two shares"
                )
            task = info.data["task"]
            if any(step.speaker == "run_tests" for step in workflow.steps) and not task.runs_code:
                raise ValueError(f"runs tests, and task.name {task.name} has none; {' and '.join(CODE_TASKS)} have")
            looks_up = any(step.speaker == "retrieve" for step in workflow.steps)
            if (holders or looks_up) and not task.has_facts:
                needs = "shares its facts out" if holders else "looks facts up"
                raise ValueError(f"{needs}, and task.name {task.name} has none")
        return team

    @field_validator("reward")
    @classmethod
    def _knows_the_roles(cls, reward: RewardSettings, info: ValidationInfo) -> RewardSettings:
        roles = info.data["protocol"].roles if "protocol" in info.data else tuple(reward.schemas)
        if info.data.get("team"):
            roles = tuple(info.data["team"]["roles"])
        where = "team" if info.data.get("team") else "protocol"
        for role in reward.schemas:
            if role not in roles:
                raise ValueError(
                    f"schemas has a schema for {role}, who has no part in the {where}; {near_names(role, roles)}"
                )
        return reward

    @property
    def uses(self) -> tuple[str, ...]:
        """The functions of a plugin that it needs, by their names; `score` is used where there is one."""
        steps = (self.team or {}).get("steps", {}).values()
        needs = {
            "questions": self.task.name == "plugin",
            "score": self.task.code is not None and "score" in self.task.code.offers,
            "reward": self.reward.plugin_weight > 0,
            "tool": any(step.get("tool") == "plugin" for step in steps),
        }
        return tuple(name for name, needed in needs.items() if needed)

    def with_code(self, code: Plugin | None) -> Self:
        """The same recipe with its plugin at hand. Raises ConfigError where it needs a function that is not there."""
        for name in self.uses:
            if code is None:
                hint = "plugin: FILE.py, a file in the recipe's folder (docs/plugins.md)"
                raise ConfigError(f"{_USED_BY[name]} needs the function {name} of a plugin", hint=hint)
            if name not in code.offers:
                what = f"{_USED_BY[name]} needs a function {name}, which is not in the plugin"
                raise ConfigError(what, where=code.path)
        task = self.task.model_copy()
        task._code = code
        return self.model_copy(update={"task": task})

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values, for a manifest; `from_dict` reads them back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object) -> Self:
        """The recipe that `to_dict` wrote; `where` names its source. Raises ConfigError."""
        mistakes: list[Mistake] = []
        layer = flatten(values, _RECIPE_KEYS, lambda _: str(where), mistakes, advice=_recipe_advice)
        return _checked(cls, layer, str(where), mistakes)


def _expand(path: str) -> str:
    return os.path.expanduser(path)


class Machine(_Settings):
    """What differs from one machine to the next and leaves the science alone."""

    run_folder: Annotated[PathText, AfterValidator(_expand)] = Field("runs", description="Where runs are kept")
    models: dict[str, Annotated[PathText, AfterValidator(_expand)]] = Field(
        {}, description="Names for model folders, usable as model.name in a recipe"
    )
    threads: Annotated[int, Field(ge=1, le=1_024)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto: measured at the start"
    )
    max_batch_tokens: TokenCount | Literal["auto"] = Field("auto", description="Tokens of one batch while sampling")
    micro_batch: Count = Field(16, description="Training examples held in memory at once")
    max_cache_gib: Gib | Literal["auto"] = Field(
        "auto", description="Memory for attention states that may be of use again; auto: what sampling leaves"
    )
    max_vram_gib: Annotated[float, Field(gt=0, le=1_000_000)] | Literal["auto"] = Field(
        "auto", description="GPU memory a run may take; auto: what the card has"
    )
    backend: Literal["auto", "transformers"] = Field(
        "auto", description="What loads and trains the model; auto: transformers (docs/gpu.md says why not Unsloth)"
    )
    offline: bool = Field(False, description="Never ask the network for a model")
    allow_code: bool = Field(
        False, description="Run the programs that a model writes, walled in, where a recipe asks for it (Linux only)"
    )
    colour: Literal["auto", "always", "never"] = Field("auto", description="Colours in the terminal")

    @field_validator("backend", mode="before")
    @classmethod
    def _reuses_states(cls, backend: object) -> object:
        if backend == "unsloth":
            raise ValueError("cannot be unsloth, which does not extend the attention states it is given; use auto")
        return backend


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe and where it comes from.

    name: the file's stem. variants: the chosen ones, in order; available: all that the file offers. origins: for each
    dotted key its file and line, `command line`, `preset NAME`, or `default`.
    """

    recipe: Recipe
    name: str
    variants: tuple[str, ...]
    available: tuple[str, ...]
    path: Path
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the reference table. default: as written in a file, None when the key must be given."""

    path: str
    default: str | None
    description: str


def load_recipe(source: str | Path, *, overrides: Sequence[str] = (), variants: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe in a file, or the shipped one of that name, with variants and `key.sub=value` overrides laid over it.

    variants: names, also several in one string with commas between. Raises ConfigError with every mistake found.
    """
    path = _find_recipe(source)
    document = strict_yaml.load(_read(path))
    mistakes = [Mistake(_at(path, m.line), ".".join(m.path), m.what) for m in document.mistakes]
    overriding = _overrides(overrides, mistakes)
    if document.value is None:
        raise mistaken(mistakes)

    def origin(keys: tuple[str, ...]) -> str:
        return _at(path, document.lines.get(keys))

    # a section whose every line is commented out is null
    values = {key: value for key, value in document.value.items() if value is not None or not _RECIPE_KEYS.get(key)}
    blocks = variant_layers(values.pop("variants", None), _RECIPE_KEYS, origin, mistakes, advice=_recipe_advice)
    base = flatten(values, _RECIPE_KEYS, origin, mistakes, advice=_recipe_advice)
    _resolve_team(base, origin, ("team",), mistakes)
    adapters = overriding.pop(_ADAPTERS, None)
    _resolve_team(overriding, lambda _: COMMAND_LINE, ("team",), mistakes)
    for name, block in blocks.items():
        _resolve_team(block, origin, ("variants", name, "team"), mistakes)
    named = (name.strip() for names in variants for name in names.split(","))
    chosen = tuple(dict.fromkeys(name for name in named if name))
    for name in chosen:
        if name not in blocks:
            what = f"no such variant; {near_names(name, [*blocks])}"
            mistakes.append(Mistake(COMMAND_LINE, f"--variant {name}", what))
    layer = _on_preset(base | combine([blocks[name] for name in chosen if name in blocks], mistakes) | overriding)
    if adapters is not None:
        _set_adapters(layer, adapters, mistakes)
    for block in blocks.values():  # a variant that nobody chose may be wrong too
        mistakes += [
            wrong for wrong in _validated(Recipe, _on_preset(base | block), str(path))[1] if wrong.path in block
        ]
    recipe = _checked(Recipe, layer, str(path), mistakes)
    origins = {key.path: layer[key.path].origin if key.path in layer else "default" for key in reference(Recipe)}
    _refuse_idle(recipe, origins, path)
    recipe = recipe.with_code(load_plugin(path, recipe.plugin) if recipe.plugin else None)
    return LoadedRecipe(recipe, path.stem, chosen, tuple(blocks), path, origins)


def _resolve_team(layer: Layer, at: At, above: tuple[str, ...], mistakes: list[Mistake]) -> None:
    """Puts the keys of a team in the place of its name; one that is none is taken out, its mistakes being told."""
    stated = layer.pop("team", None)
    if stated is None or stated.value is None:
        return
    beside = "is not read beside a team, which says who speaks and when"
    mistakes += [Mistake(one.origin, key, beside) for key, one in layer.items() if key.startswith("protocol.")]
    team = teams.resolved(stated.value, at, mistakes, above=above)
    if team is not None:
        layer["team"] = Setting(team, stated.origin)


def _set_adapters(layer: Layer, adapters: Setting, mistakes: list[Mistake]) -> None:
    """Puts other adapters into the layer's team."""
    if "team" not in layer:
        mistakes.append(Mistake(adapters.origin, _ADAPTERS, "there is no team that could have them; add team=exchange"))
        return
    changed = {**layer["team"].value, "adapters": adapters.value}
    team = teams.resolved(changed, lambda _: adapters.origin, mistakes, above=("team",))
    if team is not None:
        layer["team"] = Setting(team, adapters.origin)


def _refuse_idle(recipe: Recipe, origins: Mapping[str, str], path: Path) -> None:
    """ConfigError for what somebody set to another value than the default, and nothing would read."""
    values = recipe.to_dict()
    defaults = {key.path: json.loads(key.default) for key in reference() if key.default is not None}
    written = [key for key, origin in origins.items() if origin != "default" and not origin.startswith(_FROM_PRESET)]
    stated = [key for key in written if _at_key(values, key) != defaults.get(key)]
    wrong = [Mistake(origins[key] if key in written else str(path), key, why) for key, why in idle(values, stated)]
    if wrong:
        raise mistaken(wrong)


def _at_key(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values[part]
    return values


def _on_preset(layer: Layer) -> Layer:
    """The layer over the preset that it names, if it names one; a wrong name is left for the schema to refuse."""
    name, task, schedule = (layer[key].value if key in layer else None for key in ("preset", "task.name", "schedule"))
    if not isinstance(name, str) or name not in presets.PRESETS:
        return layer
    values = presets.PRESETS[name](task, schedule)
    return {key: Setting(value, _FROM_PRESET + name) for key, value in values.items()} | layer


def load_machine(path: Path | None = None) -> Machine:
    """The machine settings from `path`, else from where `find_machine_file` looks, else the defaults.

    Raises ConfigError with every mistake found.
    """
    found = path or find_machine_file()
    if found is None:
        return Machine()
    text = _read(found)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ConfigError(f"not valid TOML: {error}", where=found) from None
    mistakes: list[Mistake] = []
    layer = flatten(
        values, _MACHINE_KEYS, lambda keys: _at(found, _toml_line(text, keys[0])), mistakes, advice=_machine_advice
    )
    return _checked(Machine, layer, str(found), mistakes)


def find_machine_file() -> Path | None:
    """`optima_lite.toml` in the working folder, else in the user's config folder, else None."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or _expand("~/.config"))
    places = (Path(MACHINE_FILE), home / "optima_lite" / MACHINE_FILE)
    return next((place for place in places if os.path.isfile(place)), None)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    try:
        folder = Path(str(importlib.resources.files("optima_lite.recipes")))
    except ModuleNotFoundError:  # a source tree that is not installed
        folder = Path(__file__).parents[2] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def reference(schema: type[BaseModel] = Recipe, *, prefix: str = "") -> Iterator[Key]:
    """Every key of a schema with its default and description, in the order of the schema."""
    for name, field in schema.model_fields.items():
        if section := _section(schema, name):
            yield from reference(section, prefix=f"{prefix}{name}.")
        else:
            default = None if field.is_required() else json.dumps(field.default, ensure_ascii=False)
            yield Key(prefix + name, default, field.description or "")


def _section(schema: type[BaseModel], name: str) -> type[BaseModel] | None:
    kind = schema.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _tree(schema: type[BaseModel]) -> KeyTree:
    sections = {name: _section(schema, name) for name in schema.model_fields}
    return {name: _tree(section) if section else None for name, section in sections.items()}


_RECIPE_KEYS, _MACHINE_KEYS = _tree(Recipe), _tree(Machine)


def _example_toml() -> str:
    keys = {key.path: key for key in reference(Machine)}
    models = keys.pop("models")
    lines = [
        "# The machine that optima-lite runs on; what a run learns is in the recipe. Every line is optional and shows",
        f"# the default. Read from --config, else ./{MACHINE_FILE}, else ~/.config/optima_lite/{MACHINE_FILE}.",
    ]
    for key in keys.values():
        lines += ["", f"# {key.description}", f"# {key.path} = {key.default}"]
    lines += ["", f"# {models.description}", "# [models]", '# llama3 = "~/models/Meta-Llama-3-8B-Instruct"']
    return "\n".join(lines) + "\n"


EXAMPLE_TOML = _example_toml()


def _find_recipe(source: str | Path) -> Path:
    path = Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    if os.path.isdir(path):
        raise ConfigError("a folder, not a recipe", where=path, hint="give the recipe's YAML file")
    beside = [str(file) for file in sorted(path.parent.glob("*.y*ml"))] if os.path.isdir(path.parent) else []
    name = str(source)[:LONGEST_LINE]
    near = difflib.get_close_matches(name, [*shipped, *beside]) or difflib.get_close_matches(path.stem[:100], shipped)
    hint = " or ".join(near) if near else f"a path, or a shipped recipe: {', '.join(shipped)}"
    raise ConfigError("no such recipe", where=cut(source), hint=hint)


def _read(path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError("not a file", where=path)
        if about.st_size > _LARGEST_FILE:
            raise ConfigError(f"larger than {_LARGEST_FILE // 1000} kB, so it holds no settings", where=path)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("not a text file in UTF-8", where=path, hint="save it as UTF-8") from error
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=path) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=cut(path)) from error
    except ValueError as error:
        raise ConfigError("no file can have this name", where=cut(path)) from error


def _at(path: Path, line: int | None) -> str:
    return f"{path}:{line}" if line else str(path)


def _toml_line(text: str, key: str) -> int | None:
    """Line of a top-level key or table; tomllib does not keep it."""
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(key)}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def _overrides(texts: Sequence[str], mistakes: list[Mistake]) -> Layer:
    layer: Layer = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if len(text) > _LARGEST_FILE:
            mistakes.append(Mistake(COMMAND_LINE, text, "too long for a setting"))
            continue
        if not (equals and all(part.strip() for part in key.split("."))) or key.count(".") > 10:
            mistakes.append(Mistake(COMMAND_LINE, text, "not of the form key.sub=value"))
            continue
        new = _override(key.strip(), value, mistakes)
        mistakes += [Mistake(COMMAND_LINE, repeated, "given twice") for repeated in new if repeated in layer]
        layer |= new
    return layer


def _override(key: str, text: str, mistakes: list[Mistake]) -> Layer:
    document = strict_yaml.load_value(text)
    if document.mistakes:
        mistakes += [Mistake(COMMAND_LINE, key, f"{m.what}; quote the value twice") for m in document.mistakes]
        return {}
    parts = key.split(".")
    if parts[:2] == ["reward", "schemas"] and parts[2:]:  # it would take the place of the other roles' schemas
        mistakes.append(Mistake(COMMAND_LINE, key, "the schemas are set all at once: reward.schemas='{Alice: {...}}'"))
        return {}
    values: Any = document.value
    for part in reversed(parts):
        values = {part: values}
    if key == _ADAPTERS:  # of whatever team the recipe has
        return {key: Setting(document.value, COMMAND_LINE)}

    def whole(dotted: str) -> str:  # an unknown section is reported with the key that was meant to be in it
        return key if key.startswith(dotted) else dotted

    wrong: list[Mistake] = []
    layer = flatten(
        values, _RECIPE_KEYS, lambda _: COMMAND_LINE, wrong, advice=lambda dotted: _recipe_advice(whole(dotted))
    )
    mistakes += [Mistake(m.origin, whole(m.path), m.what) for m in wrong]
    return layer


def _recipe_advice(dotted: str) -> str:
    name = dotted.rpartition(".")[2]
    if name in _MACHINE_KEYS:
        return f"; {name} belongs in {MACHINE_FILE}"
    if dotted.startswith("variants"):
        return "; choose variants with --variant"
    near = nearest(dotted, _RECIPE_KEYS)
    return f"; did you mean {near}?" if near else ""


def _machine_advice(dotted: str) -> str:
    if dotted in _RECIPE_KEYS:
        return "; it belongs in the recipe"
    near = nearest(dotted, _MACHINE_KEYS)
    if near:
        return f"; did you mean {near}?"
    near = nearest(dotted, _RECIPE_KEYS)
    return f"; {near} belongs in the recipe" if near else ""


def _checked(schema: type[Settings], layer: Layer, source: str, mistakes: Sequence[Mistake]) -> Settings:
    """The settings; or all mistakes, those given and those of the values, as one ConfigError."""
    settings, wrong = _validated(schema, layer, source)
    if settings is None or mistakes:
        raise mistaken([*mistakes, *wrong])
    return settings


def _validated(schema: type[Settings], layer: Layer, source: str) -> tuple[Settings | None, list[Mistake]]:
    try:
        return schema.model_validate(nested(layer, _tree(schema))), []
    except ValidationError as error:
        reasons: dict[tuple[str, str], list[str]] = {}  # `int | "auto"` gives two for one value
        for detail in error.errors()[: 10 * MOST_LINES]:  # a value may be a list of thousands of wrong names
            reasons.setdefault(_located(schema, detail["loc"]), []).append(reason(detail))
    return None, [
        Mistake(layer[dotted].origin if dotted in layer else source, dotted, item + either(texts))
        for (dotted, item), texts in reasons.items()
    ]


def _located(schema: type[BaseModel], location: Sequence[str | int]) -> tuple[str, str]:
    """The dotted key that pydantic's location leads to, and which item of its value is meant."""
    keys: list[str] = []
    section: type[BaseModel] | None = schema
    while section and len(keys) < len(location):
        keys.append(str(location[len(keys)]))
        section = _section(section, keys[-1])
    inside = location[len(keys) :]
    item = "".join(f"item {part + 1} " for part in inside if isinstance(part, int))
    if keys == ["models"] and inside:  # the one table; elsewhere pydantic names the sides of a union here
        item = f"{inside[0]} "
    return ".".join(keys), item
