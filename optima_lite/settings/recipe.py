"""The recipe: everything that decides a run's results. Every key, its default, its range.

Its section `task` has a file of its own. What else a recipe's file may hold, such as variants, is read by `config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from ..errors import ConfigError
from . import teams
from .keys import PathText, Section, checked, key_tree
from .layers import Mistake, flatten, near_names, nearest
from .machine import MACHINE_FILE, MACHINE_KEYS
from .market import MarketSettings
from .plugin import Plugin
from .prompt_search import PromptSearchSettings
from .reinforce import ReinforceSettings
from .sections import (
    DpoSettings,
    EvaluationSettings,
    ModelSettings,
    PresetName,
    PromptSettings,
    ProtocolSettings,
    RewardSettings,
    SamplingSettings,
    SearchSettings,
    SelectionSettings,
    TrainingSettings,
)
from .task import CODE_TASKS, TaskSettings
from .teacher import TeacherSettings
from .workflow import QUESTION, TASK

_USED_BY = {
    "questions": "task.name plugin",
    "reward": "reward.plugin_weight",
    "tool": "a step or an agent with tool: plugin",
}


class Recipe(Section):
    """Everything that decides a run's results."""

    seed: int = Field(0, ge=0, lt=2**32, description="Varies sampling and training; held-out questions stay fixed")
    preset: PresetName | None = Field(
        None,
        description="Defaults to start from; official: as in the authors' code; market_...: a published domain of EoM; "
        "null: as in the paper",
    )
    method: Literal["optima", "reinforce", "prompts", "market"] = Field(
        "optima",
        description="What improves the team; optima: its weights learn from ranked dialogues and trees; reinforce: "
        "from the rewards of their messages; prompts: the best prompts are chosen; market: agents bid for the right to "
        "act, and the poor go (docs/market.md)",
    )
    start: PathText | None = Field(
        None, description="A run, by name or folder, with whose trained adapters and chosen prompts this one begins"
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
    teacher: TeacherSettings = TeacherSettings()
    dpo: DpoSettings = DpoSettings()
    reinforce: ReinforceSettings = ReinforceSettings()
    prompt_search: PromptSearchSettings = PromptSearchSettings()
    schedule: Literal["isft", "idpo", "isft-dpo"] = Field(
        "isft", description="Steps of an iteration: imitation, preference (after imitation in iteration 0), or both"
    )
    evaluation: EvaluationSettings = EvaluationSettings()
    market: MarketSettings = Field(MarketSettings(), validate_default=True)
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
            if all(role.spoken_by for role in workflow.roles) and info.data.get("method") in ("optima", "reinforce"):
                raise ValueError(
                    "is spoken by others in all its roles, so that there is nothing to train; leave a role to the "
                    "model, or compare with such a team: optima-lite eval RUN --spoken-by NAME"
                )
            task = info.data["task"]
            if any(step.speaker == "run_tests" for step in workflow.steps) and not task.runs_code:
                raise ValueError(f"runs tests, and task.name {task.name} has none; {' and '.join(CODE_TASKS)} have")
            looks_up = {QUESTION, TASK} & {*workflow.indexes}
            if (holders or looks_up) and not task.has_facts:
                needs = "shares its facts out" if holders else "looks facts up"
                raise ValueError(f"{needs}, and task.name {task.name} has none")
            if workflow.streams and info.data.get("method") == "reinforce":
                raise ValueError("hands on steps (transfer: stream), and method reinforce learns from whole messages")
            if TASK in looks_up and task.endless:
                raise ValueError(
                    f"looks facts up in the whole task, and task.name {task.name} makes questions without end"
                )
        return team

    @field_validator("schedule")
    @classmethod
    def _compares_whole_messages(cls, schedule: str, info: ValidationInfo) -> str:
        streams = (info.data.get("team") or {}).get("transfer") == "stream"
        if streams and schedule != "isft":
            raise ValueError(
                f"{schedule} prefers whole messages to others, and team.transfer is stream; isft can learn"
            )
        return schedule

    @field_validator("teacher")
    @classmethod
    def _teaches_whole_messages(cls, teacher: TeacherSettings, info: ValidationInfo) -> TeacherSettings:
        team = info.data.get("team") or {}
        if teacher.teaches and (team.get("transfer") == "stream" or team.get("stream")):
            raise ValueError("shows whole messages, and those of the team fall into steps (stream)")
        return teacher

    @field_validator("market")
    @classmethod
    def _suits_the_task(cls, market: MarketSettings, info: ValidationInfo) -> MarketSettings:
        if info.data.get("method") != "market" or "task" not in info.data or "prompts" not in info.data:
            return market
        task, agents = info.data["task"], market.founders if market.agents else ()
        tools = {agent.tool for agent in agents}
        if not agents:
            raise ValueError("has no agents, and method market needs some: market.agents (docs/market.md)")
        if unprompted := [agent.name for agent in agents if not agent.prompt and not info.data["prompts"].system]:
            raise ValueError(f"has no prompt for {', '.join(unprompted)}; give one to each agent, or prompts.system")
        if "run_tests" in tools and not task.runs_code:
            raise ValueError(f"runs tests, and task.name {task.name} has none; {' and '.join(CODE_TASKS)} have")
        if not task.has_facts and ("retrieve" in tools or any(agent.facts == "share" for agent in agents)):
            raise ValueError(f"deals facts out or looks them up, and task.name {task.name} has none")
        return market

    @field_validator("prompts")
    @classmethod
    def _tells_the_roles(cls, prompts: PromptSettings, info: ValidationInfo) -> PromptSettings:
        if isinstance(prompts.system, dict):
            _require_roles("system has a prompt", [*prompts.system], info)
        return prompts

    @field_validator("reward")
    @classmethod
    def _knows_the_roles(cls, reward: RewardSettings, info: ValidationInfo) -> RewardSettings:
        _require_roles("schemas has a schema", [*reward.schemas], info)
        return reward

    @property
    def iterations(self) -> int:
        """How many times the team is improved and evaluated: a search for prompts is one."""
        return 1 if self.method == "prompts" else self.training.iterations

    @property
    def work(self) -> str:
        """What the method plays out, in words."""
        if self.method == "prompts":
            how = self.prompt_search
            evaluations, questions = _counted(how.evaluations, "evaluation"), _counted(how.questions, "question")
            return f"{evaluations} of {questions} x {_counted(how.repeats, 'dialogue')}"
        if self.method == "market":
            played = _counted(self.training.questions, "episode")
        else:
            played = f"{_counted(self.training.questions, 'question')} x {self.sampling.rollouts} dialogues"
        return f"{_counted(self.training.iterations, 'iteration')} of {played}"

    @property
    def uses(self) -> tuple[str, ...]:
        """The functions of a plugin that it needs, by their names; `score` is used where there is one."""
        steps = (self.team or {}).get("steps", {}).values()
        needs = {
            "questions": self.task.name == "plugin",
            "score": self.task.code is not None and "score" in self.task.code.offers,
            "reward": self.reward.plugin_weight > 0,
            "tool": any(step.get("tool") == "plugin" for step in (*steps, *self.market.agents.values())),
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
        return self.model_copy(update={"task": self.task.with_code(code)})

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values, for a manifest; `from_dict` reads them back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object) -> Self:
        """The recipe that `to_dict` wrote; `where` names its source. Raises ConfigError."""
        mistakes: list[Mistake] = []
        layer = flatten(values, RECIPE_KEYS, lambda _: str(where), mistakes, advice=recipe_advice)
        return checked(cls, layer, str(where), mistakes)


def _require_roles(what: str, named: Sequence[str], info: ValidationInfo) -> None:
    """ValueError for a name that is no role of the team, or of the protocol."""
    roles = info.data["protocol"].roles if "protocol" in info.data else named
    if info.data.get("team"):
        roles = tuple(info.data["team"]["roles"])
    where = "team" if info.data.get("team") else "protocol"
    for role in named:
        if role not in roles:
            raise ValueError(f"{what} for {role}, who has no part in the {where}; {near_names(role, roles)}")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


RECIPE_KEYS = key_tree(Recipe)


def recipe_advice(dotted: str) -> str:
    """What to do about a key that no recipe has, as the end of a sentence; may be empty."""
    name = dotted.rpartition(".")[2]
    if name in MACHINE_KEYS:
        return f"; {name} belongs in {MACHINE_FILE}"
    if dotted.startswith("variants"):
        return "; choose variants with --variant"
    near = nearest(dotted, RECIPE_KEYS)
    return f"; did you mean {near}?" if near else ""
