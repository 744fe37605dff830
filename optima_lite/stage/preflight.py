"""`check`: what will and what won't work, and how to mend it, before anything costs time.

Everything here only looks, except for the short talk that tells the time (`pace`) and, on a GPU, the probe that tries
each phase for a moment; these load the model. Nothing is written.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from ..errors import ConfigError, DataError, OptimaError, RunError
from ..learn import reward
from ..model.families import longest_row
from ..model.hub import NotHere
from ..model.memory import GIB, OVERHEAD, Limits, Phase, Setup, adapter_bytes, forecast, of_one_batch, planned
from ..model.resources import free_memory, let_segments_grow
from ..model.shapes import Shape, known
from ..runs.demonstrations import demonstrations_of, read_demonstrations
from ..runs.live import duration
from ..runs.manifest import would_resume
from ..runs.progress import PhaseStarted
from ..settings.config import LoadedRecipe
from ..settings.machine import Cluster, Machine
from ..settings.recipe import Recipe
from ..settings.sections import ModelSettings
from ..settings.workflow import QUESTION
from ..statistics import FEWEST
from ..tasks import answers
from ..team.talks import adapters_of, team_of
from . import elsewhere
from .data import data_findings, demonstration_findings, look_up_findings
from .doctor import disk, gpu
from .engine import require_engine
from .findings import Finding, Status
from .simulation import Circumstances, simulate


def check(
    loaded: LoadedRecipe,
    plan: Sequence[PhaseStarted],
    *,
    machine: Machine,
    folder: Path,
    vram: float | None = None,
    probe: bool = True,
    gpus: int | None = None,
) -> Iterator[Finding]:
    """What a run of this recipe needs from this machine; a task file that is not named yet is a note, not a problem.

    plan: the phases of its run. vram: forecast the memory for a card of so many GiB, instead of for this machine.
    probe: load the model, let it talk to tell how long the run will take, and on a GPU measure the memory of each
    phase; not where the forecast is for another card, or something is wrong already. gpus: say also how long it would
    take so many workers that are each as fast as this machine.
    """
    recipe = loaded.recipe
    sizes = (
        f"{recipe.work} of up to {team_of(recipe).max_steps} x {recipe.sampling.max_turn_tokens} tokens; "
        f"{recipe.evaluation.questions} held-out questions"
    )
    yield Finding("recipe", Status.OK, f"{loaded.name}: {sizes}")
    if code := recipe.task.code:
        yield Finding("plugin", Status.OK, code.told(recipe.uses))
    model = _model(loaded, machine)
    yield model
    here = vram is None
    needs = [*data_findings(recipe, here=here), *look_up_findings(recipe, here=here)]
    needs += [*demonstration_findings(recipe), *_prompts(recipe)]
    needs += [*_judge(recipe), *_extras(recipe, machine), *elsewhere.findings(recipe, machine, plan)]
    yield from needs
    let_segments_grow(os.environ)  # torch reads it when the card is first looked at, and the probe needs it
    yield gpu()
    yield disk(folder)
    yield _run_folder(loaded.recipe, folder)
    if model.status is Status.PROBLEM:
        return
    probe = probe and here
    yield from _forecast(recipe, machine, vram=vram, probe=probe)
    if probe and all(need.status is not Status.PROBLEM for need in needs):
        yield from _time(recipe, machine, plan, gpus)
    elif gpus:
        known = _resting(plan, machine.cluster, workers=gpus, turns=_turns(recipe))
        wanting = "what is wanting above must be there, and fit, before a short talk can tell it"
        what = f"not known: {wanting if probe else 'a short talk tells it, which this check leaves out'}"
        yield Finding(_time_of(gpus), Status.NOTE, what + known, "docs/cluster.md has an 8B's time, on assumed rates")


def require(recipe: Recipe, *, machine: Machine) -> None:
    """Raises the OptimaError that the model's folder, the data, a missing extra or a missing permission would raise
    later; for use before a run folder is made, which would bind the run to a wrong path."""
    from ..model import checkpoint
    from ..model.hub import locate
    from ..tasks.questions import facts, questions

    source = Path(locate(recipe.model.name, machine=machine))
    if source.is_dir():
        checkpoint.read(source, weights=machine.cluster.engine == "none")  # else it is the workers who need them
    answers.require(recipe.task.metric, allow_code=machine.allow_code)
    reward.require(recipe.reward)
    require_engine(recipe, machine)
    elsewhere.require_speakers(team_of(recipe).elsewhere, machine)
    elsewhere.require_speakers(filter(None, [recipe.teacher.speaker]), machine, where="teacher.speaker")
    require_enough_to_judge(recipe)
    for split in ("train", "validation", "held_out"):
        questions(recipe.task, split, 1, seed=0)
    for index in {*team_of(recipe).indexes} - {QUESTION}:
        facts(recipe.task, index)
    if (shown := demonstrations_of(recipe)) is not None:
        read_demonstrations(shown)


def require_enough_to_judge(recipe: Recipe) -> None:
    """Raises ConfigError when steps are to be undone on the word of too few validation questions."""
    asked, undo = recipe.evaluation.validation_questions, recipe.training.on_worse
    if undo != "keep" and asked < FEWEST:
        what = f"evaluation.validation_questions is {asked}, too few to tell a worse step from bad luck, and "
        hint = f"evaluation.validation_questions={FEWEST} or more, or training.on_worse=keep"
        raise ConfigError(f"{what}training.on_worse is {undo}", hint=hint)


def _forecast(recipe: Recipe, machine: Machine, *, vram: float | None, probe: bool) -> Iterator[Finding]:
    """Memory phase by phase, the sizes that will be used, and what does not fit."""
    config = _model_config(recipe.model, machine)
    shape = Shape.from_config(config) if config else known(recipe.model.name)
    if shape is None:
        yield Finding("memory", Status.NOTE, "no forecast: the model's config.json is not here yet")
        return
    adapters = adapters_of(recipe)
    setup = _setup(recipe.model, config, gpu=vram is not None, adapters=len(adapters))
    room = _room(machine, vram)
    longest = longest_row(config)[0]
    rows = min(recipe.model.max_length or longest, longest)
    limits, phases = planned(recipe, machine, shape, setup, row_tokens=rows, room=room)
    for phase in phases:
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in phase.parts.items() if size >= GIB / 20)
        yield Finding(
            f"memory to {phase.name}",
            Status.OK if phase.total <= room else Status.PROBLEM,
            f"{_gib(phase.total)} of {_gib(room)} GiB (forecast)" + (f": {parts}" if parts else ""),
            None if phase.total <= room else _advice(recipe, machine, shape, setup, rows=rows, room=room),
        )
    if len(adapters) > 1:
        each = f"{_gib(adapter_bytes(shape, setup))} GiB each, one of them at work: {', '.join(adapters)}"
        yield Finding("adapters", Status.OK, f"{len(adapters)} of {each}")
    yield Finding(
        "batches",
        Status.OK,
        f"{limits.batch_tokens:,} tokens while sampling, {_gib(limits.cache_bytes)} GiB of attention states kept; "
        f"{limits.micro_batch} training examples at a time, of up to {rows:,} tokens",
    )
    if probe and setup.gpu and all(phase.total <= room for phase in phases):
        limits = of_one_batch(shape, setup, limits)
        names = [phase.name for phase in phases]
        yield from _probe(recipe, machine, limits, [p for p in forecast(shape, setup, limits) if p.name in names])


def _probe(recipe: Recipe, machine: Machine, limits: Limits, phases: Sequence[Phase]) -> Iterator[Finding]:
    """Every phase once on made-up rows of full length, measured beside its forecast."""
    from ..model.loading import load
    from .probe import measure

    expected = {phase.name: phase.total for phase in phases}
    try:
        policy = load(recipe.model, machine=machine, seed=0, adapters=adapters_of(recipe))
        for name, peak in measure(policy, limits, phases=[*expected]):
            off = expected[name] / peak - 1
            detail = f"{_gib(peak)} GiB at most; the forecast is {_gib(expected[name])} GiB ({off:+.0%})"
            yield Finding(f"measured: {name}", Status.OK if abs(off) <= 0.1 else Status.NOTE, detail)
    except OptimaError as error:
        yield Finding("measured", Status.PROBLEM, error.what, error.hint)


def _time(recipe: Recipe, machine: Machine, plan: Sequence[PhaseStarted], gpus: int | None) -> Iterator[Finding]:
    """How long the run will take and how much it stores, by a short talk of the untrained team."""
    from .pace import measure

    if names := elsewhere.named(recipe):
        yield Finding("time", Status.NOTE, f"not known: it is for {' and '.join(names)} to say how soon they answer")
        return
    try:
        pace = measure(recipe, plan, machine=machine)
    except (NotHere, DataError):  # the data have findings of their own
        yield Finding("time", Status.NOTE, "not known before model and questions are here: a short talk tells it")
        return
    except OptimaError as error:
        yield Finding("time", Status.PROBLEM, str(error.what), error.hint)
        return
    spoke = f"{pace.dialogues} dialogues of the untrained team, {pace.tokens:.0f} tokens each"
    stored = f"{pace.stored / 2**20:,.0f} MiB to store"
    yield Finding("time", Status.OK, f"about {duration(pace.seconds or 0.0)} here, and {stored}, by {spoke}")
    if gpus:
        detail = shared_out(pace.phases, machine.cluster, workers=gpus, turns=_turns(recipe))
        yield Finding(_time_of(gpus), Status.OK, detail)


def _turns(recipe: Recipe) -> Mapping[str, int]:
    """In how many parts, one after the other, a phase has its work: which prompts are next to be tried depends on how
    all before have done."""
    return {"search": recipe.prompt_search.evaluations - 1} if recipe.method == "prompts" else {}


def _time_of(workers: int) -> str:
    return f"time, {workers} worker{'s' * (workers > 1)}"


def shared_out(
    phases: Sequence[tuple[PhaseStarted, float]],
    cluster: Cluster,
    *,
    workers: int,
    turns: Mapping[str, int],
) -> str:
    """How long the phases of a plan would take so many workers, each as fast as this machine, in words. phases: with
    the seconds that they take one. turns: see `_turns`."""
    alone: dict[str, float] = {}
    together: dict[str, float] = {}
    for one, whole in phases:
        name, (times, pieces) = one.phase.split()[0], _cut_up(one, cluster, turns)
        seconds = times * simulate([whole / times / pieces] * pieces, workers, Circumstances(), Random(0)).seconds
        if one.unit == "steps":
            seconds = whole / min(workers, cluster.trainers)
        alone[name], together[name] = alone.get(name, 0.0) + whole, together.get(name, 0.0) + seconds
    parts = ", ".join(f"{name} {duration(together[name])} of {duration(alone[name])}" for name in alone if alone[name])
    whole_run = f"about {duration(sum(together.values()))}"
    if workers == 1:
        return f"{whole_run}, as here; --gpus 2 and more tell what others would add"
    told = f"{whole_run} instead of {duration(sum(alone.values()))}, each as fast as this machine"
    chunk, resting = _chunk(cluster), _resting([one for one, _ in phases], cluster, workers=workers, turns=turns)
    return f"{told}, {chunk} dialogues a piece: {parts}{resting}"


def _resting(plan: Sequence[PhaseStarted], cluster: Cluster, *, workers: int, turns: Mapping[str, int]) -> str:
    """How many of so many workers ever have work, where not all do; it takes no rates to tell."""
    most = max(pieces for _, pieces in (_cut_up(one, cluster, turns) for one in plan))
    return f"; with a chunk of {_chunk(cluster)} no more than {most} ever have work" * (workers > most)


def _cut_up(one: PhaseStarted, cluster: Cluster, turns: Mapping[str, int]) -> tuple[int, int]:
    """In how many parts, one after the other, a phase has its work, and how many pieces each has."""
    times = max(1, turns.get(one.phase.split()[0], 1))
    return times, max(1, -(-one.total // (times * _chunk(cluster)))) if one.unit in _SHARED_OUT else 1


def _chunk(cluster: Cluster) -> int:
    return cluster.dialogues or 64


_SHARED_OUT = ("dialogues", "questions")  # units of phases that workers share


def _advice(recipe: Recipe, machine: Machine, shape: Shape, setup: Setup, *, rows: int, room: int) -> str:
    """The longest rows with which everything fits, if any do."""

    def too_long(length: int) -> bool:
        phases = planned(recipe, machine, shape, setup, row_tokens=length, room=room)[1]
        return any(phase.total > room for phase in phases)

    lengths = range(256, rows, 256)
    if fitting := bisect_left(lengths, True, key=too_long):
        return f"model.max_length={lengths[fitting - 1]} fits"
    return "a smaller model" if setup.quantised else "a smaller model, or model.quantization=nf4"


def _model_config(settings: ModelSettings, machine: Machine) -> dict[str, Any]:
    """The model's config.json, from its folder or from the hub's cache; empty where it is not here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from ..model.checkpoint import check_config
    from ..model.hub import locate

    try:
        source = locate(settings.name, machine=machine)
        path = Path(source) / "config.json"
        if not path.is_file():
            cached = try_to_load_from_cache(source, "config.json")
            path = Path(cached) if isinstance(cached, str) else path
        return check_config(path) if path.is_file() else {}
    except (OptimaError, HFValidationError, ValueError):  # reported with the model
        return {}


