"""What a trained pair has to beat: other ways to answer the same held-out questions with the same model.

All of them speak through one generator, and every token that any agent samples counts: all samples of a vote, all
messages of a debate. What was spent before the first question, on training or on choosing a prompt, stands beside it.
What is asked is stored below the run, so that the same command goes on; the run's own records stay as they are. The
single agent trained as the pair was is among them where a run has trained it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean

from .. import statistics
from ..learn.ranking import flexible_answer, flexible_score, ranked, score
from ..learn.reward import mean, rewards, scale
from ..learn.rollout import Agents, sample
from ..records import Contender, EvalRow, Question, Rollouts
from ..runs.chosen import chosen, has_adapters
from ..runs.folder import STARTED, RunFolder, read_run
from ..runs.progress import Evaluated, Note, Observer, PhaseStarted, Planned, phase
from ..runs.store import Run
from ..runs.summary import preparation_tokens, spent_before
from ..settings.teams import shipped
from ..settings.workflow import speaking_with, told
from ..tasks import jsonl
from ..tasks.questions import questions
from ..team.prompts import AUTOFORM, marked
from ..team.talks import debate
from .cast import Cast, Spoken, agents_after, workflows
from .doctor import versions
from .evaluate import parts_of, summarise, table_row, undecided
from .scaling import Sample, ScalingRow, coverage, largest_group, majority, sizes

AT_ONCE = 400  # dialogues sampled together
BEST_FORMAT = "the best format"
PROMPTS_ONLY = "prompts only"
TRAINED_ALONE = "trained single agent"
ALONE = "single_agent"  # folder in a run's, of the run that trained its single agent


@dataclass(frozen=True)
class _Bench:
    """Asks, and stores what came of it in `kept`. seed: of the sampling. most: questions of any kind to ask."""

    cast: Cast
    seed: int
    most: int
    kept: Run
    observe: Observer

    @property
    def validation(self) -> int:
        """Validation questions that each format is tried on."""
        return min(self.most, self.cast.recipe.evaluation.validation_questions)

    def ask(
        self,
        agents: Agents,
        drawn: Sequence[Question],
        label: str,
        *,
        file: str | None = None,
        samples: int = 1,
        greedy: bool = False,
        formats: Sequence[str] = (),
        rewards: bool = True,
    ) -> Sequence[Rollouts]:
        """`samples` dialogues about each question, with rewards if wanted; samples of one question are always the
        first of more. label: of the phase. file: where it is stored, when not under the label."""
        recipe = self.cast.recipe
        fitted, _ = self.cast.fit(agents, drawn)
        size = max(1, AT_ONCE // samples)
        parts, total = _parts(agents, samples)[: 1 + rewards], len(fitted) * samples
        with phase(self.observe, label, iteration=None, total=total, unit="dialogues", parts=parts) as advance:

            def work(chunk: Sequence[Question]) -> list[Rollouts]:
                talked = sample(
                    agents,
                    chunk,
                    rollouts=samples,
                    sampling=self.cast.sampling(agents, greedy=greedy),
                    seed=(self.seed, "evaluation"),
                    formats=formats,
                    advance=lambda done, tokens: advance(done, tokens=tokens),
                )
                if rewards:
                    talked = ranked(agents, talked, settings=recipe.reward)
                    advance(len(talked) * samples, part=parts[-1])
                return talked

            return self.kept.chunks(
                file or label.replace(" ", "_"),
                Rollouts,
                fitted,
                size=size,
                work=partial(map, work),
                stored=lambda found: advance(found * samples, stored=True),
            )


def compare(
    cast: Cast,
    run: RunFolder,
    *,
    wanted: int | None,
    samples: int,
    seed: int | None,
    observe: Observer,
    others: Sequence[Spoken] = (),
) -> list[Contender]:
    """Every way to answer, in the order of the table, on the recipe's held-out questions or the `wanted` first ones.

    wanted: bounds the validation questions on which formats are tried, too. samples: of the vote (self-consistency).
    others: the team as models elsewhere speak it. The policy speaks with the run's last adapter afterwards.
    """
    recipe = cast.recipe
    cast = _as_the_recipe_has_it(cast, run)
    drawn = questions(recipe.task, "held_out", wanted or recipe.evaluation.questions, seed=0)
    found = []
    with _opened(cast, run, "baselines", wanted=wanted, samples=samples, seed=seed, observe=observe) as bench:
        observe(Planned(tuple(_plan(bench, run, len(drawn), samples=samples))))
        for contender in chain(_elsewhere(bench, drawn, others), _contenders(bench, run, drawn, samples=samples)):
            observe(Evaluated(contender.row))
            found.append(contender)
    return found


@contextmanager
def _opened(
    cast: Cast, run: RunFolder, kind: str, *, wanted: int | None, samples: int, seed: int | None, observe: Observer
) -> Iterator[_Bench]:
    """A bench that stores below the run, in a folder of its own for everything that decides what is said."""
    recipe = cast.recipe
    seed, most = recipe.seed if seed is None else seed, wanted or recipe.evaluation.questions
    limits = {key: run.manifest.get(key) for key in ("threads", "max_batch_tokens", "max_cache_bytes")}
    asked = {"seed": seed, "questions": wanted, "samples": samples, **limits}
    settings = recipe.to_dict()
    del settings["training"]["iterations"]  # a run that went on has the same beginning
    name = f"{kind}/{jsonl.digest(settings, asked)}"
    manifest = {"recipe": recipe.to_dict(), "recipe_name": kind, "variants": [], "versions": versions(), "asked": asked}
    with Run.open(run.folder / name, manifest) as kept:
        yield _Bench(cast, seed, most, kept, observe)


def _parts(agents: Agents, samples: int) -> tuple[str, str]:
    return parts_of(len(agents.workflow.roles)) if samples == 1 else ("sample siblings", "read siblings")


def _plan(bench: _Bench, run: RunFolder, count: int, *, samples: int) -> Iterator[PhaseStarted]:
    """The phases of `_contenders`, for the time left."""
    team, alone, formats = bench.cast.team, bench.cast.single, bench.cast.formats
    yield PhaseStarted("single agent", None, count * samples, "dialogues", _parts(alone, samples))
    yield PhaseStarted("single agent greedy", None, count, "dialogues", _parts(alone, 1))
    yield PhaseStarted("debate", None, count, "dialogues", _parts(team, 1))
    yield PhaseStarted("autoform", None, count, "dialogues", _parts(alone, 1))
    tried = [(f"try format {name}", bench.validation) for name in formats]
    for label, asked in [("untrained", count), *tried, *([(BEST_FORMAT, count)] if formats else [])]:
        yield PhaseStarted(label, None, asked, "dialogues", _parts(team, 1))
    for label in (TRAINED_ALONE, f"{TRAINED_ALONE} greedy") if trained_alone(run) else ():
        yield PhaseStarted(label, None, count, "dialogues", _parts(alone, 1))
    trained = [_label(run, iteration) for iteration in run.trained()]
    begun = [PROMPTS_ONLY] if begins_with_prompts(run) else []
    for label in [*begun, *trained, *(f"{last} greedy" for last in trained[-1:])]:
        yield PhaseStarted(label, None, count, "dialogues", _parts(team, 1))


def _contenders(bench: _Bench, run: RunFolder, drawn: Sequence[Question], *, samples: int) -> Iterator[Contender]:
    cast = bench.cast

    scoring = cast.team.scoring

    def row(name: str, agents: Agents, label: str, *, file: str | None = None, greedy: bool = False) -> EvalRow:
        how = " greedy" if greedy else ""
        stored = f"{file}{how}".replace(" ", "_") if file else None
        asked = bench.ask(agents, drawn, f"{label}{how}", file=stored, greedy=greedy)
        decoding, agrees = "greedy" if greedy else "sampled", agents.workflow.agrees
        return summarise(asked, name=name, decoding=decoding, scoring=scoring, agrees=agrees)

    cast.policy.restart(seed=cast.recipe.seed)
    alone = bench.ask(cast.single, drawn, "single agent", samples=samples)
    yield Contender(summarise(alone, name="single_agent", decoding="sampled", scoring=scoring))
    yield Contender(row("single_agent", cast.single, "single agent", greedy=True))
    if samples > 1:
        yield Contender(voted(alone, name=f"self_consistency_{samples}", cast=cast))
    yield Contender(row("multi_agent_debate", debaters(cast), "debate"))
    yield Contender(row("autoform", autoform(cast), "autoform"))
    yield Contender(row("untrained", cast.team, "untrained"))
    if cast.formats:
        best, tokens = best_format(bench)
        asked = bench.ask(cast.team, drawn, BEST_FORMAT, file=f"format_{best}", formats=(best,))
        agrees = cast.team.workflow.agrees
        found = summarise(asked, name=f"format_{best}", decoding="sampled", scoring=scoring, agrees=agrees)
        yield Contender(found, tokens)
    else:
        bench.observe(Note("the recipe's format pool is empty, so there is no best format to compare with"))
    if control := trained_alone(run):
        last = control.trained()[-1]
        single = speak_after(replace(cast, team=cast.single, start=None), control, last)
        file = f"single_agent_trained_{_weights(control.adapter(last))}"
        for greedy in (False, True):
            found = row("single_agent_trained", single, TRAINED_ALONE, file=file, greedy=greedy)
            yield Contender(found, preparation_tokens(control)[last])
    else:
        bench.observe(Note("the single agent has not been trained as the pair was, so it is missing: --train-single"))
    if begins_with_prompts(run):
        found = row(PROMPTS_ONLY.replace(" ", "_"), speak_after(cast, run, None), PROMPTS_ONLY)
        yield Contender(found, spent_before(run))
    spending = preparation_tokens(run)
    for iteration in run.trained():
        team, label = speak_after(cast, run, iteration), _label(run, iteration)
        file = f"iteration_{iteration}_{_weights(run.adapter(iteration))}"
        for greedy in (False, True) if iteration == run.trained()[-1] else (False,):
            found = row(label.replace(" ", "_"), team, label, file=file, greedy=greedy)
            yield Contender(found, spending[iteration])


def _elsewhere(bench: _Bench, drawn: Sequence[Question], others: Sequence[Spoken]) -> Iterator[Contender]:
    """The team as it is spoken elsewhere; it comes first, so that a ceiling or a wrong address shows at once."""
    for one in others:
        name = f"spoken by {one.name}"
        stored = f"{name}_{hashlib.blake2b(one.model.encode(), digest_size=4).hexdigest()}".replace(" ", "_")
        asked = bench.ask(one.agents, drawn, name, file=stored)
        scoring, agrees = one.agents.scoring, one.agents.workflow.agrees
        row = name.replace(" ", "_")
        yield Contender(summarise(asked, name=row, decoding="sampled", scoring=scoring, agrees=agrees))


def _label(run: RunFolder, iteration: int) -> str:
    """How the table calls the agents after an iteration."""
    return PROMPTS_ONLY if run.manifest["recipe"].get("method") == "prompts" else f"iteration {iteration}"


def begins_with_prompts(run: RunFolder) -> bool:
    """Whether a run has begun with prompts that an earlier one has chosen, and with untrained weights."""
    return bool(chosen(run, None)) and not has_adapters(run.folder / STARTED)


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
    settings, words = cast.recipe.protocol, shipped("debate3").roles[0].system
    team = debate(settings.roles, settings.max_turns, metric=cast.recipe.task.metric)
    equals = marked(told(team, words), team.metric)
    equals = speaking_with(told(equals, cast.recipe.prompts.system or None), cast.team.workflow.adapters[0])
    return replace(cast.single, workflow=equals, layout=cast.team.layout)


def autoform(cast: Cast) -> Agents:
    """The single agent, told to choose a compact form itself."""
    alone = cast.single.workflow
    return replace(cast.single, workflow=told(alone, f"{alone.roles[0].system} {AUTOFORM}"))


def best_format(bench: _Bench) -> tuple[str, int]:
    """The format of the pool whose dialogues have the highest mean reward on the validation split, the first of equals,
    and the tokens that were sampled to find it."""
    recipe, team = bench.cast.recipe, bench.cast.team
    drawn = questions(recipe.task, "validation", bench.validation, seed=0)
    tried: dict[str, Sequence[Rollouts]] = {
        name: bench.ask(team, drawn, f"try format {name}", formats=(name,)) for name in bench.cast.formats
    }
    everything = [group for asked in tried.values() for group in asked]
    common = scale(everything, percentile=recipe.search.normaliser_percentile, settings=recipe.reward)

    def worth(name: str) -> float:
        roles = team.workflow.names
        return mean(rewards(tried[name], scale=common, settings=recipe.reward, roles=roles, own=team.own)).total

    tokens = sum(dialogue.tokens for group in everything for dialogue in group.dialogues)
    return max(tried, key=worth), tokens


def _weights(adapter: Path | None) -> str:
    """What tells an adapter from another that later stands in its place."""
    files = [] if adapter is None else sorted(adapter.rglob("adapter_model*"))
    whole = hashlib.blake2b(digest_size=4)
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _as_the_recipe_has_it(cast: Cast, run: RunFolder) -> Cast:
    """The same agents as the recipe has them, whatever prompts or population the run has come to."""
    if cast.recipe.method == "market":
        return replace(cast, team=agents_after(cast, run, None))
    return replace(cast, team=replace(cast.team, workflow=workflows(cast.recipe)[0]))


def speak_after(cast: Cast, run: RunFolder, iteration: int | None) -> Agents:
    """The agents as they were after an iteration of the run, or at its beginning for None; from here on the policy
    speaks as it did then."""
    adapter = None if iteration is None else run.adapter(iteration)
    if adapter is None:
        cast.begin()
    else:
        cast.policy.load_adapter(adapter)
    return agents_after(cast, run, iteration)


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
    cast = _as_the_recipe_has_it(cast, run)
    ways: list[tuple[str, int | None]] = [] if iteration is None else [(f"iteration_{iteration}", iteration)]
    ways += [("untrained", None), ("single_agent", None)]
    rows = []
    with _opened(cast, run, "scaling", wanted=wanted, samples=samples, seed=seed, observe=observe) as bench:
        for name, trained in ways:
            team = speak_after(cast, run, trained)
            agents = cast.single if name == "single_agent" else team
            file = name if trained is None else f"{name}_{_weights(run.adapter(trained))}"
            asked = bench.ask(agents, drawn, f"sample {name}", file=file, samples=samples, rewards=False)
            drawn_samples = [_samples(group, cast) for group in asked]
            rows += [_scaling_row(name, [one[:size] for one in drawn_samples], cast) for size in sizes(samples)]
    return rows


def _samples(group: Rollouts, cast: Cast) -> list[Sample]:
    scoring = cast.team.scoring
    return [Sample(one.answer, score(group.question, one, scoring=scoring), one.tokens) for one in group.dialogues]


def _flexible_samples(group: Rollouts, cast: Cast) -> list[Sample]:
    scoring = cast.team.scoring
    return [
        Sample(
            flexible_answer(one, metric=scoring.metric),
            flexible_score(group.question, one, scoring=scoring),
            one.tokens,
        )
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
