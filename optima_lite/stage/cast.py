"""The agents of a recipe, ready to talk: its model loaded, its roles cast, its machine's limits settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import RunError
from ..learn import reward
from ..learn.bidders import Bidders
from ..learn.elsewhere import Elsewhere
from ..learn.rollout import Agents, Speakers
from ..model.generate import Generator, fastest_threads
from ..model.loading import load
from ..model.memory import planned
from ..model.meter import Meter
from ..model.policy import Policy
from ..model.render import Renderer
from ..model.resources import keep_freed_memory
from ..model.room import available
from ..model.sampling import Sampling
from ..model.selftest import agreement
from ..records import Question
from ..runs.chosen import BEGUN, chosen, has_adapters, read_prompts, require_roles
from ..runs.folder import POPULATION, STARTED, RunFolder, born_with, stage_name
from ..runs.opened import require_iteration
from ..settings import plugin, teams
from ..settings.agents import Agent
from ..settings.machine import Machine, Server
from ..settings.recipe import Recipe
from ..settings.workflow import QUESTION, SHARED, Transfer, Workflow, speaking_with, spoken, told
from ..tasks import answers
from ..tasks.answers import Scoring
from ..tasks.questions import facts
from ..team.domains import with_prompts
from ..team.retrieval import index_of
from ..team.talks import adapters_of, founders_of, solo, team_of
from .elsewhere import elsewhere, models, require_same_models, require_speakers

# What comes from the other recipe.
TRANSFERRED = ("task", "protocol", "team", "prompts", "sampling", "evaluation", "plugin")
OWN = ("score", "reward", "tool")  # of a plugin's functions those that agents use
Settle = Callable[[str, Callable[[], int]], int]
"""The value of a named limit: what a run has settled on before, else what the callable decides."""


LIMITS = (
    *("threads", "max_batch_tokens", "max_cache_bytes", "batches_fail", "cache_fails"),
    *("micro_batch", "training_threads", "chunk", "parts"),
)
"""The limits that are settled, by their names in the manifest."""
CHUNK = 400  # dialogues written at a time
SMALL_CHUNK = 1200  # by a model that has said them in seconds
_SMALL = 20_000_000  # parameters up to which a model keeps no more than one core busy


@dataclass(frozen=True)
class Cast:
    """team: the agents that are trained; the single one where it is trained as a control. single: one agent with all
    the facts, to compare with. Both are one policy. micro_batch: training examples held in memory at once.
    start: the folder of the adapters and prompts that the run begins with; None for fresh ones and the recipe's. chunk:
    dialogues written at a time, the most that a kill can cost. parts: what a chunk is worked on in; two where the model
    is small, so that another process can take over one of them. training_threads: of the trainers alone. settled: the
    limits that results depend on, by their names in the manifest."""

    recipe: Recipe
    policy: Policy
    team: Agents
    single: Agents
    micro_batch: int
    start: Path | None = None
    chunk: int = CHUNK
    parts: int = 1
    training_threads: int = 1
    settled: Mapping[str, int] = field(default_factory=dict)

    def agents(self, speakers: Speakers) -> Agents:
        """These agents as somebody else describes them, with what this process holds."""
        if isinstance(self.team, Bidders):
            bidders = self.team.of(speakers.living) if speakers.living else self.single
            return replace(bidders, layout=speakers.layout)
        return replace(self.team, workflow=speakers.workflow, layout=speakers.layout)

    def begin(self) -> None:
        """The policy speaks as at the beginning of the run. Raises ModelError for adapters that do not fit."""
        self.policy.restart(seed=self.recipe.seed)
        if self.start is not None and has_adapters(self.start):
            self.policy.load_adapter(self.start)

    @property
    def meter(self) -> Meter:
        """What measures the model's activities."""
        return self.team.generator.meter

    @property
    def formats(self) -> tuple[str, ...]:
        """The recipe's format pool; none where no role of its team takes formats."""
        taken = any(role.formats for role in self.team.workflow.roles)
        return self.recipe.prompts.formats if taken else ()

    def sampling(self, agents: Agents, *, greedy: bool = False, pool: bool = False) -> Sampling:
        """The recipe's sampling. pool: with the temperature of iteration 0. The one message of a single agent may be as
        long as a whole dialogue of the team."""
        settings = self.recipe.sampling
        temperature = (settings.pool_temperature if pool else None) or settings.temperature
        messages = team_of(self.recipe).max_steps if agents.workflow.max_steps == 1 else 1
        return Sampling(0.0 if greedy else temperature, settings.top_p, settings.max_turn_tokens * messages)

    def fit(self, agents: Agents, questions: Sequence[Question]) -> tuple[list[Question], int]:
        """The questions with facts that fit the model (see `Agents.fit`), and how many had to be shortened."""
        fitted = agents.fit(questions, max_turn_tokens=self.sampling(agents).max_new_tokens)
        return fitted, sum(before is not after for before, after in zip(questions, fitted, strict=True))