def _setup(settings: ModelSettings, config: dict[str, Any], *, gpu: bool, adapters: int) -> Setup:
    import torch

    gpu = gpu or torch.cuda.is_available()
    asked = settings.quantization == "nf4" or (settings.quantization == "auto" and gpu)
    stored = "quantization_config" in config if config else settings.name.lower().endswith("-4bit")
    return Setup(asked or stored, gpu, settings.lora_rank, adapters)


def _room(machine: Machine, vram: float | None) -> int:
    """Bytes that a run would have here and now, as it would find them itself; or on the card that is asked about."""
    import torch

    from ..model.room import card_room

    if vram is not None:
        return int(vram * GIB) - OVERHEAD
    return card_room(machine) if torch.cuda.is_available() else free_memory()


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 10 else f"{size / GIB:.2f}"


def _run_folder(recipe: Recipe, folder: Path) -> Finding:
    try:
        resumes = would_resume(folder, recipe.to_dict())
    except OptimaError as error:
        return Finding("run folder", Status.PROBLEM, str(RunError(error.what, where=error.where)), error.hint)
    return Finding("run folder", Status.OK, f"{folder}{', which holds this run and will be resumed' * resumes}")


def _model(loaded: LoadedRecipe, machine: Machine) -> Finding:
    from ..model import checkpoint
    from ..model.hub import fetch_config, left_to_download, locate

    name, wanted = loaded.recipe.model.name, loaded.recipe.model.max_length
    here = False
    try:
        source = locate(name, machine=machine)
        here = Path(source).is_dir()
        if here:
            checkpoint.read(Path(source))
        else:
            fetch_config(source, offline=machine.offline)
    except NotHere:
        pass  # the forecast does without, and a run may find it later
    except OptimaError as error:
        return Finding("model", Status.PROBLEM, str(error.what), error.hint)
    if here:
        found = source if name == source else f"{name}: {source}"
    elif machine.offline:
        found = f"{name}: from the local hub cache, since offline is set"
    else:
        found = f"{name}: from the Hugging Face hub, downloaded once"
        if size := left_to_download(source, offline=False):
            found += f": {size / 1e9:.1f} GB to come"
    limit, why = longest_row(_model_config(loaded.recipe.model, machine))
    shorter = why is not None and (wanted or limit + 1) > limit
    return Finding("model", Status.NOTE if shorter or not here else Status.OK, f"{found}; {why}" if shorter else found)


