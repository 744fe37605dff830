"""Keep or revert: after each training step the pair answers the validation questions, and its rewards decide.

The paper keeps every step. With few questions and a small adapter a step can also do harm; `training.on_worse` says
what then happens. A step is worse when the 95 % interval of the change lies below 0: each question's reward after the
step less its reward before, sampled with the same random numbers, on one scale for the whole run. What is only seen to
be lower is kept, since most such falls are noise, and undoing those would leave the luckiest sample standing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from ..learn.reward import Scale, rewards, scale
from ..records import Rollouts
from ..runs.folder import stage_name
from ..runs.steps import Verdict, verdict_of
from ..statistics import FEWEST, of_change
from ..tasks.questions import questions
from .stage import Stage

_NUMBERS = {"imitate": 5, "reinforce": 5, "prefer": 9}  # of the files that follow each step's adapter


@dataclass(frozen=True)
class Standing:
    """The pair after the steps so far. adapter: its folder, None untrained. probe: its dialogues about the validation
    questions, one each. rewards: theirs, in the same order."""

    adapter: Path | None
    probe: Sequence[Rollouts]
    rewards: Sequence[float]


class Judge:
    """Asks the validation questions. stopped: whether a verdict has ended the run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.stopped = False
        recipe = stage.cast.recipe
        drawn = questions(recipe.task, "validation", recipe.evaluation.validation_questions, seed=0)
        self._questions = stage.fit(stage.cast.team, drawn, "validation/questions")
        self._scale = Scale(tokens=1, best_loss=1.0)  # until the untrained pair has settled it
        if recipe.training.on_worse != "keep" and len(self._questions) < FEWEST:
            stage.note(
                f"there are {len(self._questions)} validation questions, and {FEWEST} are the fewest that can tell "
                "a worse step from bad luck, so every step is kept"
            )

    def untrained(self) -> Standing:
        """Where the run begins."""
        probe = self._ask("validation/untrained", "validate untrained", None)
        recipe = self.stage.cast.recipe
        self._scale = scale(probe, percentile=recipe.search.normaliser_percentile, settings=recipe.reward)
        return Standing(None, probe, self._rewards(probe))

    def after(self, step: str, iteration: int, adapter: Path, before: Standing) -> Standing:
        """The standing after a step (imitate, prefer, reinforce) that made `adapter`; the policy speaks with what is
        kept."""
        probe = self._ask(stage_name(iteration, f"{_NUMBERS[step]}_validation"), f"validate {step}", iteration)
        after = Standing(adapter, probe, self._rewards(probe))
        name = stage_name(iteration, f"{_NUMBERS[step]}_verdict")
        verdict = verdict_of(self.stage.run, name)  # one that is stored stands: what follows was computed from it
        if verdict is None:
            verdict = self._verdict(before.rewards, after.rewards)
        kept = after if verdict.verdict == "keep" else before
        self._record(name, step, verdict, kept)
        self.stage.run.put_in_force(kept.adapter)
        if kept is before:
            self.stage.note(f"iteration {iteration}: step `{step}` undone: {verdict}")
            self.stage.crew.speak_with(before.adapter)
        elif _is_worse(verdict):
            self.stage.note(f"iteration {iteration}: step `{step}` kept (training.on_worse: keep), though {verdict}")
        self.stopped = verdict.verdict == "stop"
        return kept

    def _ask(self, name: str, label: str, iteration: int | None) -> Sequence[Rollouts]:
        team = self.stage.cast.team
        return self.stage.examine(team, self._questions, name, greedy=False, label=label, iteration=iteration)

    def _rewards(self, probe: Sequence[Rollouts]) -> list[float]:
        cast = self.stage.cast
        team = cast.team
        found = rewards(probe, scale=self._scale, settings=cast.recipe.reward, roles=team.workflow.names, own=team.own)
        return [reward.total for reward in found]

    def _verdict(self, before: Sequence[float], after: Sequence[float]) -> Verdict:
        kept = Verdict(fmean(before), fmean(after), "keep", of_change(before, after))
        undo = _is_worse(kept) and len(after) >= FEWEST
        return replace(kept, verdict=self.stage.cast.recipe.training.on_worse) if undo else kept

    def _record(self, name: str, step: str, verdict: Verdict, kept: Standing) -> None:
        run = self.stage.run
        adapter = None if kept.adapter is None else kept.adapter.relative_to(run.folder).as_posix()
        run.write_json(f"{name}.json", {"step": step, **asdict(verdict), "adapter": adapter})


def _is_worse(verdict: Verdict) -> bool:
    """Whether the step has lowered the reward beyond the noise of these questions."""
    return verdict.interval is not None and verdict.interval[1] < 0
