"""Trajectories that exist, as demonstrations for the team of a recipe: each row used, or refused with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import ConfigError
from ..learn.teaching import retold
from ..records import Origin, Question, Rollouts
from ..runs.demonstrations import sha256_of
from ..runs.progress import Observer, phase, silent
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..settings.workflow import Workflow
from ..tasks.apart import KeptApart
from ..tasks.jsonl import count_lines, identity
from ..tasks.trajectories import AS_QUESTION, LEFT_OUT, Roles, Trajectory, Unfit, trajectories
from .cast import Cast, outline, workflows

_SETTLED = dict.fromkeys(
    ("max_batch_tokens", "max_cache_bytes", "micro_batch", "training_threads", "chunk", "parts"), 1
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is not used. line: from 1. why: in two words. what: in a sentence."""

    line: int
    why: str
    what: str


@dataclass
class Imported:
    """What became of the rows of a file. unread: messages of the rows used that nobody of the team says."""

    rows: list[Rollouts] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unread: int = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of refused rows for each reason, most frequent first."""
        return dict(Counter(one.why for one in self.refused).most_common())


def import_file(
    path: Path,
    recipe: Recipe,
    *,
    machine: Machine,
    roles: Roles,
    licence: str,
    source: str | None,
    observe: Observer = silent,
) -> Imported:
    """Every row of a file for the team and the model of a recipe.

    roles: beside the team's own names, see `roles_of`. licence, source: of the file, for the origin of every row.
    Raises ConfigError for roles that nobody has and for a team that hands on steps, DataError for a file that cannot be
    read, ModelError for a model that is not there.
    """
    team = workflows(recipe)[0]
    if recipe.method == "market" or team.streams:
        what = "a market" if recipe.method == "market" else "a team that streams"
        raise ConfigError(f"{what} has no fixed order of messages, so that no dialogue of others can be its own")
    known = roles_of(team, roles)
    importer = _Importer(outline(recipe, machine=machine, settled=_SETTLED), KeptApart(recipe))
    origin = Origin(path.name, licence, source, sha256=sha256_of(path))
    found = Imported()
    with phase(observe, "import", iteration=None, total=count_lines(path), unit="lines") as advance:
        told = 0
        for one in trajectories(path, known, recipe.task):
            try:
                if isinstance(one, Unfit):
                    raise one
                found.rows.append(importer.row(one, replace(origin, line=one.line)))
                found.unread += one.unread
            except Unfit as unfit:
                found.refused.append(Refused(one.line, unfit.why, unfit.what))
            advance(one.line - told)
            told = one.line
    return found


def roles_of(team: Workflow, stated: Roles) -> Roles:
    """Who says the messages of each role of a file: everybody under their own name, nobody the system prompt, and as
    stated. Raises ConfigError for somebody who has no part in the team."""
    parts = (*team.names, AS_QUESTION, LEFT_OUT)
    by_name = {name.casefold(): name for name in parts}
    for role, who in stated.items():
        if who.casefold() not in by_name:
            what = f"{role}={who}: nobody of the team is called {who}"
            raise ConfigError(what, where="--roles", hint=f"one of {', '.join(parts)}")
    return {
        **dict.fromkeys(("system", "developer"), LEFT_OUT),
        **{name: name for name in team.names},
        **{role: by_name[who.casefold()] for role, who in stated.items()},
    }


@dataclass
class _Importer:
    """The team that is to have said it. seen: the line at which a dialogue came first."""

    cast: Cast
    apart: KeptApart
    seen: dict[tuple[str, tuple[tuple[str, str], ...]], int] = field(default_factory=dict)

    def row(self, found: Trajectory, origin: Origin) -> Rollouts:
        """A demonstration. Raises Unfit."""
        team, question = self.cast.team, found.question
        require_apart(self.apart, question)
        _require_facts(team.workflow, found)
        key = (identity(question), found.said)
        if self.seen.setdefault(key, found.line) != found.line:
            raise Unfit("duplicate", f"says what line {self.seen[key]} says")
        most = self.cast.sampling(team).max_new_tokens
        return Rollouts(question, (retold(team, question, found.said, most_tokens=most, origin=origin),))


def require_apart(apart: KeptApart, question: Question) -> None:
    """Raises Unfit for a question that a run is judged by."""
    if (split := apart.split_of(question)) is not None:
        what = f"its question is among the {split.replace('_', '-')} questions, and a run would learn what judges it"
        raise Unfit("held out" if split == "held_out" else split, what)


def _require_facts(team: Workflow, found: Trajectory) -> None:
    """A team whose roles hold facts of their own needs to know whose they are: dealt anew, they would say what they
    cannot know."""
    if team.holders and not any(found.question.contexts):
        raise Unfit("no facts", f"has no facts, and {' and '.join(team.holders)} share some out")
    if team.holders and not found.dealt:
        raise Unfit("no facts", f"has its facts in one list; `contexts` tells {' and '.join(team.holders)} theirs")
