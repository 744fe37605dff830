"""What every step of a run works with and writes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..learn.rollout import Agents
from ..learn.sft import planned_steps
from ..model.checkpoint import BUNDLED
from ..records import Question, Record, Rollouts
from ..runs.evaluations import evaluation_stage, evaluations, undecided_note, undone_remark
from ..runs.folder import stage_name
from ..runs.progress import Advance, Evaluated, Note, Observer, phase
from ..runs.rows import Pieces, Rows
from ..runs.store import Run
from ..settings.recipe import Recipe
from .cast import Cast, Spoken
from .crew import Crew, Job
from .evaluate import Examination, decodings, parts_of, summarise, undecided
from .lesson import Lesson


@dataclass(frozen=True)
class Stage:
    """The agents, the run folder, who is told of progress, and who does the work. teacher: the team as another model
    plays it, to be learnt from in iteration 0."""

    cast: Cast
    run: Run
    observe: Observer
    crew: Crew
    teacher: Spoken | None = None

    def note(self, text: str) -> None:
        """One sentence that the user should read, and that the log keeps."""
        self.run.log(text)
        self.observe(Note(text))

    def phase(
        self, label: str, *, iteration: int | None, total: int, unit: str, parts: tuple[str, ...]
    ) -> AbstractContextManager[Advance]:
        """A phase of the run, with the activities of the agents' model; see `progress.phase`."""
        meter = self.cast.meter
        return phase(self.observe, label, iteration=iteration, total=total, unit=unit, parts=parts, meter=meter)

    def made(
        self, name: str, kind: type[Record], items: Sequence[Any], *, job: Job[Record], each: int, advance: Advance
    ) -> Rows[Record]:
        """The records of a stage: those that are stored, and those that the crew makes of the other items.

        They are made in the chunks and parts that the run has settled on, so who does it, and how many, changes
        nothing. each: units of progress, and dialogues of a chunk, that an item is.
        """

        def work(chunks: Pieces) -> Iterator[list[Record]]:
            made = self.crew.map(job, chunks.split(self.cast.parts), advance)
            for places in chunks.places:
                whole: list[Record] = []
                while len(whole) < len(places):
                    whole += next(made)
                yield whole

        size = max(1, self.cast.chunk // each)
        return self.run.chunks(
            name, kind, items, size=size, work=work, stored=lambda found: advance(found * each, stored=True)
        )

    def tell_undecided(self, count: int) -> None:
        """A note about answers that could not be compared in time, if there are any."""
        if count:
            self.note(undecided_note(count))

    def fit(self, agents: Agents, drawn: Sequence[Question], name: str) -> list[Question]:
        """The questions with facts that fit the model; how many had to be shortened is said, and stored as `name`."""
        fitted, shortened = self.cast.fit(agents, drawn)
        self.run.write_json(f"{name}.json", {"questions": len(drawn), "shortened": shortened})
        if shortened:
            self.note(f"{shortened} of {len(drawn)} questions had their facts shortened to fit the model")
        return fitted

    def adapt(self, lesson: Lesson, *, label: str) -> Path:
        """The folder of the adapters after a training step; the agents speak with them already. label: of the
        phase."""
        iteration = lesson.iteration
        steps = sum(planned_steps(len(own), lesson.settings) for own in lesson.rows.values())
        with self.phase(label, iteration=iteration, total=steps, unit="steps", parts=("train",)) as advance:
            make = partial(self.crew.train, lesson, advance=advance, notify=self.note)
            folder = self.run.folder_stage(stage_name(iteration, lesson.name), make)
        self.crew.speak_with(folder)  # even when just trained: a run that goes on and one that resumes do the same
        return folder

    def examine(
        self,
        agents: Agents,
        fitted: Sequence[Question],
        name: str,
        *,
        greedy: bool,
        label: str,
        iteration: int | None = None,
    ) -> Sequence[Rollouts]:
        """One scored dialogue about each question, by the adapter as it stands, stored as `name`. label: of the
        phase."""
        recipe = self.cast.recipe
        parts = parts_of(len(agents.workflow.roles))
        with self.phase(label, iteration=iteration, total=len(fitted), unit="questions", parts=parts) as advance:
            sampling = self.cast.sampling(agents, greedy=greedy)
            job = Examination(agents.speakers, sampling, recipe.seed, recipe.reward)
            examined = self.made(name, Rollouts, fitted, job=job, each=1, advance=advance)
        self.tell_undecided(undecided(examined))
        return examined

    def evaluate(
        self, agents: Agents, held_out: Sequence[Question], name: str, *, greedy: bool, iteration: int | None = None
    ) -> None:
        """A line of the final table: each held-out question is talked about once, by the adapter as it stands."""
        decoding = "greedy" if greedy else "sampled"
        where = evaluation_stage(name, decoding)
        label = f"evaluate {decoding}" if iteration is not None else f"evaluate {name} {decoding}"
        fitted = self.fit(agents, held_out, f"evaluation/{agents.workflow.name}_questions")
        examined = self.examine(agents, fitted, where, greedy=greedy, label=label, iteration=iteration)
        agrees = agents.workflow.agrees
        row = summarise(examined, name=name, decoding=decoding, scoring=agents.scoring, agrees=agrees)
        self.run.write_json(f"{where}.json", row)
        self.observe(Evaluated(row, "" if iteration is None else undone_remark(self.run, iteration)))

    def evaluate_after(self, iteration: int, held_out: Sequence[Question], *, last: bool) -> None:
        """The lines of an iteration: sampled where its turn has come, and after the last one greedily, too."""
        for decoding in decodings(self.cast.recipe, iteration, last=last):
            name, greedy = f"iteration_{iteration}", decoding == "greedy"
            self.evaluate(self.cast.team, held_out, name, greedy=greedy, iteration=iteration)


def require_something_right(run: Run, recipe: Recipe) -> None:
    """Raises DataError when the untrained agents were never right, even in part: there is nothing to learn from.

    Looked at before any training: the pair and the single agent on the held-out questions, sampled and greedy. Not for
    a run that trains already.
    """
    if run.iterations() or not recipe.evaluation.stop_if_none_right:
        return
    asked = [row for row in evaluations(run) if row.name in ("untrained", "single_agent")]
    if any(row.score > 0 for row in asked):
        return
    count = max(row.questions for row in asked)
    what = (
        f"none of the {count} held-out questions was answered right before any training, sampled or greedy, by the "
        "pair or by one agent that sees everything: there is nothing to learn from"
    )
    ways = "look at two answers: optima-lite chat RUN --sample 2; a larger model.name; another task.metric or prompts"
    if recipe.model.name in BUNDLED and recipe.task.name != "world":
        ways = "a model.name from the Hugging Face hub: the bundled tiny models know the words of their own world alone"
    hint = f"{ways}. To train nevertheless: evaluation.stop_if_none_right=false"
    raise DataError(what, where=run.folder, hint=hint)
