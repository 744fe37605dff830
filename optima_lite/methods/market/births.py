"""Who writes the strategies of children: the base model, or a draw from the recipe's list.

The model sees training questions only, and their right answers where an agent is to be repaired; it must write general
advice. What names the answer is not taken, since it would be learnt by heart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from ...learn.bidders import Bidders
from ...model.sampling import Sampling, row_key
from ...settings.workflow import SHARED
from ...team.episodes import Trace
from ...team.prompts import Message
from .evolution import Request

_SYSTEM = "You write strategies for the agents of a team. A strategy is general advice for any question of the task."
_MUTATE = "Write another strategy for this agent, which may work better."
_REPAIR = (
    "Write a strategy for this agent with which its team would not fail like that again. Advise in general: name "
    "nothing of this question, and not its answer."
)
_FORM = "At most five sentences. Answer with the strategy alone."
_SHORTEST = 3  # characters of an answer that is looked for in a strategy; shorter ones are in every text


@dataclass
class Writer:
    """Writes strategies, keyed by `seed` and the order in which they are asked for. spent: tokens sampled so far."""

    agents: Bidders
    sampling: Sampling
    seed: Sequence[object]
    spent: int = 0
    asked: int = 0

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """A strategy for each request."""
        keys = [row_key(*self.seed, "birth", self.asked + k) for k in range(len(requests))]
        self.asked += len(requests)
        if self.agents.rules.births_by == "variants":
            return [self._drawn(request, key) for request, key in zip(requests, keys, strict=True)]
        renderer = self.agents.renderer
        prompts = [renderer.prompt(self._told(request)) for request in requests]
        self.agents.generator.policy.wear(SHARED)  # which a market never trains
        written = self.agents.generator.generate(prompts, sampling=self.sampling, keys=keys)
        self.spent += sum(map(len, written))
        return [self._taken(request, renderer.text(ids)) for request, ids in zip(requests, written, strict=True)]

    def _drawn(self, request: Request, key: int) -> str:
        others = [text for text in self.agents.rules.variants[request.parent.role] if text != request.parent.strategy]
        return Random(key).choice(others)

    def _told(self, request: Request) -> list[Message]:
        parent = request.parent
        lines = [
            f"The agent's role, which stays as it is: {parent.prompt}",
            f"Its strategy: {parent.strategy or 'none'}",
        ]
        if request.trace is not None and request.how == "repair":
            lines += ["", *_failure(request.trace, self._cut), "", _REPAIR, _FORM]
        else:
            lines += ["", _MUTATE, _FORM]
        return [Message("system", _SYSTEM), Message("user", "\n".join(lines))]

    def _cut(self, text: str) -> str:
        """A talk as long as there is room for beside everything else."""
        room = self.agents.generator.policy.max_length // 2
        return self.agents.renderer.cut(text, room)

    def _taken(self, request: Request, text: str) -> str:
        """What was written, as one line; the parent's strategy where that is nothing, or gives the answer away."""
        strategy = " ".join(text.split())
        leaks = request.trace is not None and names_the_answer(strategy, request.trace.question.answers)
        return strategy if strategy and not leaks else request.parent.strategy


def _failure(trace: Trace, cut: Callable[[str], str]) -> list[str]:
    said = [turn for turn in trace.trial.dialogue.turns if turn.ids]
    roles = [move.agent.rpartition("-")[0] for move in trace.trial.moves]
    talk = "\n".join(f"{role}: {turn.text}" for role, turn in zip(roles, said, strict=False))
    return [
        f"Its team failed at this question: {trace.question.text}",
        f"The right answer: {' or '.join(trace.question.answers)}",
        "What was said:",
        cut(talk) or "(nothing)",
    ]


def names_the_answer(strategy: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in a strategy, as words of its own."""
    found = (re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", strategy, re.IGNORECASE) for answer in answers)
    return any(match is not None for answer, match in zip(answers, found, strict=True) if len(answer) >= _SHORTEST)