def assemble(
    recipe: Recipe,
    *,
    machine: Machine,
    settle: Settle,
    notify: Callable[[str], None] = lambda text: None,
    start: Path | None = None,
    run: Path | None = None,
) -> Cast:
    """Loads the model with fresh adapters, or what is in the folder `start`. On the CPU threads, batch size and the
    room for the cache are settled, because results depend on them; on a GPU each start takes what the card has free,
    and nothing is settled.

    notify: is told, in a sentence, what did not go as planned: rows that are kept short, the self-test, memory that ran
    out. run: the folder that keeps what models elsewhere say for roles.

    Raises ModelError when the model cannot be loaded, ConfigError when the task's metric or the reward needs an
    extra, or would run code that may not be run here, DataError when the team looks facts up where there are none.
    """
    answers.require(recipe.task.metric, allow_code=machine.allow_code)
    reward.require(recipe.reward)
    policy = load(recipe.model, machine=machine, seed=recipe.seed, adapters=adapters_of(recipe))
    settled: dict[str, int] = {}
    settle = _noting(settling(settle, on_card=policy.device.type == "cuda"), settled)
    small = is_small(policy)
    torch.set_num_threads(
        settle("threads", lambda: _given(machine.threads) or (1 if small else fastest_threads(policy)))
    )
    if small:
        keep_freed_memory()
    free = available(policy, machine=machine)
    limits, _ = planned(recipe, machine, policy.shape, policy.setup, row_tokens=policy.max_length, room=free)
    settle("max_batch_tokens", lambda: limits.batch_tokens)
    settle("max_cache_bytes", lambda: limits.cache_bytes)
    for note in policy.notes:
        notify(note)
    agrees = agreement(policy)
    if not agrees.batches:
        settle("batches_fail", lambda: 1)  # a token budget of 1 makes every batch a single row
        notify(f"left-padded batches change what this model says ({agrees.furthest:.3f} nats): rows are computed alone")
    if not agrees.cache:
        settle("cache_fails", lambda: 0)
        notify(f"reused attention states change what this model says ({agrees.furthest:.3f} nats): the cache stays off")
    settle("micro_batch", lambda: limits.micro_batch)
    # As many on a single core, too: how the work is cut up shows in the last bits.
    settle("training_threads", lambda: _given(machine.threads) or (2 if small else torch.get_num_threads()))
    given = machine.cluster.dialogues
    settle("chunk", lambda: given or (SMALL_CHUNK if small else CHUNK))
    settle("parts", lambda: 2 if small and not given else 1)
    cast = _put_together(recipe, machine, policy, settled, start=start, notify=notify)
    cast = replace(cast, team=replace(cast.team, elsewhere=_elsewhere(cast.team, machine, run, notify)))
    if start is not None:
        cast.begin()
    return cast


def _elsewhere(agents: Agents, machine: Machine, run: Path | None, notify: Callable[[str], None]) -> Elsewhere:
    def count(text: str) -> int:
        return len(agents.renderer.encode(text))

    return elsewhere(agents.workflow.elsewhere, machine, run, count=count, notify=notify)


def outline(recipe: Recipe, *, machine: Machine, settled: Mapping[str, int], start: Path | None = None) -> Cast:
    """The agents of a recipe without the weights of their model: they know what everybody would read, and can say
    nothing. settled: by somebody who has assembled them. Raises as `assemble`."""
    policy = load(recipe.model, machine=machine, seed=recipe.seed, adapters=adapters_of(recipe), weights=False)
    return _put_together(recipe, machine, policy, settled, start=start, notify=lambda text: None)


