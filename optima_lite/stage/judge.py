"""Keep or revert: after each training step the pair answers the validation questions, and its reward decides.

The paper keeps every step. With few questions and a small adapter a step can also do harm; `training.on_worse` says
what then happens. Rewards are measured on one scale for the whole run, so they compare across iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..learn.reward import Scale, mean_reward, scale
from ..records import Rollouts
from ..runs.store import stage_name
from ..tasks.questions import questions
from .stage import Stage

_NUMBERS = {"imitate": 5, "prefer": 9}  # of the files that follow each step's adapter


@dataclass(frozen=True)
class Standing:
    """The pair after the steps so far. adapter: its folder, None untrained. probe: its dialogues about the validation
    questions. reward: the mean of their rewards."""

    adapter: Path | None
    probe: Sequence[Rollouts]
    reward: float


class Judge:
    """Asks the validation questions. stopped: whether a verdict has ended the run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.stopped = False
        recipe = stage.cast.recipe
        drawn = questions(recipe.task, "validation", recipe.evaluation.validation_questions, seed=0)
        self._questions = stage.fit(stage.cast.pair, drawn, "validation/questions")
        self._scale = Scale(tokens=1, best_loss=1.0)  # until the untrained pair has settled it

    def untrained(self) -> Standing:
        """Where the run begins."""
        probe = self._ask("validation/untrained", "validate untrained", None)
        recipe = self.stage.cast.recipe
        self._scale = scale(probe, percentile=recipe.search.normaliser_percentile, settings=recipe.reward)
        return Standing(None, probe, self._reward(probe))

    def after(self, step: str, iteration: int, adapter: Path, before: Standing) -> Standing:
        """The standing after a step (imitate or prefer) that made `adapter`; the policy speaks with what is kept."""
        probe = self._ask(stage_name(iteration, f"{_NUMBERS[step]}_validation"), f"validate {step}", iteration)
        after = Standing(adapter, probe, self._reward(probe))
        worse = after.reward < before.reward
        verdict = self.stage.cast.recipe.training.on_worse if worse else "keep"
        kept = after if verdict == "keep" else before
        self._record(step, iteration, before=before, after=after, verdict=verdict, kept=kept)
        if worse:
            self.stage.note(
                f"iteration {iteration}: step `{step}` lowered the validation reward from {before.reward:.3f} to "
                f"{after.reward:.3f} (training.on_worse: {verdict})"
            )
        if kept is before:
            self._return_to(before)
        self.stopped = verdict == "stop"
        return kept

    def _ask(self, name: str, label: str, iteration: int | None) -> list[Rollouts]:
        pair = self.stage.cast.pair
        return self.stage.examine(pair, self._questions, name, greedy=False, label=label, iteration=iteration)

    def _reward(self, probe: Sequence[Rollouts]) -> float:
        cast = self.stage.cast
        return mean_reward(probe, scale=self._scale, settings=cast.recipe.reward, roles=cast.pair.workflow.names)

    def _record(
        self, step: str, iteration: int, *, before: Standing, after: Standing, verdict: str, kept: Standing
    ) -> None:
        run = self.stage.run
        adapter = None if kept.adapter is None else kept.adapter.relative_to(run.folder).as_posix()
        value = {"step": step, "before": before.reward, "after": after.reward, "verdict": verdict, "adapter": adapter}
        run.write_json(f"{stage_name(iteration, f'{_NUMBERS[step]}_verdict')}.json", value)

    def _return_to(self, standing: Standing) -> None:
        policy = self.stage.cast.policy
        if standing.adapter is None:
            policy.restart(seed=self.stage.cast.recipe.seed)
        else:
            policy.load_adapter(standing.adapter)
