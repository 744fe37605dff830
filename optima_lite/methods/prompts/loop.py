"""The method, in the order in which it runs: the prompts there are, the search, the confirmation, the result.

MASPOB (arXiv 2603.02630): one prompt for every role of a fixed workflow, chosen together, in few evaluations; no weight
changes. An evaluation is a dialogue about each of the same validation questions. The combination that looked best has
also been the luckiest, so it meets everybody's own prompts once more on questions that the search has not seen, and is
given up where it is worse beyond noise. Held-out questions decide nothing.

Everything is stored as it comes, dialogues by combination, so that the same command resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from ...errors import DataError
from ...learn.ranking import ranked
from ...learn.reward import rewards, scale
from ...learn.rollout import Agents
from ...records import Domain, Question, Rollouts, Trial
from ...runs.chosen import PASTE, PROMPTS, as_yaml
from ...runs.folder import stage_name
from ...runs.progress import Advance
from ...runs.searches import ATTENTION, CONFIRMED, DIALOGUES, TRIALS
from ...runs.steps import Verdict
from ...settings.sections import RewardSettings
from ...stage.cast import Cast
from ...stage.dialogues import Talk
from ...stage.evaluate import undecided
from ...stage.stage import Stage
from ...statistics import FEWEST, of_change
from ...tasks.questions import questions
from ...team.domains import combined, with_prompts
from .attention import between_roles
from .choices import domains, space_of, with_longest
from .plan import PARTS
from .search import best, budget, scaled, search
from .space import Combination, Space

Worth = Callable[[Sequence[Rollouts]], list[float]]
"""What is sought, of each question: the mean over its dialogues."""


def improve(stage: Stage, held_out: Sequence[Question]) -> None:
    """The search, its confirmation, and the team with what was chosen on the held-out questions, sampled and greedy.

    Raises ConfigError where there is nothing to choose among, DataError where the validation split is too small.
    """
    team, choices = stage.cast.team, domains(stage)
    asked, fresh = _questions(stage, with_longest(team, choices))
    box = space_of(stage.crew, choices)
    own = _own(stage, choices, asked)
    worth = _worth(stage, own)
    trials = _search(stage, choices, box, asked, own, worth)
    prompts = combined(choices, best(trials).combination)
    improved = replace(team, workflow=with_prompts(team.workflow, prompts))
    verdict = _confirm(stage, improved, fresh, worth)
    _tell(stage, trials, verdict)
    _look(stage, box, trials)
    stage.run.write_json(f"{stage_name(0, PROMPTS)}.json", prompts)
    stage.run.write_json(f"{stage_name(0, '5_verdict')}.json", {"step": "prompts", **asdict(verdict), "adapter": None})
    in_force = improved if verdict.verdict == "keep" else team
    stage.run.write_text(PASTE, as_yaml({role.name: role.system for role in in_force.workflow.roles}))
    for greedy in (False, True):
        stage.evaluate(in_force, held_out, "iteration_0", greedy=greedy, iteration=0)


def _questions(stage: Stage, longest: Agents) -> tuple[list[Question], list[Question]]:
    """The validation questions of the search, and those of the confirmation; where there are too few, shares of them.

    longest: the agents with the longest prompts, whom the facts must fit.
    """
    recipe = stage.cast.recipe
    how = recipe.prompt_search
    wanted = how.questions + how.confirmation_questions
    drawn = questions(recipe.task, "validation", wanted, seed=0)
    if len(drawn) < 2:
        what = "the validation split needs a question for the search and another for its confirmation"
        raise DataError(what, where="prompt_search.questions", hint="more rows, or a larger task.validation_share")
    fitted = stage.fit(longest, drawn, stage_name(0, "0_questions"))
    cut = min(max(1, round(len(drawn) * how.questions / wanted)), len(drawn) - 1)
    if len(drawn) < wanted:
        stage.note(f"there are {len(drawn)} validation questions: {cut} for the search, the rest to confirm its result")
    return fitted[:cut], fitted[cut:]


def _own(stage: Stage, choices: Sequence[Domain], asked: Sequence[Question]) -> Sequence[Rollouts]:
    """The dialogues with everybody's own prompts: the first evaluation of the search, and the scale of all rewards."""
    total = len(asked) * stage.cast.recipe.prompt_search.repeats
    with stage.phase("own prompts", iteration=0, total=total, unit="dialogues", parts=PARTS) as advance:
        return _talk(stage, choices, asked, (0,) * len(choices), advance)


def _worth(stage: Stage, own: Sequence[Rollouts]) -> Worth:
    recipe, team = stage.cast.recipe, stage.cast.team
    common = scale(own, percentile=recipe.search.normaliser_percentile, settings=recipe.reward)

    def of_question(group: Rollouts) -> float:
        if recipe.prompt_search.objective == "score":
            return fmean(one.task for one in group.rewards)
        roles = team.workflow.names
        return fmean(
            one.total for one in rewards([group], scale=common, settings=recipe.reward, roles=roles, own=team.own)
        )

    return lambda found: [of_question(group) for group in found]


