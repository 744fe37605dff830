"""What a prompt search has stored, in plain numbers: its evaluations, what it chose, and what became of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import Domain, Rollouts, Trial
from .chosen import PROMPTS, Chosen, read_prompts
from .folder import RunFolder, stage_name
from .steps import Verdict, verdict_of

DOMAINS = stage_name(0, "1_domains")
TRIALS = stage_name(0, "2_trials")
DIALOGUES = stage_name(0, "2_dialogues_")  # and the combination
CONFIRMED = {"own": stage_name(0, "3_own"), "chosen": stage_name(0, "3_chosen")}
ATTENTION = f"{stage_name(0, '4_attention')}.json"


@dataclass(frozen=True, slots=True)
class PromptSearch:
    """A search so far. trials: its evaluations in order. roles, sizes: of the domains. chosen: the best combination's
    prompts by role, empty while the search goes on. attention: between roles, see `attention.between_roles`. verdict:
    of the confirmation. written: tokens that writing prompts took; confirming: that the confirmation took."""

    trials: Sequence[Trial]
    roles: tuple[str, ...]
    sizes: tuple[int, ...]
    chosen: Chosen
    attention: list[list[float]]
    verdict: Verdict | None
    written: int
    confirming: int

    @property
    def tokens(self) -> int:
        """Sampled to search, those that the model wrote prompts with included. A repeated evaluation costs nothing."""
        return self.written + sum({one.combination: one.sampled for one in self.trials}.values())

    def best_so_far(self) -> list[float]:
        """The highest value among the first evaluations, for each number of them."""
        found: list[float] = []
        for one in self.trials:
            found.append(max([one.value, *found[-1:]]))
        return found


def prompt_search(run: RunFolder) -> PromptSearch | None:
    """The search of a run; None where there is none yet."""
    trials = [*run.read(TRIALS, Trial)]
    if not trials:
        return None
    domains = [*run.read(DOMAINS, Domain)]
    confirmed = [group for name in CONFIRMED.values() for group in run.read(name, Rollouts)]
    return PromptSearch(
        trials,
        roles=tuple(own.role for own in domains),
        sizes=tuple(len(own.prompts) for own in domains),
        chosen=read_prompts(run.folder / f"{stage_name(0, PROMPTS)}.json"),
        attention=run.read_json(ATTENTION) or [],
        verdict=verdict_of(run, stage_name(0, "5_verdict")),
        written=sum(own.tokens for own in domains),
        confirming=sum(dialogue.tokens for group in confirmed for dialogue in group.dialogues),
    )
