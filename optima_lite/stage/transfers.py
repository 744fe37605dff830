"""What handing steps on as they are said is worth, against the same team handing on whole messages, and one agent.

The controls: serial with the marker, which differs from the stream in nothing but when others read what was said;
serial without any steps; the single agent. The probe asks whether there is anything to gain for a model and a task: the
score of the team when others read only the first k steps of a message, or only the last k.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from .. import statistics
from ..learn.ranking import ranked
from ..learn.rollout import Agents, sample
from ..model.sampling import row_key
from ..records import Dialogue, EvalRow, Question, Rollouts, TransferRow
from ..runs.progress import Observer, phase
from ..settings.workflow import Streaming, Workflow
from ..tasks.questions import questions
from ..team.dialogue import stand, taken
from ..team.timeline import ticks, timeline
from .cast import Cast
from .evaluate import parts_of, summarise

_FEWEST = 1.5  # steps of a message, in the mean, below which most have neither head nor tail
STREAM, MARKED, SERIAL, SINGLE = "stream", "serial with the marker", "serial", "single agent"


@dataclass
class _Way:
    """A way to answer, with what has been measured so far: seconds of dialogues alone, and until their answer began."""

    name: str
    agents: Agents
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Compared:
    """The rows of the table, and one question's dialogue in the stream and serial with the marker, each with its
    team."""

    rows: tuple[TransferRow, ...]
    pictures: tuple[tuple[str, Dialogue, Workflow], ...]


def compare_transfers(
    cast: Cast,
    *,
    wanted: int | None,
    seed: int | None,
    alone: int,
    observe: Observer,
    clock: Callable[[], float] = time.perf_counter,
) -> Compared:
    """The ways to hand messages on, on the recipe's held-out questions or the `wanted` first ones, sampled.

    cast: of a team that streams. alone: questions asked one at a time as well, in all ways in turn, for the times of a
    dialogue alone.
    """
    recipe = cast.recipe
    drawn = questions(recipe.task, "held_out", wanted or recipe.evaluation.questions, seed=0)
    seed = recipe.seed if seed is None else seed
    ways = list(_ways(cast))
    for question in drawn[:alone]:
        for way in ways:
            _time_alone(cast, way, question, seed=seed, clock=clock)
    rows, pictures = [], []
    for way in ways:
        examined, together, reused = _together(cast, way, drawn, seed=seed, observe=observe, clock=clock)
        talks = [group.dialogues[0] for group in examined]
        row = summarise(examined, name=way.name, decoding="sampled", scoring=way.agents.scoring)
        counted = [ticks(timeline(talk, way.agents.workflow)) for talk in talks] if way.agents.workflow.stream else None
        rows.append(
            TransferRow(
                row, fmean(counted) if counted else None, _mean(way.seconds), _mean(way.first), together, reused
            )
        )
        if way.name in (STREAM, MARKED):
            pictures.append((way.name, talks[0], way.agents.workflow))
    return Compared(tuple(rows), tuple(pictures))


@dataclass(frozen=True)
class Probed:
    """What others make of a part of a message. rows: by what was handed on, the whole last. difference: for each
    question the mean score of all heads less that of all tails. said: steps that a message had, in the mean."""

    rows: tuple[EvalRow, ...]
    difference: tuple[float, ...]
    said: float

    @property
    def verdict(self) -> str:
        """What it says about streaming, in a sentence."""
        if self.said < _FEWEST:
            return (
                f"the messages have {self.said:.1f} steps: hardly any has both a head and a tail, so there is nothing "
                "to hand on early, and the rows above compare all of a message with none of it"
            )
        mean, (low, high) = fmean(self.difference), statistics.of_mean(self.difference) or (float("-inf"), float("inf"))
        shown = f"heads score {mean:+.3f} [{low:+.2f}, {high:+.2f}] against tails"
        if low > 0:
            return f"{shown}: early steps carry more, which speaks for streaming"
        if high < 0:
            return f"{shown}: late steps carry more, which speaks for serial"
        return f"{shown}: too little to tell which of them carry more"


def probe_heads_and_tails(cast: Cast, *, wanted: int | None, seed: int | None, steps: int, observe: Observer) -> Probed:
    """The score of the team, serial with the marker, when of a message that reads nobody's others get only the first k
    of so many steps, or only the last k; and all of them."""
    recipe = cast.recipe
    drawn = questions(recipe.task, "held_out", wanted or recipe.evaluation.questions, seed=0)
    how = replace(_streaming(cast.team.workflow), steps=steps)
    rows, scores = [], dict[str, list[Sequence[float]]](first=[], last=[], all=[])
    for name, passed in _probes(steps):
        team = replace(cast.team.workflow, transfer="serial", stream=replace(how, passed=passed))
        way = _Way(name, replace(cast.team, workflow=team))
        seeded = recipe.seed if seed is None else seed
        examined, _, _ = _together(cast, way, drawn, seed=seeded, observe=observe, clock=time.perf_counter)
        rows.append(summarise(examined, name=name, decoding="sampled", scoring=cast.team.scoring))
        scores[name.split()[0]].append([group.rewards[0].task for group in examined])
    said = fmean(steps_said(group.dialogues[0], way.agents.workflow) for group in examined)
    heads, tails = ([fmean(one) for one in zip(*scores[end], strict=True)] for end in ("first", "last"))
    return Probed(tuple(rows), tuple(head - tail for head, tail in zip(heads, tails, strict=True)), said)


def steps_said(dialogue: Dialogue, workflow: Workflow) -> float:
    """The steps of a message of whoever reads nobody's, whose parts the probe hands on."""
    names = [beat.name for beat in timeline(dialogue, workflow) if not beat.heard]
    return len(names) / len({*names})


