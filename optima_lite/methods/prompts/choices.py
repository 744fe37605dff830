"""What a search may choose among: the prompts of every role, listed or written, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ConfigError
from ...learn.rollout import Agents
from ...model.embedding import embeddings
from ...model.sampling import Sampling, row_key
from ...records import Domain
from ...runs.progress import Advance
from ...runs.searches import DOMAINS
from ...settings.recipe import Recipe
from ...settings.workflow import Workflow
from ...stage.cast import Cast
from ...stage.crew import Crew, done
from ...stage.stage import Stage
from ...team.domains import combined, given, with_prompts, written
from ...team.graph import edges, loop
from ...team.prompts import Message, instructed
from .space import Space, space

_LONGEST = 3  # times a role's own prompt that a written one may be, in tokens
_SHORTEST = 64  # tokens that it may have in any case


def require(recipe: Recipe, workflow: Workflow) -> None:
    """Raises the ConfigError of prompts that cannot be tried, of nothing to choose among, and of a loop in the way."""
    how = recipe.prompt_search
    listed = given(workflow, listed=how.domains, formats=recipe.prompts.formats if how.formats else ())
    if not how.written and all(len(own.prompts) == 1 for own in listed):
        hint = "prompt_search.domains with prompts for a role, prompt_search.formats=true, or prompt_search.written=8"
        raise ConfigError("there is nothing to choose among: every role has its own prompt alone", hint=hint)
    ring = loop(edges(workflow))
    if how.edges == "dag" and ring:
        names = " -> ".join(workflow.roles[role].name for role in ring)
        what = f"prompt_search.edges is dag, and roles of the team {workflow.name} read each other in a loop ({names})"
        raise ConfigError(what, hint="prompt_search.edges=both: a role has one prompt, however often it speaks")


def domains(stage: Stage) -> Sequence[Domain]:
    """Every role's prompts, its own first; those that the model writes are written once and stored."""
    recipe, workflow = stage.cast.recipe, stage.cast.team.workflow
    how, names = recipe.prompt_search, [role.name for role in workflow.roles]

    def make() -> list[Domain]:
        listed = {name: texts for name, texts in how.domains.items() if name in names}  # an agent alone has none
        found = given(workflow, listed=listed, formats=recipe.prompts.formats if how.formats else ())
        return [_with_written(stage, own) for own in found] if how.written else [*found]

    found = stage.run.whole(DOMAINS, Domain, make)
    if all(len(own.prompts) == 1 for own in found):
        raise ConfigError("there is nothing to choose among: every role has its own prompt alone")
    return found


def _with_written(stage: Stage, domain: Domain) -> Domain:
    """The domain with the prompts that the model writes for it, as it speaks at the beginning of the run."""
    recipe, agents = stage.cast.recipe, stage.cast.team
    wanted = recipe.prompt_search.written

    def write(requests: Sequence[Sequence[Message]]) -> tuple[list[str], int]:
        prompts = [agents.renderer.prompt(one) for one in requests]
        own = len(agents.renderer.encode(domain.prompts[0].system))
        room = stage.cast.policy.max_length - max(map(len, prompts))
        if room < own:
            raise ConfigError(f"model.max_length leaves no room to write a prompt for {domain.role}")
        sampling = Sampling(recipe.prompt_search.writer_temperature, 1.0, min(room, max(_SHORTEST, _LONGEST * own)))
        said = done(stage.crew, Writing(domain.role, sampling), prompts)
        return [agents.renderer.text(ids) for ids in said], sum(map(len, said))

    found = written(domain, wanted=wanted, write=write, seed=recipe.seed)
    there = len(found.prompts) - len(domain.prompts)
    if there < wanted:
        stage.note(f"{there} of the {wanted} prompts that the model was to write for {domain.role} can be used")
    return found


@dataclass(frozen=True)
class Writing:
    """A job: what the model answers to requests for other prompts of a role; requests and answers in tokens."""

    role: str
    sampling: Sampling

    def do(self, cast: Cast, items: Sequence[Sequence[int]], advance: Advance) -> list[tuple[int, ...]]:
        """See `crew.Job`."""
        generator = cast.team.generator
        keys = [row_key(cast.recipe.seed, "prompts", self.role, number) for number in range(len(items))]
        generator.forget()
        return [tuple(ids) for ids in generator.generate(items, sampling=self.sampling, keys=keys)]


@dataclass(frozen=True)
class Embedding:
    """A job: texts, in tokens, as vectors of the base model."""

    def do(self, cast: Cast, items: Sequence[Sequence[int]], advance: Advance) -> list[Tensor]:
        """See `crew.Job`."""
        return [*embeddings(cast.policy, items)]


def space_of(crew: Crew, domains: Sequence[Domain]) -> Space:
    """All combinations, with the base model's embeddings of what each prompt says to its role."""
    agents = crew.cast.team
    read = [torch.stack(done(crew, Embedding(), told)) for told in _told(agents, domains)]
    return space(read, edges(agents.workflow))


def with_longest(agents: Agents, domains: Sequence[Domain]) -> Agents:
    """The agents with the longest prompt of each role: what fits them fits any combination."""
    sizes = [[len(ids) for ids in told] for told in _told(agents, domains)]
    longest = combined(domains, [of.index(max(of)) for of in sizes])
    return replace(agents, workflow=with_prompts(agents.workflow, longest))


def _told(agents: Agents, domains: Sequence[Domain]) -> list[list[tuple[int, ...]]]:
    """For each role, and each of its prompts, what it says with the placeholders filled in, in tokens."""
    encode, workflow = agents.renderer.encode, agents.workflow
    return [
        [encode(instructed(with_prompts(workflow, {own.role: prompt}), number) or " ") for prompt in own.prompts]
        for number, own in enumerate(domains)
    ]
