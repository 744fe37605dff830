"""How long a run will still take, from its plan and from what its work has cost so far.

Phases are made of a few kinds of work (sampling a dialogue, reading one, a training step). What a unit of a kind took
in the last phases of the same name, else in the last ones of all, is what it is expected to take; a kind that was not
seen yet is reckoned from all others by `WEIGHTS`. Within a phase the expectation gives way, unit by unit, to what the
phase itself takes. So one slow batch moves the forecast by its share of the work, and not by more.
"""

from __future__ import annotations

from collections.abc import Iterator

from .progress import Part, PhaseStarted, PhaseState, State

WEIGHTS = {
    "sample": 1.0,
    "read": 0.7,
    "sample alone": 0.4,
    "read alone": 0.2,
    "sample siblings": 0.35,
    "read siblings": 0.2,
    "search": 0.3,
    "train": 5.0,
}
"""What a unit of each kind of work costs beside a dialogue that is sampled for an evaluation, until it has been
measured: rough, and the same for all models. Dialogues about one question share what they begin with. A unit of
training is a step."""


def run_left(state: State, now: float) -> float | None:
    """Seconds until the last planned phase ends; None without a plan, and before any work is done."""
    ahead = [_expected(state, planned) for planned in _ahead(state)]
    left = 0.0 if state.current is None else phase_left(state, now)
    if not state.plan or left is None or None in ahead:
        return None
    return left + sum(filter(None, ahead))


def by_phase(state: State) -> list[tuple[PhaseStarted, float]]:
    """The planned phases, each with the seconds that it is expected to take; 0 where nothing is known of its work."""
    return [(planned, _expected(state, planned) or 0.0) for planned in state.plan]


def phase_left(state: State, now: float) -> float | None:
    """Seconds until the current phase ends, as far as there is one; None when nothing is known of its work."""
    current = state.current
    if current is None:
        return None
    left = 0.0
    for name, part in current.parts.items():
        missing = current.begun.total - part.done
        pace = _blended(state, current, name)
        if missing and pace is None:
            return None
        left += missing * (pace or 0.0)
    return max(0.0, left - (now - current.marked))


def share_done(state: State, now: float) -> float | None:
    """How much of the run's time is over, in [0, 1]; what was found in the run folder counts as if it took its time."""
    left = run_left(state, now)
    if left is None:
        return None
    seen = [*state.finished, *([state.current] if state.current else [])]
    stored = ((one.begun, name, part.stored) for one in seen for name, part in one.parts.items())
    over = sum(one.seconds(now) for one in seen)
    over += sum(units * (_pace(state, begun, name) or 0.0) for begun, name, units in stored if units)
    return over / (over + left) if over + left > 0 else 1.0


def _ahead(state: State) -> Iterator[PhaseStarted]:
    """The planned phases that have not begun, each as large as it was in the iteration before."""
    seen = [*state.finished, *([state.current] if state.current else [])]
    begun = {(one.begun.phase, one.begun.iteration) for one in seen}
    totals = {one.begun.phase: one.begun.total for one in seen}
    for planned in state.plan:
        if (planned.phase, planned.iteration) not in begun:
            total = totals.get(planned.phase, planned.total)
            yield PhaseStarted(planned.phase, planned.iteration, total, planned.unit, planned.parts)


def _expected(state: State, planned: PhaseStarted) -> float | None:
    if not set(planned.parts) & WEIGHTS.keys():
        return 0.0  # loading: over before anything can be foretold
    paces = [_pace(state, planned, part) for part in planned.parts]
    return None if None in paces else planned.total * sum(filter(None, paces))


def _pace(state: State, phase: PhaseStarted, kind: str) -> float | None:
    """Seconds a unit; None before any work is done."""
    current = [] if state.current is None else [state.current]
    seen = (*state.finished, *current)
    whole = [one for one in seen if _is_whole(one, kind)]
    alike = [one for one in whole if one.begun.phase == phase.phase] or whole
    if alike:  # the last phase counts most, and one that was slow by chance not for all
        parts = [(0.5**age, one.parts[kind]) for age, one in enumerate(reversed(alike))]
        return sum(w * part.seconds for w, part in parts) / sum(w * part.worked for w, part in parts)
    parts_of_kind = [part for one in seen for name, part in one.parts.items() if name == kind and part.worked]
    known = [(WEIGHTS[name], part) for one in seen for name, part in one.parts.items() if name in WEIGHTS]
    weighed = sum(weight * part.worked for weight, part in known)
    if kind in WEIGHTS and weighed:
        return WEIGHTS[kind] * sum(part.seconds for _, part in known) / weighed
    if parts_of_kind:
        return parts_of_kind[-1].seconds / parts_of_kind[-1].worked
    return None


def _is_whole(one: PhaseState, kind: str) -> bool:
    """Whether so much of a kind of work was done here that it tells what a unit takes."""
    part = one.parts.get(kind, Part())
    return part.worked > 0 and (one.ended is not None or part.done >= one.begun.total)


def _blended(state: State, current: PhaseState, kind: str) -> float | None:
    """Seconds a unit in the current phase: what is expected gives way to what was measured as the units get done."""
    part = current.parts[kind]
    work, expected = current.begun.total - part.stored, _pace(state, current.begun, kind)
    if not part.worked or expected is None:
        return expected
    return (part.seconds + expected * (work - part.worked)) / work
