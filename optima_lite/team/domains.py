"""The prompts among which a search may choose, for each role: its own first, then others that mean the same. Pure.

They are listed in the recipe, are the role's own with a format of the pool, or are written by a model that is asked to
say the same in another style. Whatever is tried has the placeholders of the role's own prompt: without {name} an agent
would not know who it is, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random

from ..errors import ConfigError
from ..records import Domain, Prompt
from ..settings.consistency import PLACEHOLDER
from ..settings.layers import near_names
from ..settings.workflow import Workflow, told
from .prompts import FORMATS, Message

OWN, LISTED, WRITTEN = "own", "listed", "written"
_FORMAT = "format "

_MARKS = ("<A>answer</A>", r"\boxed{answer}", "```python")  # by one of them an answer is found

# The styles in which a prompt can be written anew; a request draws one of every dimension.
STYLES = {
    "length": ("one sentence", "two or three sentences", "a short paragraph", "as long as the original"),
    "tone": ("plain", "friendly", "strict", "matter-of-fact", "encouraging"),
    "order": ("the aim first, then the rules", "the rules first, then the aim", "in the order of the work"),
    "layout": ("running text", "a list of numbered rules", "a list of short lines", "a heading and two sentences"),
    "person": ("speak to the agent as you", "describe the role from outside", "commands without a subject"),
    "detail": ("only what must be said", "with the reason for each rule", "with a warning about the usual mistake"),
    "manner of answering": ("short messages", "complete sentences", "facts only", "one thought a line"),
    "care": ("check before answering", "answer at once when sure", "name what is still unknown"),
    "cooperation": ("build on what others said", "trust the others' facts", "question what others say"),
    "stance": ("an expert", "a careful clerk", "a quick problem solver", "a teacher"),
}
_ASK = (
    "Below is the instruction of an agent. Write it anew so that it means the same, in this style:\n{style}\n"
    "Keep these words exactly as they are, since they are filled in later: {kept}. Write nothing but the new "
    "instruction.\n\nInstruction:\n{own}"
)


def given(
    workflow: Workflow, *, listed: Mapping[str, Sequence[str]], formats: Sequence[str] = ()
) -> tuple[Domain, ...]:
    """The domain of every role: its own prompt, that in each of the `formats`, and what is `listed` for it by name.

    A role that takes no formats by itself gets them, too. Raises ConfigError for a role that there is not, for a prompt
    with other placeholders than the role's own, and for one that is there twice.
    """
    problems = list(_problems(workflow, listed))
    if problems:
        raise ConfigError("\n  ".join(problems))
    return tuple(
        Domain(
            role.name,
            (
                Prompt(role.system, OWN),
                *(Prompt(f"{role.system} {FORMATS[name]}", _FORMAT + name) for name in formats),
                *(Prompt(text, LISTED) for text in listed.get(role.name, ())),
            ),
        )
        for role in workflow.roles
    )


def _problems(workflow: Workflow, listed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    names = [role.name for role in workflow.roles]
    for name, texts in listed.items():
        where = f"prompt_search.domains.{name}"
        if name not in names:
            yield f"{where}: there is no such role; {near_names(name, names)}"
            continue
        own = workflow.roles[names.index(name)].system
        for number, text in enumerate(texts, start=1):
            if unlike := differing(text, own):
                yield f"{where}: item {number} {unlike}"
            if text in (own, *texts[: number - 1]):
                yield f"{where}: item {number} is there already"


def differing(text: str, own: str) -> str:
    """What is wrong with the placeholders of a prompt, as the rest of a sentence; empty if they are those of `own`."""
    there, wanted = set(PLACEHOLDER.findall(text)), set(PLACEHOLDER.findall(own))
    if missing := sorted(wanted - there):
        return f"lacks {' and '.join(missing)}, which the role's own prompt has"
    if foreign := sorted(there - wanted):
        return f"has {' and '.join(foreign)}, which the role's own prompt has not"
    return ""


def combined(domains: Sequence[Domain], combination: Sequence[int]) -> dict[str, Prompt]:
    """The prompts that a combination means, by the role's name: for each domain the number of its prompt."""
    return {own.role: own.prompts[number] for own, number in zip(domains, combination, strict=True)}


def with_prompts(workflow: Workflow, prompts: Mapping[str, Prompt]) -> Workflow:
    """The workflow in which these roles have these prompts. Where one holds a format already, the role takes no second
    one from the pool."""
    told_anew = told(workflow, {role: prompt.system for role, prompt in prompts.items()})
    formatted = {role for role, prompt in prompts.items() if prompt.origin.startswith(_FORMAT)}
    roles = tuple(replace(role, formats=role.formats and role.name not in formatted) for role in told_anew.roles)
    return replace(told_anew, roles=roles)


def written(
    domain: Domain, *, wanted: int, write: Callable[[Sequence[Sequence[Message]]], tuple[Sequence[str], int]], seed: int
) -> Domain:
    """The domain with at most `wanted` more prompts: half as many again are asked for, each in a style of its own, and
    the first that are faithful and new are kept.

    write: requests to texts, and the tokens sampled for them. seed: of the styles.
    """
    own = domain.prompts[0].system
    rng = Random(f"{seed}/{domain.role}")
    texts, tokens = write([_request(own, rng) for _ in range(wanted + (wanted + 1) // 2)])
    there = {prompt.system for prompt in domain.prompts}
    faithful = [text for text in map(str.strip, texts) if is_faithful(text, own) and text not in there]
    new = [Prompt(text, WRITTEN) for text in dict.fromkeys(faithful)][:wanted]
    return Domain(domain.role, (*domain.prompts, *new), tokens)


def is_faithful(text: str, own: str) -> bool:
    """Whether what a model wrote can stand for a prompt: with its placeholders, and with the mark of its answers."""
    return bool(text) and not differing(text, own) and all(mark in text for mark in _MARKS if mark in own)


def _request(own: str, rng: Random) -> list[Message]:
    style = "\n".join(f"- {name}: {rng.choice(options)}" for name, options in STYLES.items())
    kept = [*dict.fromkeys(PLACEHOLDER.findall(own)), *(mark for mark in _MARKS if mark in own)]
    asked = _ASK.replace("{style}", style).replace("{kept}", ", ".join(kept) or "(none)").replace("{own}", own)
    return [Message("system", "You write instructions for agents."), Message("user", asked)]