def _generator(policy: Policy, server: Server, **how: Any) -> Generator:
    """What samples: this process, unless the machine file names a server."""
    if not server.urls:
        return Generator(policy, **how)
    from ..model.endpoint import Endpoint
    from ..model.remote import Remote

    endpoint = Endpoint(server.urls, server.key_env, server.seconds, server.at_once)
    return Remote(policy, endpoint=endpoint, base=server.base, adapters=Path(server.adapters), **how)


def _put_together(
    recipe: Recipe,
    machine: Machine,
    policy: Policy,
    settled: Mapping[str, int],
    *,
    start: Path | None,
    notify: Callable[[str], None],
) -> Cast:
    workflow, alone = workflows(recipe)
    budget = settled.get("batches_fail", settled["max_batch_tokens"])
    room = settled.get("cache_fails", settled["max_cache_bytes"])
    generator = _generator(policy, machine.server, max_batch_tokens=budget, max_cache_bytes=room, notify=notify)
    renderer = Renderer(policy.tokenizer, end_ids=policy.end_ids)
    score, own, tool = (getattr(recipe.task.code, name) if name in recipe.uses else None for name in OWN)
    scoring = Scoring(
        recipe.task.metric, policy.tokenizer.tokenize if recipe.task.scoring == "official" else None, score
    )
    indexes = {name: index_of(facts(recipe.task, name)) for name in workflow.indexes if name != QUESTION}
    if start is not None:
        workflow = with_prompts(workflow, read_prompts(start / BEGUN))
    agents = (generator, renderer, workflow, scoring, recipe.prompts.layout, own, tool, indexes)
    if recipe.method == "market":
        team: Agents = Bidders(*agents, living=founders_of(recipe), rules=recipe.market)
    else:
        team = Agents(*agents)
    single = Agents(generator, renderer, alone, scoring, own=own)
    micro_batch, trainers = settled["micro_batch"], settled["training_threads"]
    chunk, parts = settled["chunk"], settled["parts"]
    return Cast(recipe, policy, team, single, micro_batch, start, chunk, parts, trainers, settled)


def is_small(policy: Policy) -> bool:
    """Whether the model computes on the CPU and is too small to keep several cores busy by itself."""
    shape = policy.shape
    on_cpu = policy.device.type == "cpu" and not policy.setup.quantised
    return on_cpu and shape.linear_parameters + shape.other_parameters <= _SMALL


def workflows(recipe: Recipe) -> tuple[Workflow, Workflow]:
    """A recipe's team, and the single agent that it is compared with, in the recipe's own words where it has some.

    Who is not of the team speaks with its first adapter, which then holds what the team has not learnt."""
    prompts = recipe.prompts
    team = team_of(recipe)
    if recipe.method != "market":  # whose agents have prompts of their own
        team = told(team, prompts.system or None)
    alone = told(solo(metric=recipe.task.metric), prompts.solo_system or None)
    return team, speaking_with(alone, adapters_of(recipe)[0])


def settling(settle: Settle, *, on_card: bool) -> Settle:
    """How the limits are found: as the run has settled them or, on a GPU, anew at each start. There no result is the
    same to the last bit anyway, and a run would be bound to what its first card had free at that moment."""
    return (lambda key, decide: decide()) if on_card else settle


def _noting(settle: Settle, settled: dict[str, int]) -> Settle:
    """Settles, and enters what was settled."""

    def noted(key: str, decide: Callable[[], int]) -> int:
        settled[key] = settle(key, decide)
        return settled[key]

    return noted


@dataclass(frozen=True, slots=True)
class Spoken:
    """A team that is spoken by one model elsewhere, to compare with. name, model: of who speaks."""

    name: str
    model: str
    agents: Agents


def spoken_elsewhere(
    cast: Cast, name: str, *, machine: Machine, run: RunFolder, notify: Callable[[str], None]
) -> Spoken:
    """The team as a run's recipe has it, every role of which one speaker of the machine file speaks; its replies are
    kept in the run.

    Raises ConfigError for a speaker that there is not, RunError for a team whose messages are not said whole.
    """
    team = workflows(cast.recipe)[0]
    if team.auctioned or team.stream:
        what = "the agents of a market" if team.auctioned else "a team whose messages fall into steps"
        raise RunError(f"{what} cannot be spoken by {name}, who says whole messages in turn", where=run.folder)
    require_speakers([name], machine, where="spoken_by")
    agents = replace(cast.team, workflow=spoken(team, name))
    if name not in agents.elsewhere:  # else it is the same one, whose ceilings are on all that it says
        agents = replace(agents, elsewhere=_elsewhere(agents, machine, run.folder, notify))
    return Spoken(name, machine.speakers[name].model, agents)


