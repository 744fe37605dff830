"""Models elsewhere that speak for roles: whether the machine file has them, who they are, and what they took."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, RunError
from ..learn.elsewhere import Ask, Elsewhere
from ..model.hub import NotHere
from ..runs.progress import PhaseStarted
from ..runs.replies import SPOKEN
from ..settings.layers import near_names
from ..settings.machine import MACHINE_FILE, Machine, Speaker
from ..settings.recipe import Recipe
from ..settings.workflow import Workflow, spoken
from ..tasks.questions import questions
from ..team.prompts import sights
from ..team.talks import team_of
from .findings import Finding, Status

SPOKEN_ELSEWHERE = (
    "what they have said is kept in the run folder and never asked for again; what is asked anew may be answered "
    "otherwise, so that only this folder repeats the run"
)

_TALKS = ("sample", "sample siblings", "search")  # what phases are made of in which the team talks
TEACHING = ("teach",)  # of the phase in which a teacher plays the team
_CHARACTERS = 4  # of a token, about


def require_speakers(names: Iterable[str], machine: Machine, *, where: str = "team.spoken_by") -> None:
    """Raises ConfigError for a speaker that the machine file does not have. where: it is named."""
    for name in names:
        if name not in machine.speakers:
            near = near_names(name, [*machine.speakers])
            hint = f'add to {MACHINE_FILE}: [speakers.{name}] with url = "..." and model = "..."; {near}'
            raise ConfigError(f"there is no speaker {name} in {MACHINE_FILE}", where=where, hint=hint)


def require_keys(names: Iterable[str], machine: Machine) -> None:
    """Raises ConfigError for a speaker whose key is not in the environment."""
    for name in names:
        variable = machine.speakers[name].key_env
        if variable and not os.environ.get(variable):
            what = f"the environment variable {variable} is to hold the key of {name}, and is empty"
            where, hint = f"speakers.{name}.key_env", f"export {variable}=... in this terminal alone"
            raise ConfigError(what, where=where, hint=hint)


def require_same_models(stored: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    """Raises RunError where a run was begun with other models than the machine file has now for its speakers."""
    for name, model in now.items():
        if stored.get(name, model) != model:
            what = f"was begun with {stored[name]} as {name}, and {MACHINE_FILE} has {model}"
            hint = f"put {stored[name]} back, or start a new run with --run OTHER"
            raise RunError(what, where=where, hint=hint)


def named(recipe: Recipe) -> tuple[str, ...]:
    """The speakers that a recipe names, each once: for roles, and as the team's teacher."""
    teacher = recipe.teacher.speaker
    return tuple(dict.fromkeys((*team_of(recipe).elsewhere, *([teacher] if teacher else []))))


def models(names: Sequence[str], machine: Machine) -> dict[str, str]:
    """The models of these speakers, for a manifest."""
    return {name: machine.speakers[name].model for name in names}


def elsewhere(
    names: Sequence[str],
    machine: Machine,
    run: Path | None,
    *,
    count: Callable[[str], int],
    notify: Callable[[str], None],
) -> Elsewhere:
    """Those who speak for roles, ready to be asked. run: the folder that their replies are kept in. count: a text to
    its tokens. Raises ConfigError for a speaker that the machine file does not have, RunError without a run."""
    require_speakers(names, machine)
    if names and run is None:
        what = f"{', '.join(names)} can only speak in a run, whose folder keeps what was said"
        raise RunError(what, hint="train the recipe first, then name its run")
    return Elsewhere({name: chat(name, machine, run, count=count, notify=notify) for name in names if run})


def chat(name: str, machine: Machine, run: Path, *, count: Callable[[str], int], notify: Callable[[str], None]) -> Ask:
    """A speaker that the machine file has."""
    from ..model.chat import Chat  # HTTP is imported where it is wanted
    from ..runs.replies import Replies

    kept = Replies(run / SPOKEN / f"{name}.jsonl")
    return Chat(name, machine.speakers[name], kept=kept, count=count, notify=notify).ask


def findings(recipe: Recipe, machine: Machine, plan: Sequence[PhaseStarted]) -> Iterator[Finding]:
    """For each speaker that a recipe names whether it can be asked, and the most that it will be asked. Nothing is
    asked. plan: the phases of the run."""
    team = team_of(recipe)
    for name in named(recipe):
        try:
            require_speakers([name], machine)
        except ConfigError as error:
            yield Finding(f"speaker {name}", Status.PROBLEM, error.what, error.hint)
            continue
        speaker, roles = machine.speakers[name], [role.name for role in team.roles if role.spoken_by == name]
        does = [f"speaks for {' and '.join(roles)}"] * bool(roles) + ["teaches"] * (name == recipe.teacher.speaker)
        yield Finding(f"speaker {name}", Status.OK, f"{speaker.model} at {speaker.url} {' and '.join(does)}")
        try:
            require_keys([name], machine)
        except ConfigError as error:
            yield Finding(f"key of {name}", Status.PROBLEM, error.what, error.hint)
        if roles:
            yield _bill(name, speaker, recipe, team, _dialogues(plan, _TALKS))
        if name == recipe.teacher.speaker:
            yield _bill(name, speaker, recipe, spoken(team, name), _dialogues(plan, TEACHING))


def _dialogues(plan: Sequence[PhaseStarted], parts: Sequence[str]) -> int:
    """Dialogues of the phases that begin with one of these parts."""
    return sum(phase.total for phase in plan if phase.parts and phase.parts[0] in parts)


def _bill(name: str, speaker: Speaker, recipe: Recipe, team: Workflow, talks: int) -> Finding:
    """At most so many requests and tokens for so many talks. What is read is reckoned by the characters of one
    question."""
    own = [step for step in team.steps if not step.tool and team.roles[team.speaker(step)].spoken_by == name]
    requests = talks * math.ceil(team.max_steps * len(own) / len(team.steps))
    longest = recipe.sampling.max_turn_tokens
    try:
        (question,) = questions(recipe.task, "validation", 1, seed=0)
    except (NotHere, DataError):  # the data have findings of their own
        return Finding(
            f"asked of {name}", Status.NOTE, f"at most {requests:,} messages; not known before questions are here"
        )
    roles = {step.speaker for step in own}
    seen = [messages for who, messages in sights(question, team) if who.partition(",")[0] in roles]
    opening = max(sum(len(message.text) for message in messages) for messages in seen) // _CHARACTERS
    read, said = requests * (opening + team.max_steps // 2 * longest), requests * (longest + speaker.thinking_tokens)
    cost = speaker.cost(read, said)
    over = (speaker.max_total_tokens or math.inf) < read + said or (speaker.max_cost or math.inf) < cost
    what = f"at most about {requests:,} messages in {talks:,} dialogues, {read:,} tokens read and {said:,} said"
    what += f", which cost {cost:,.2f}" * bool(cost) + "; its ceiling may end the run before" * over
    return Finding(f"asked of {name}", Status.NOTE if over else Status.OK, what)
