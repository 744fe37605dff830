"""What a trained pair has to beat: other ways to answer the same held-out questions with the same model.

All of them speak through one generator, and every token that any agent samples counts: all samples of a vote, all
messages of a debate. What was spent before the first question, on training or on choosing a prompt, stands beside it.
The single agent trained as the pair was is among them where a run has trained it; nothing is stored here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from .. import statistics
from ..learn.reward import mean, rewards, scale
from ..learn.rollout import Agents, flexible_answer, flexible_score, ranked, sample, score
from ..records import Contender, EvalRow, Question, Rollouts
from ..runs.progress import Evaluated, Note, Observer, phase
from ..runs.report import preparation_tokens
from ..runs.store import RunFolder, read_run
from ..tasks.questions import questions
from ..team.dialogue import debate
from ..team.prompts import AUTOFORM, DEBATER_SYSTEM, marked, systems
from .cast import Cast
from .evaluate import summarise, table_row, undecided
from .scaling import Sample, ScalingRow, coverage, largest_group, majority, sizes

AT_ONCE = 400  # dialogues sampled together
ALONE = "single_agent"  # folder in a run's, of the run that trained its single agent


@dataclass(frozen=True)
class _Bench:
    """Asks; seed: of the sampling."""

    cast: Cast
    seed: int
    observe: Observer

    def ask(
        self,
        agents: Agents,
        drawn: Sequence[Question],
        label: str,
        *,
        samples: int = 1,
        greedy: bool = False,
        formats: Sequence[str] = (),
        rewards: bool = True,
    ) -> list[Rollouts]:
        """`samples` dialogues about each question, with rewards if wanted; samples of one question are always the
        first of more."""
        recipe = self.cast.recipe
        fitted, _ = self.cast.fit(agents, drawn)
        size = max(1, AT_ONCE // samples)
        found: list[Rollouts] = []
        with phase(self.observe, label, iteration=None, total=len(fitted) * samples, unit="dialogues") as advance:
            for start in range(0, len(fitted), size):
                talked = sample(
                    agents,
                    fitted[start : start + size],
                    rollouts=samples,
                    sampling=self.cast.sampling(agents, greedy=greedy),
                    seed=(self.seed, "evaluation"),
                    formats=formats,
                    advance=lambda done, tokens: advance(done, tokens=tokens),
                )
                if rewards:
                    talked = ranked(agents, talked, settings=recipe.reward)
                found += talked
        return found


def compare(
    cast: Cast, run: RunFolder, *, wanted: int | None, samples: int, seed: int | None, observe: Observer
) -> list[Contender]:
    """Every way to answer, in the order of the table, on the recipe's held-out questions or the `wanted` first ones.

    samples: of the vote (self-consistency). The policy speaks with the run's last adapter afterwards.
    """
    recipe = cast.recipe
    drawn = questions(recipe.task, "held_out", wanted or recipe.evaluation.questions, seed=0)
    bench = _Bench(cast, recipe.seed if seed is None else seed, observe)
    found = []
    for contender in _contenders(bench, run, drawn, samples=samples):
        observe(Evaluated(contender.row))
        found.append(contender)
    return found


def _contenders(bench: _Bench, run: RunFolder, drawn: Sequence[Question], *, samples: int) -> Iterator[Contender]:
    cast = bench.cast

    def row(name: str, agents: Agents, label: str, *, greedy: bool = False, formats: Sequence[str] = ()) -> EvalRow:
        asked = bench.ask(agents, drawn, f"{label} greedy" if greedy else label, greedy=greedy, formats=formats)
        return summarise(asked, name=name, decoding="greedy" if greedy else "sampled", scoring=cast.pair.scoring)

    cast.policy.restart(seed=cast.recipe.seed)
    alone = bench.ask(cast.single, drawn, "single agent", samples=samples)
    yield Contender(summarise(alone, name="single_agent", decoding="sampled", scoring=cast.pair.scoring))
    yield Contender(row("single_agent", cast.single, "single agent", greedy=True))
    if samples > 1:
        yield Contender(voted(alone, name=f"self_consistency_{samples}", cast=cast))
    yield Contender(row("multi_agent_debate", debaters(cast), "debate"))
    yield Contender(row("autoform", autoform(cast), "autoform"))
    yield Contender(row("untrained", cast.pair, "untrained"))
    if cast.recipe.prompts.formats:
        best, tokens = best_format(bench)
        yield Contender(row(f"format_{best}", cast.pair, f"format {best}", formats=(best,)), tokens)
    else:
        bench.observe(Note("the recipe's format pool is empty, so there is no best format to compare with"))
    if control := trained_alone(run):
        speak_after(cast, control, control.trained()[-1])
        spent = preparation_tokens(control)[control.trained()[-1]]
        for greedy in (False, True):
            yield Contender(row("single_agent_trained", cast.single, "trained single agent", greedy=greedy), spent)
    else:
        bench.observe(Note("the single agent has not been trained as the pair was, so it is missing: --train-single"))
    spending = preparation_tokens(run)
    for iteration in run.trained():
        speak_after(cast, run, iteration)
        last = iteration == run.trained()[-1]
        for greedy in (False, True) if last else (False,):
            name, label = f"iteration_{iteration}", f"iteration {iteration}"
            yield Contender(row(name, cast.pair, label, greedy=greedy), spending[iteration])


def trained_alone(run: RunFolder) -> RunFolder | None:
    """The finished run that trained the single agent of this one; None where there is none."""
    folder = run.folder / ALONE
    return read_run(folder) if (folder / "summary.json").exists() else None


def voted(asked: Sequence[Rollouts], *, name: str, cast: Cast) -> EvalRow:
    """The row of a majority vote: tokens, messages and the worst loss are those of all samples of a question together,
    agreement is the share of samples in the largest group."""
    metric = cast.recipe.task.metric
    groups = [largest_group([dialogue.answer for dialogue in group.dialogues], metric=metric) for group in asked]
    return table_row(
        name,
        "sampled",
        scores=[majority(_samples(group, cast), metric=metric) for group in asked],
        tokens=[sum(dialogue.tokens for dialogue in group.dialogues) for group in asked],
        turns=[sum(len(dialogue.turns) for dialogue in group.dialogues) for group in asked],
        agreed=[len(chosen) / len(group.dialogues) for chosen, group in zip(groups, asked, strict=True)],
        losses=[max(reward.worst_loss for reward in group.rewards) for group in asked],
        flexible=[majority(_flexible_samples(group, cast), metric=metric) for group in asked],
        undecided=undecided(asked),
    )


def debaters(cast: Cast) -> Agents:
    """The pair as equals who both see everything and talk until an answer is given twice (multi-agent debate).

    A recipe with words of its own keeps them, because they are what its model understands.
    """
    settings = cast.recipe.protocol
    protocol = debate(settings.roles, settings.max_turns, metric=cast.recipe.task.metric)
    system = cast.recipe.prompts.system or marked(DEBATER_SYSTEM, protocol.metric)
    return replace(cast.pair, protocol=protocol, system=system)


def autoform(cast: Cast) -> Agents:
    """The single agent, told to choose a compact form itself."""
    own = cast.recipe.prompts.solo_system or systems(cast.single.protocol)[0]
    return replace(cast.single, system=f"{own} {AUTOFORM}")


def best_format(bench: _Bench) -> tuple[str, int]:
    """The format of the pool whose dialogues have the highest mean reward on the validation split, the first of equals,
    and the tokens that were sampled to find it."""
    recipe, pair = bench.cast.recipe, bench.cast.pair
    drawn = questions(recipe.task, "validation", recipe.evaluation.validation_questions, seed=0)
    tried: dict[str, list[Rollouts]] = {
        name: bench.ask(pair, drawn, f"try format {name}", formats=(name,)) for name in recipe.prompts.formats
    }
    everything = [group for asked in tried.values() for group in asked]
    common = scale(everything, percentile=recipe.search.normaliser_percentile, settings=recipe.reward)

    def worth(name: str) -> float:
        return mean(rewards(tried[name], scale=common, settings=recipe.reward, roles=pair.protocol.roles)).total

    tokens = sum(dialogue.tokens for group in everything for dialogue in group.dialogues)
    return max(tried, key=worth), tokens


def speak_after(cast: Cast, run: RunFolder, iteration: int | None) -> None:
    """From here on the policy speaks as it did after an iteration of the run, or untrained for None."""
    adapter = None if iteration is None else run.adapter(iteration)
    if adapter is None:
        cast.policy.restart(seed=cast.recipe.seed)
    else:
        cast.policy.load_adapter(adapter)


def scaling(
    cast: Cast,
    run: RunFolder,
    *,
    iteration: int | None,
    wanted: int,
    samples: int,
    seed: int | None,
    observe: Observer,
) -> list[ScalingRow]:
    """Majority and coverage of 1, 2, 4, ... `samples` dialogues a question: the pair after an iteration (where there is
    one), the untrained pair, the single agent; on the `wanted` first held-out questions. Fewer samples are the first of
    more."""
    recipe = cast.recipe
    drawn = questions(recipe.task, "held_out", wanted, seed=0)
    bench = _Bench(cast, recipe.seed if seed is None else seed, observe)
    ways: list[tuple[str, Agents, int | None]] = []
    if iteration is not None:
        ways.append((f"iteration_{iteration}", cast.pair, iteration))
    ways += [("untrained", cast.pair, None), ("single_agent", cast.single, None)]
    rows = []
    for name, agents, trained in ways:
        speak_after(cast, run, trained)
        asked = bench.ask(agents, drawn, f"sample {name}", samples=samples, rewards=False)
        drawn_samples = [_samples(group, cast) for group in asked]
        rows += [_scaling_row(name, [one[:size] for one in drawn_samples], cast) for size in sizes(samples)]
    return rows


def _samples(group: Rollouts, cast: Cast) -> list[Sample]:
    scoring = cast.pair.scoring
    return [Sample(one.answer, score(group.question, one, scoring=scoring), one.tokens) for one in group.dialogues]


def _flexible_samples(group: Rollouts, cast: Cast) -> list[Sample]:
    scoring = cast.pair.scoring
    return [
        Sample(flexible_answer(one), flexible_score(group.question, one, scoring=scoring), one.tokens)
        for one in group.dialogues
    ]


def _scaling_row(name: str, asked: Sequence[Sequence[Sample]], cast: Cast) -> ScalingRow:
    voted = [majority(samples, metric=cast.recipe.task.metric) for samples in asked]
    best = [coverage(samples) for samples in asked]
    voted_low, voted_high = statistics.of_scores(voted)
    best_low, best_high = statistics.of_scores(best)
    return ScalingRow(
        name=name,
        samples=len(asked[0]),
        questions=len(asked),
        tokens=fmean(sum(sample.tokens for sample in samples) for samples in asked),
        majority=fmean(voted),
        majority_low=voted_low,
        majority_high=voted_high,
        coverage=fmean(best),
        coverage_low=best_low,
        coverage_high=best_high,
    )
