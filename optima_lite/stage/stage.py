"""What every step of a run works with and writes to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..learn.dpo import PairIds, PreferenceFacts
from ..learn.episodes import Episode
from ..learn.rl import ReinforceFacts
from ..learn.rollout import Agents
from ..learn.sft import Optimising, TrainingFacts, planned_steps
from ..model.checkpoint import BUNDLED
from ..model.helper import Helper, Made, Work, serial
from ..model.policy import places
from ..model.render import Rendered
from ..model.sampling import seed_of
from ..records import Question, Rollouts
from ..runs.card import write_adapter_card
from ..runs.evaluations import evaluation_stage, evaluations, undecided_note, undone_remark
from ..runs.folder import stage_name
from ..runs.progress import Advance, Evaluated, Note, Observer, phase
from ..runs.store import Run
from ..settings.recipe import Recipe
from .cast import Cast
from .evaluate import decodings, examine, parts_of, summarise, undecided


@dataclass(frozen=True)
class Stage:
    """The agents, the run folder, and who is told of progress. helper: another process that shares the work, if there
    is one."""

    cast: Cast
    run: Run
    observe: Observer
    helper: Helper | None = None

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

    def share(self, work: Work[Made], items: Sequence[Any], advance: Callable[..., None]) -> list[Made]:
        """What work makes of the items, in the parts that the run has settled on; see `helper`. So who does it, and how
        many cores there are, changes nothing."""
        parts = self.cast.split(items)
        return self.helper.share(work, parts, advance) if self.helper else serial(work, parts, advance)

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

    def adapt(
        self,
        optimise: Callable[..., TrainingFacts | PreferenceFacts | ReinforceFacts],
        rows: Mapping[str, Sequence[Rendered]] | Mapping[str, Sequence[PairIds]] | Mapping[str, Sequence[Episode]],
        *,
        settings: Optimising,
        iteration: int,
        name: str,
        label: str,
        beside: Callable[[str, Path], None] = lambda adapter, place: None,
    ) -> Path:
        """The folder of the adapters after a training step, each on its own of the `rows`; the policy speaks with them
        already.

        optimise: `sft.fine_tune`, `dpo.optimise` or `rl.reinforce`, whichever rows and settings are for; without rows
        an adapter stays as it is. rows: of every adapter of the team. name: of the stage. label: of the phase. beside:
        puts what else an adapter needs into its folder.
        """
        recipe, policy = self.cast.recipe, self.cast.policy

        def learn(adapter: str) -> dict[str, Any]:
            if settings.restart == "base" and rows[adapter]:
                policy.restart(seed=seed_of(recipe.seed, iteration, name, "restart"), names=(adapter,))
            policy.wear(adapter)
            with self.cast.meter("train"), _threads(self.cast.training_threads):
                facts = optimise(
                    policy,
                    rows[adapter],
                    settings=settings,
                    micro_batch=self.cast.micro_batch,
                    seed=seed_of(recipe.seed, iteration, name, "shuffle"),
                    on_step=advance,
                    on_loss=lambda loss: advance(0, loss=loss),
                    notify=self.note,
                )
            return asdict(facts)

        def make(folder: Path) -> None:
            self.cast.pair.generator.release()
            found = []
            for adapter, place in places(folder, [*rows]).items():
                facts = learn(adapter)
                policy.save_adapter(place)
                beside(adapter, place)
                self._describe(place, adapter, iteration, facts)
                found.append(facts)
            _write_facts(folder, together(found))

        steps = sum(planned_steps(len(own), settings) for own in rows.values())
        with self.phase(label, iteration=iteration, total=steps, unit="steps", parts=("train",)) as advance:
            folder = self.run.folder_stage(stage_name(iteration, name), make)
        policy.load_adapter(folder)  # even when just trained: a run that goes on and one that resumes do the same
        return folder

    def _describe(self, folder: Path, adapter: str, iteration: int, facts: dict[str, Any]) -> None:
        """Puts what an adapter has learnt, and a card that says whose it is, beside its weights."""
        team = self.cast.pair.workflow
        speakers = [role.name for role in team.roles if role.adapter == adapter] if len(team.adapters) > 1 else []
        _write_facts(folder, facts)
        recipe = self.cast.recipe.to_dict()
        write_adapter_card(folder, recipe, team=team.name, speakers=speakers, iteration=iteration, facts=facts)

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
            work = partial(examine, agents, sampling=sampling, seed=recipe.seed, settings=recipe.reward)
            examined = self.run.chunks(
                name,
                Rollouts,
                fitted,
                size=self.cast.chunk,
                work=lambda chunk: self.share(work, chunk, advance),
                stored=lambda found: advance(found, stored=True),
            )
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
            self.evaluate(self.cast.pair, held_out, name, greedy=greedy, iteration=iteration)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """torch computes with so many threads in the `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What training several adapters did in all, from the facts of each: rows, tokens and steps add up; epochs are
    means over tokens, losses and shifts over steps. The facts of one are what they are."""
    trained = [part for part in parts if part["rows"]] or [*parts[:1]]
    if len(trained) == 1:
        return trained[0]

    def mean(name: str, weight: str) -> float | None:
        known = [(part[name], part[weight]) for part in trained if part[name] is not None]
        if not known or len({value for value, _ in known}) == 1:
            return known[0][0] if known else None
        return sum(value * count for value, count in known) / sum(count for _, count in known)

    sums = {name: sum(part[name] for part in trained) for name in ("rows", "trainer_tokens", "steps")}
    stopped = {"stopped": any(part["stopped"] for part in trained)} if "stopped" in trained[0] else {}
    apart = [name for name in trained[0] if name not in (*sums, *stopped, "epochs")]
    means = {name: mean(name, "steps") for name in apart}
    found = sums | {"epochs": mean("epochs", "trainer_tokens")} | means | stopped
    return {name: found[name] for name in trained[0]}


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / "training.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


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