@dataclass(frozen=True, slots=True)
class HandingOn:
    """How messages are handed on, instead of as the recipe says. steps: of a message; None: the recipe's."""

    transfer: Transfer
    steps: int | None = None


def recall(
    run: RunFolder,
    *,
    machine: Machine,
    iteration: int | None,
    other: Recipe | None = None,
    handing_on: HandingOn | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Cast:
    """The agents of a run as they stood after an iteration, or untrained for None.

    other: a recipe whose task they meet instead, with its protocol, prompts, sampling, evaluation and plugin; the run's
    plugin then has no say in the reward. notify: as in `assemble`.

    Raises RunError for an iteration that has not been trained, ConfigError for a manifest of another version, for a
    plugin that is not what or where it was, and for a team that cannot hand its messages on as wanted.
    """
    require_iteration(run, iteration)
    adapter = None if iteration is None else run.adapter(iteration)
    recipe = Recipe.from_dict(run.manifest["recipe"], where=run.folder / "manifest.json")
    if other is not None:
        own = team_of(recipe).adapters
        others = own if recipe.method == "market" else team_of(other).adapters  # a population stays what it is
        if max(len(own), len(others)) > 1 and {*own} != {*others}:
            what = f"this run has trained {', '.join(own)}, and the other recipe's team speaks with {', '.join(others)}"
            raise RunError(what, where=run.folder, hint="a team with adapters of the same names")
        bare = {"reward": recipe.reward.model_copy(update={"plugin_weight": 0.0})}
        recipe = recipe.model_copy(update={name: getattr(other, name) for name in TRANSFERRED} | bare)
    else:
        stored = run.manifest.get("plugin")
        code = plugin.load_file(Path(stored["path"]), sha256=stored["sha256"]) if stored else None
        recipe = recipe.with_code(code)

    if handing_on is not None:
        team = teams.handing_on(recipe.team, handing_on.transfer, handing_on.steps)
        recipe = recipe.model_copy(update={"team": team})

    def settled(key: str, decide: Callable[[], int]) -> int:
        return int(run.manifest.get(key) or decide())

    names = team_of(recipe).elsewhere
    if names and other is None:
        require_speakers(names, machine)
        require_same_models(run.manifest.get("speakers") or {}, models(names, machine), where=run.folder)
    start = run.folder / STARTED
    begun = start if start.is_dir() else None
    cast = assemble(recipe, machine=machine, settle=settled, notify=notify, start=begun, run=run.folder)
    if adapter is not None:
        cast.policy.load_adapter(adapter)
    return replace(cast, team=agents_after(cast, run, iteration))


def agents_after(cast: Cast, run: RunFolder, iteration: int | None) -> Agents:
    """Who talks after an iteration, or in the beginning for None: of a market the population that came out of it, else
    the same agents, with the prompts that were in force then.

    Raises RunError where prompts were chosen for roles that are none of theirs.
    """
    if isinstance(cast.team, Bidders):
        first = founders_of(cast.recipe)
        living = first if iteration is None else run.read(stage_name(iteration, POPULATION), Agent)
        dress(cast, run, living)
        return cast.team.of(living)
    prompts = chosen(run, iteration)
    require_roles(prompts, cast.team.workflow, where=run.folder)
    return replace(cast.team, workflow=with_prompts(cast.team.workflow, prompts))


def dress(cast: Cast, run: RunFolder, agents: Sequence[Agent]) -> None:
    """From here on each of a market's agents that has an adapter of its own speaks with the weights it was born with,
    a founder with fresh ones."""
    for agent in agents:
        if agent.adapter != SHARED:
            folder = born_with(run, agent.name)
            if folder is None:
                cast.policy.restart(seed=cast.recipe.seed, names=(agent.adapter,))
            else:
                cast.policy.load_one(agent.adapter, folder)


def _given(value: int | str) -> int | None:
    return None if value == "auto" else int(value)
