"""What a run has cost and reached, in plain numbers: the content of summary.json and the sums behind it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..records import Rollouts, to_json
from .evaluations import evaluations
from .folder import STARTED, RunFolder, stage_name
from .market import Trade, trades
from .replies import replies_in
from .searches import prompt_search
from .steps import Imitation, Preference, Reinforcement, imitations, preferences, reinforcements


def summary(run: RunFolder) -> dict[str, Any]:
    """The content of summary.json; what is not known is None, and what nobody did is left out.

    adapter: the one in force, relative to the run folder; None untrained. seconds: time spent in all phases, over all
    starts. work: see `work`. training_tokens: tokens sampled for training, plus the trainer's tokens times its epochs;
    None unless every step that has begun, and one in every iteration, has stored both. validation_tokens: sampled to
    judge the steps. elsewhere: what each model elsewhere has said, read and refused in all commands of the run, its
    tokens by its own count, which are among no others.
    """
    timings, trained = run.timings(), run.trained()
    adapter = run.adapter(trained[-1]) if trained else None
    return {
        "recipe": run.manifest.get("recipe_name"),
        "seed": run.manifest["recipe"].get("seed"),
        "adapter": None if adapter is None else adapter.relative_to(run.folder).as_posix(),
        "seconds": round(sum(timing.seconds for timing in timings), 3) if timings else None,
        "work": work(run),
        "training_tokens": next(reversed(training_tokens(run).values()), None),
        "validation_tokens": next(reversed(validation_tokens(run).values()), 0),
        "evaluations": [to_json(row) for row in evaluations(run)],
        **elsewhere(run),
    }


def elsewhere(run: RunFolder) -> dict[str, dict[str, dict[str, int]]]:
    """What models elsewhere have taken, by their names; see `summary`."""
    took = {
        name: {
            "messages": len(replies) - len(replies.refusals),
            "refused": len(replies.refusals),
            "prompt_tokens": replies.prompt_tokens,
            "completion_tokens": replies.completion_tokens,
        }
        for name, replies in replies_in(run.folder).items()
    }
    return {"elsewhere": took} if took else {}


def work(run: RunFolder) -> dict[str, int] | None:
    """What the run has taken of the model besides training, over all starts: see `meter.Counts`. None for runs of
    before this was kept."""
    total: Counter[str] = Counter()
    for timing in run.timings():
        total.update(timing.counts)
    return dict(total) or None


def training_tokens(run: RunFolder) -> dict[int, int | None]:
    """For each iteration that has begun, what its adapter has cost with those before; see `summary`."""
    steps: list[Imitation | Preference | Reinforcement | Trade] = [
        *imitations(run),
        *preferences(run),
        *reinforcements(run),
        *trades(run),
    ]
    if search := prompt_search(run):
        return {0: search.tokens}
    spent: dict[int, int | None] = {}
    total: int | None = 0
    for iteration in run.iterations():
        costs = [_training_cost(one) for one in steps if one.iteration == iteration] or [None]
        for cost in costs:
            total = None if total is None or cost is None else total + cost
        spent[iteration] = total
    return spent


def validation_tokens(run: RunFolder) -> dict[int, int]:
    """For each iteration that has begun, what was sampled to judge the steps up to then, and the untrained pair."""
    spent: dict[int, int] = {}
    total = _sampled(run, "validation/untrained")
    if search := prompt_search(run):
        return {0: search.confirming}
    for iteration in run.iterations():
        total += sum(_sampled(run, stage_name(iteration, stage)) for stage in ("5_validation", "9_validation"))
        spent[iteration] = total
    return spent


def _sampled(run: RunFolder, stage: str) -> int:
    return sum(dialogue.tokens for group in run.read(stage, Rollouts) for dialogue in group.dialogues)


def preparation_tokens(run: RunFolder) -> dict[int, int | None]:
    """For each iteration that has begun, all that was spent on its adapter: to train, to judge what was trained, and
    before, in the run that it started from."""
    judged, earlier = validation_tokens(run), spent_before(run)
    return {
        i: None if spent is None or earlier is None else earlier + spent + judged[i]
        for i, spent in training_tokens(run).items()
    }


def spent_before(run: RunFolder) -> int | None:
    """What the run that this one started from had spent; None where it is not known."""
    before: int | None = (run.read_json(f"{STARTED}.json") or {"preparation": 0})["preparation"]
    return before


def _training_cost(step: Imitation | Preference | Reinforcement | Trade) -> int | None:
    if isinstance(step, Trade):
        return step.spent
    return None if step.trainer_tokens is None else step.tokens + step.trainer_tokens