def _probes(steps: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for k in range(1, steps):
        yield f"first {k} of {steps}", (0, k)
    for k in range(1, steps):
        yield f"last {k} of {steps}", (steps - k, steps)
    yield f"all {steps}", (0, steps)


def _streaming(workflow: Workflow) -> Streaming:
    assert workflow.stream is not None
    return workflow.stream


def _ways(cast: Cast) -> Iterator[_Way]:
    team = cast.team.workflow
    yield _Way(STREAM, cast.team)
    yield _Way(MARKED, replace(cast.team, workflow=replace(team, transfer="serial")))
    yield _Way(SERIAL, replace(cast.team, workflow=replace(team, transfer="serial", stream=None)))
    yield _Way(SINGLE, cast.single)


def _time_alone(cast: Cast, way: _Way, question: Question, *, seed: int, clock: Callable[[], float]) -> None:
    """Asks one question, with nothing else in the batch and nothing in the cache."""
    agents, spoke = way.agents, dict[int, float]()
    (fitted,), _ = cast.fit(agents, [question])
    agents.generator.forget()

    def hear(key: int) -> None:
        spoke.setdefault(key, clock())

    agents.generator.hear = hear
    began = clock()
    try:
        *_, dialogue = agents.unfold(fitted, sampling=cast.sampling(agents), seed=(seed, "evaluation"))
    finally:
        agents.generator.hear = lambda key: None
    way.seconds.append(clock() - began)
    first = spoke.get(row_key(seed, "evaluation", question.id, 0, _answers_at(dialogue, agents.workflow)))
    if first is not None:
        way.first.append(first - began)


def _answers_at(dialogue: Dialogue, workflow: Workflow) -> int:
    """The number of the first turn of a step whose answer counts; of the last such step in the workflow's order."""
    if workflow.streams:
        names = [beat.name for beat in stand(dialogue.turns, workflow).stream.beats]
    else:
        names = [step.name for step, _, _ in taken(dialogue.turns, workflow)]
    return next((names.index(name) for name in reversed(workflow.answer) if name in names), -1)


def _together(
    cast: Cast, way: _Way, drawn: Sequence[Question], *, seed: int, observe: Observer, clock: Callable[[], float]
) -> tuple[list[Rollouts], float, float]:
    """A scored dialogue about every question, all asked at once; seconds of each; the share of tokens reused."""
    agents = way.agents
    fitted, _ = cast.fit(agents, drawn)
    ask, read = parts_of(len(agents.workflow.roles))
    counts = agents.generator.counts
    with phase(observe, way.name, iteration=None, total=len(fitted), unit="questions", parts=(ask, read)) as advance:
        before, began = (counts.computed, counts.reused), clock()
        talked = sample(
            agents,
            fitted,
            rollouts=1,
            sampling=cast.sampling(agents),
            seed=(seed, "evaluation"),
            advance=lambda done, tokens: advance(done, tokens=tokens, part=ask),
        )
        seconds = clock() - began
        computed, reused = counts.computed - before[0], counts.reused - before[1]
        scored = ranked(agents, talked, settings=cast.recipe.reward)
        advance(len(scored), part=read)
    return scored, seconds / len(fitted), reused / max(1, computed + reused)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