def _prompts(recipe: Recipe) -> Iterator[Finding]:
    """Whether the recipe's own words take the place of those that the team's roles have."""
    if recipe.team is not None and isinstance(recipe.prompts.system, str) and recipe.prompts.system:
        what = f"prompts.system takes the place of the system prompt of all {len(team_of(recipe).roles)} roles"
        yield Finding("prompts", Status.NOTE, what, "prompts.system=null leaves the team its own")


def _judge(recipe: Recipe) -> Iterator[Finding]:
    """Whether the validation questions can decide, where they are to."""
    if recipe.training.on_worse != "keep":
        asked = recipe.evaluation.validation_questions
        detail = f"a step is undone when the interval of its change over {asked} validation questions lies below 0"
        yield _needs("keep or revert", detail, partial(require_enough_to_judge, recipe))


def _extras(recipe: Recipe, machine: Machine) -> Iterator[Finding]:
    """The extras and permissions that this recipe needs; none is mentioned that it does not."""
    if machine.cluster.engine != "none":
        given = f"the work goes to {machine.cluster.engine}; `optima-lite doctor --cluster RECIPE` looks at the workers"
        yield _needs("cluster", given, partial(require_engine, recipe, machine))
    if recipe.task.runs_code:
        detail = f"task.metric {recipe.task.metric} runs the programs that the model writes, walled in"
        allowed = partial(answers.require, recipe.task.metric, allow_code=machine.allow_code)
        yield _needs("generated code", detail, allowed)
    if recipe.task.metric == "math":
        yield _needs(
            "extra math", "task.metric math compares answers with math-verify", partial(answers.require, "math")
        )
    if recipe.reward.format_weight:
        checked = f"reward.format_weight checks messages of {', '.join(recipe.reward.schemas)} with jsonschema"
        yield _needs("extra schema", checked, partial(reward.require, recipe.reward))


def _needs(subject: str, detail: str, require: Callable[[], None]) -> Finding:
    try:
        require()
    except OptimaError as error:
        return Finding(subject, Status.PROBLEM, error.what, error.hint)
    return Finding(subject, Status.OK, detail)