def _search(
    stage: Stage,
    choices: Sequence[Domain],
    box: Space,
    asked: Sequence[Question],
    own: Sequence[Rollouts],
    worth: Worth,
) -> list[Trial]:
    """Every evaluation, each stored before the next is chosen."""
    recipe = stage.cast.recipe
    how = recipe.prompt_search
    count, each = budget(box, how), len(asked) * how.repeats
    if count < how.evaluations:
        stage.note(f"there are {count} combinations: all of them are evaluated, which is less than the budget")
    stored = stage.run.rows(TRIALS, Trial, chunk=1, total=count)
    with stage.phase("search", iteration=0, total=(count - 1) * each, unit="dialogues", parts=PARTS) as advance:
        advance(max(0, len(stored) - 1) * each, stored=True)

        def evaluate(combination: Combination) -> Trial:
            found = _talk(stage, choices, asked, combination, advance) if any(combination) else own
            return _trial(combination, found, worth)

        trials = [*stored]
        for made in search(box, evaluate=evaluate, history=trials, settings=how, seed=recipe.seed):
            stage.run.append(TRIALS, [made])
            trials.append(made)
        return trials


def _talk(
    stage: Stage, choices: Sequence[Domain], asked: Sequence[Question], combination: Combination, advance: Advance
) -> Sequence[Rollouts]:
    """The dialogues of one evaluation, with their rewards. Every combination gets the same random numbers."""
    recipe, team = stage.cast.recipe, stage.cast.team
    agents = replace(team, workflow=with_prompts(team.workflow, combined(choices, combination)))
    each = recipe.prompt_search.repeats
    talk = Talk(agents.speakers, each, stage.cast.sampling(agents), (recipe.seed, "evaluation"), formats=())
    name = DIALOGUES + "-".join(map(str, combination))
    found = stage.made(name, Rollouts, asked, job=Evaluation(talk, recipe.reward), each=each, advance=advance)
    stage.tell_undecided(undecided(found))
    return found


@dataclass(frozen=True)
class Evaluation:
    """A job: dialogues about each question, and their rewards."""

    talk: Talk
    settings: RewardSettings

    def do(self, cast: Cast, items: Sequence[Question], advance: Advance) -> list[Rollouts]:
        """See `crew.Job`."""
        talked = self.talk.do(cast, items, advance)
        scored = ranked(cast.agents(self.talk.speakers), talked, settings=self.settings)
        advance(len(items) * self.talk.rollouts, part=PARTS[1])
        return scored


def _trial(combination: Combination, found: Sequence[Rollouts], worth: Worth) -> Trial:
    return Trial(
        combination,
        value=fmean(worth(found)),
        scores=tuple(fmean(one.task for one in group.rewards) for group in found),
        tokens=tuple(fmean(one.tokens for one in group.dialogues) for group in found),
        sampled=sum(one.tokens for group in found for one in group.dialogues),
    )


def _confirm(stage: Stage, improved: Agents, fresh: Sequence[Question], worth: Worth) -> Verdict:
    """What was chosen against everybody's own prompts, on questions that the search has not seen."""
    before, after = (
        worth(stage.examine(agents, fresh, CONFIRMED[name], greedy=False, label=f"confirm {name}", iteration=0))
        for name, agents in (("own", stage.cast.team), ("chosen", improved))
    )
    change = of_change(before, after)
    worse = change is not None and change[1] < 0 and len(fresh) >= FEWEST
    return Verdict(fmean(before), fmean(after), "revert" if worse else "keep", change)


def _look(stage: Stage, box: Space, trials: Sequence[Trial]) -> None:
    """Stores which roles attention looks at once it has learnt all evaluations, for the report."""
    if stage.run.read_json(ATTENTION) is None:
        seen, values = [one.combination for one in trials], scaled([one.value for one in trials])
        stage.run.write_json(ATTENTION, between_roles(box, seen, values, seed=stage.cast.recipe.seed))


def _tell(stage: Stage, trials: Sequence[Trial], verdict: Verdict) -> None:
    """The winner's curse: what the search saw of its best, and what was left of it on fresh questions."""
    seen, objective = best(trials), stage.cast.recipe.prompt_search.objective
    stage.note(
        f"the best of {len({one.combination for one in trials})} combinations had a {objective} of {seen.value:.3f} on "
        f"the search's {len(seen.scores)} questions, everybody's own prompts {trials[0].value:.3f}; on fresh ones it "
        f"is {verdict.after:.3f} against {verdict.before:.3f}"
    )
    if verdict.verdict == "revert":
        stage.note("on fresh questions the chosen prompts are worse, so everybody's own stay in force")
