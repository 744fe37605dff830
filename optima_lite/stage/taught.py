"""What the team is shown in iteration 0: demonstrations, beside its own dialogues or in place of them.

A demonstration is one more dialogue about its question: ranked among the team's own by the same reward, and selected
where it is the best of them. So the team talks about the demonstrations' questions, too: they take the place of as many
of the iteration's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import overload

from msgspec import UNSET

from ..errors import DataError
from ..learn.ranking import score
from ..learn.rollout import Agents, sample
from ..learn.selection import Candidate, diverse
from ..learn.teaching import require_alike, way
from ..records import Dialogue, Origin, Question, Rollouts
from ..runs.demonstrations import demonstrations_of, origin_of, read_demonstrations
from ..runs.folder import stage_name
from ..tasks.apart import KeptApart
from ..tasks.jsonl import identity
from ..tasks.questions import training_questions
from ..tasks.trajectories import Unfit
from .cast import Cast, Spoken
from .elsewhere import TEACHING
from .importing import require_apart
from .stage import Stage

TAUGHT = stage_name(0, "0_taught")


def taught(stage: Stage) -> list[Rollouts]:
    """The demonstrations of a run, by their questions, stored in the files of iteration 0; none without a teacher."""
    if not stage.cast.recipe.teacher.teaches:
        return []
    return stage.run.whole(TAUGHT, Rollouts, partial(_demonstrations, stage))


def _demonstrations(stage: Stage) -> list[Rollouts]:
    """Those of the file, and what the speaker shows about the questions that are then asked."""
    of_file = _by_question(stage.cast, _chosen(stage.cast))
    if stage.teacher is None:
        return of_file
    asked = in_place(training_questions(stage.cast.recipe, 0, preference=False), of_file)
    return _by_question(stage.cast, [*_single(of_file), *_played(stage, stage.teacher, asked)])


def _played(stage: Stage, teacher: Spoken, asked: Sequence[Question]) -> list[Rollouts]:
    """A dialogue about each question, as many as are wanted, by the team as its teacher plays it: through the same
    workflow, from the same views, with the same formats. What it says is to be learnt, as if our model had said it."""
    recipe, agents = stage.cast.recipe, teacher.agents
    fitted, _ = stage.cast.fit(stage.cast.team, asked[: recipe.teacher.at_most])
    origin = Origin(f"{teacher.name} ({teacher.model})", recipe.teacher.licence)
    with stage.phase("teach", iteration=0, total=len(fitted), unit="dialogues", parts=TEACHING) as advance:
        talks = sample(
            agents,
            fitted,
            rollouts=1,
            sampling=stage.cast.sampling(agents, pool=True),
            seed=(recipe.seed, 0, "teacher"),
            formats=stage.cast.formats,
            advance=lambda done, tokens: advance(done, tokens=tokens),
        )
    return [replace(talk, dialogues=tuple(_as_own(one, origin) for one in talk.dialogues)) for talk in talks]


def _as_own(dialogue: Dialogue, origin: Origin) -> Dialogue:
    """A dialogue that somebody else has spoken, in which every message is one to be learnt."""
    turns = tuple(replace(turn, spoken_by=UNSET) for turn in dialogue.turns)
    return replace(dialogue, turns=turns, origin=origin)


def _single(groups: Sequence[Rollouts]) -> list[Rollouts]:
    """A row for each dialogue."""
    return [replace(group, dialogues=(dialogue,)) for group in groups for dialogue in group.dialogues]


def usable(cast: Cast) -> list[Rollouts]:
    """The demonstrations of a recipe's file, a row each; none where it names none. Raises DataError, with the line, for
    one that is for another team or model, or about a question that the run is judged by."""
    path, team = demonstrations_of(cast.recipe), cast.team
    if path is None:
        return []
    rows, apart, most = read_demonstrations(path), KeptApart(cast.recipe), cast.sampling(team).max_new_tokens
    for line, row in enumerate(rows, start=1):
        try:
            require_apart(apart, row.question)
            require_alike(team, row.question, row.dialogues[0], most_tokens=most)
        except Unfit as unfit:
            hint = f"optima-lite import {origin_of(row).teacher} with this recipe leaves out what does not fit it"
            raise DataError(f"{unfit.why}: {unfit.what}", where=f"{path}:{line}", hint=hint) from unfit
    return rows


def _chosen(cast: Cast) -> list[Rollouts]:
    """As many demonstrations as are wanted, unlike one another."""
    recipe, rows = cast.recipe, usable(cast)
    wanted = recipe.teacher.at_most or recipe.training.questions
    return [rows[place] for place in diverse([_candidate(cast.team, row) for row in rows], wanted)]


def _candidate(agents: Agents, row: Rollouts) -> Candidate:
    (dialogue,) = row.dialogues
    return Candidate(way(agents, dialogue), dialogue.tokens, score(row.question, dialogue, scoring=agents.scoring))


def _by_question(cast: Cast, rows: Sequence[Rollouts]) -> list[Rollouts]:
    """Rows about one question as one; under the question's own id where the team is asked it anyway."""

    def key(question: Question) -> Hashable:
        # Who holds which facts matters only where somebody holds some alone.
        return identity(question), question.contexts if cast.team.workflow.holders else ()

    known = {key(question): question for question in training_questions(cast.recipe, 0, preference=False)}
    groups: dict[str, Rollouts] = {}
    for row in rows:
        question = known.setdefault(key(row.question), row.question)
        group = groups.get(question.id) or Rollouts(question, ())
        added = replace(row.dialogues[0], question=question.id, rollout=len(group.dialogues))
        groups[question.id] = replace(group, dialogues=(*group.dialogues, added))
    return list(groups.values())


def in_place(drawn: Sequence[Question], shown: Sequence[Rollouts]) -> list[Question]:
    """The questions that are drawn, with those of demonstrations in the place of the last ones that have none."""
    ids = {question.id for question in drawn}
    new = [group.question for group in shown if group.question.id not in ids]
    known = {group.question.id for group in shown}
    free = [number for number, question in enumerate(drawn) if question.id not in known]
    given_up = {*free[max(0, len(free) - len(new)) :]}
    return [question for number, question in enumerate(drawn) if number not in given_up] + new


class Beside(Sequence[Rollouts]):
    """The team's own dialogues about each question, and after them those that it is shown; read when asked for."""

    def __init__(self, own: Sequence[Rollouts], shown: Sequence[Rollouts]) -> None:
        self._own = own
        self._shown = {group.question.id: group.dialogues for group in shown}

    def __len__(self) -> int:
        return len(self._own)

    @overload
    def __getitem__(self, index: int) -> Rollouts: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rollouts]: ...
    def __getitem__(self, index: int | slice) -> Rollouts | list[Rollouts]:
        if isinstance(index, slice):
            return [self._with(group) for group in self._own[index]]
        return self._with(self._own[index])

    def _with(self, group: Rollouts) -> Rollouts:
        before = len(group.dialogues)
        shown = self._shown.get(group.question.id, ())
        added = (replace(dialogue, rollout=before + k) for k, dialogue in enumerate(shown))
        return replace(group, dialogues=(*group.dialogues, *added))
