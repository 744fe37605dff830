"""How long a whole run would take on this machine, and how much it would store: reckoned from one short talk.

The untrained team answers a few validation questions and its dialogues are read for their reward, as in a run; what
that took foretells the phases of the plan as it does while a run goes on (`runs.forecast`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..learn.rollout import Agents
from ..model.memory import adapter_bytes
from ..runs.forecast import by_phase, run_left
from ..runs.progress import Event, PhaseStarted, Planned, State, fold, phase
from ..runs.rows import to_lines
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..tasks.questions import questions
from .cast import Cast, assemble
from .evaluate import examine, parts_of

QUESTIONS = 48
_DIALOGUES = ("dialogues", "questions")  # units of phases that store a dialogue for each


@dataclass(frozen=True)
class Pace:
    """seconds: of the whole plan; None when nothing of it can be reckoned. tokens: a dialogue's, on average over so
    many. stored: bytes that the run folder will hold. phases: of the plan, with what each takes, in seconds."""

    seconds: float | None
    tokens: float
    dialogues: int
    stored: int
    phases: tuple[tuple[PhaseStarted, float], ...] = ()


def measure(recipe: Recipe, plan: Sequence[PhaseStarted], *, machine: Machine) -> Pace:
    """The pace of a recipe's untrained team. plan: the phases of its run.

    Raises the OptimaError of a model that cannot be loaded, and of data that cannot be read.
    """
    cast = assemble(recipe, machine=machine, settle=lambda key, decide: decide())
    drawn = questions(recipe.task, "validation", QUESTIONS, seed=0)
    fitted, _ = cast.fit(cast.team, drawn)
    state = State(time.monotonic())

    def observe(event: Event) -> None:
        nonlocal state
        state = fold(state, event, time.monotonic())

    observe(Planned(tuple(plan)))
    team: Agents = cast.team
    parts = parts_of(len(team.workflow.roles))
    with phase(observe, "pace", iteration=None, total=len(fitted), unit="questions", parts=parts) as advance:
        sampling = cast.sampling(team)
        talked = examine(team, fitted, sampling=sampling, seed=recipe.seed, settings=recipe.reward, advance=advance)
    tokens = fmean(group.dialogues[0].tokens for group in talked)
    row = len(to_lines(talked)) / len(talked)
    stored, phases = _stored(cast, plan, row=row), tuple(by_phase(state))
    return Pace(run_left(state, time.monotonic()), tokens, len(talked), stored, phases)


def _stored(cast: Cast, plan: Sequence[PhaseStarted], *, row: float) -> int:
    """Bytes of all dialogues of the plan, and of the adapters that its training steps leave. row: of a dialogue."""
    dialogues = sum(planned.total for planned in plan if planned.unit in _DIALOGUES)
    steps = sum(planned.parts == ("train",) for planned in plan)
    policy = cast.policy
    return round(dialogues * row + steps * len(policy.names) * adapter_bytes(policy.shape, policy.setup))
