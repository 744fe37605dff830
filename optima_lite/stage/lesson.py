"""A training step as frozen data: each adapter of a team on its own rows, from its beginning to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..learn.dpo import PairIds, PreferenceFacts
from ..learn.episodes import Episode
from ..learn.rl import ReinforceFacts
from ..learn.sft import Optimising, TrainingFacts
from ..model.policy import places
from ..model.render import Rendered
from ..model.sampling import seed_of
from ..runs.card import write_adapter_card
from ..runs.progress import Advance
from .cast import Cast

Optimise = Callable[..., TrainingFacts | PreferenceFacts | ReinforceFacts]
Examples = Mapping[str, Sequence[Rendered]] | Mapping[str, Sequence[PairIds]] | Mapping[str, Sequence[Episode]]


def nothing(adapter: str, place: Path) -> None:
    """Puts nothing beside an adapter."""


@dataclass(frozen=True)
class Lesson:
    """What a training step does.

    optimise: `sft.fine_tune`, `dpo.optimise` or `rl.reinforce`, whichever rows and settings are for; without rows an
    adapter stays as it is. rows: of every adapter of the team. name: of the stage. beside: puts what else an adapter
    needs into its folder.
    """

    optimise: Optimise
    rows: Examples
    settings: Optimising
    iteration: int
    name: str
    beside: Callable[[str, Path], None] = nothing

    def do(self, cast: Cast, folder: Path, advance: Advance, notify: Callable[[str], None]) -> None:
        """Trains the adapters of a cast, which then speaks with them, and fills an empty folder with what comes of it.
        Raises as `optimise` does."""
        cast.team.generator.release()
        found = []
        for adapter, place in places(folder, [*self.rows]).items():
            facts = self._learn(cast, adapter, advance, notify)
            cast.policy.save_adapter(place)
            self.beside(adapter, place)
            self._describe(cast, place, adapter, facts)
            found.append(facts)
        _write_facts(folder, together(found))

    def _learn(self, cast: Cast, adapter: str, advance: Advance, notify: Callable[[str], None]) -> dict[str, Any]:
        seed, rows = (cast.recipe.seed, self.iteration, self.name), self.rows[adapter]
        if self.settings.restart == "base" and rows:
            cast.policy.restart(seed=seed_of(*seed, "restart"), names=(adapter,))
        cast.policy.wear(adapter)
        with cast.meter("train"), _threads(cast.training_threads):
            facts = self.optimise(
                cast.policy,
                rows,
                settings=self.settings,
                micro_batch=cast.micro_batch,
                seed=seed_of(*seed, "shuffle"),
                on_step=advance,
                on_loss=lambda loss: advance(0, loss=loss),
                notify=notify,
            )
        return asdict(facts)

    def _describe(self, cast: Cast, folder: Path, adapter: str, facts: dict[str, Any]) -> None:
        """Puts what an adapter has learnt, and a card that says whose it is, beside its weights."""
        team, recipe = cast.team.workflow, cast.recipe.to_dict()
        speakers = [role.name for role in team.roles if role.adapter == adapter] if len(team.adapters) > 1 else []
        _write_facts(folder, facts)
        write_adapter_card(folder, recipe, team=team.name, speakers=speakers, iteration=self.iteration, facts=facts)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """torch computes with so many threads in the `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What training several adapters did in all, from the facts of each: rows, tokens and steps add up; epochs are
    means over tokens, losses and shifts over steps. The facts of one are what they are."""
    trained = [part for part in parts if part["rows"]] or [*parts[:1]]
    if len(trained) == 1:
        return trained[0]

    def mean(name: str, weight: str) -> float | None:
        known = [(part[name], part[weight]) for part in trained if part[name] is not None]
        if not known or len({value for value, _ in known}) == 1:
            return known[0][0] if known else None
        return sum(value * count for value, count in known) / sum(count for _, count in known)

    sums = {name: sum(part[name] for part in trained) for name in ("rows", "trainer_tokens", "steps")}
    stopped = {"stopped": any(part["stopped"] for part in trained)} if "stopped" in trained[0] else {}
    apart = [name for name in trained[0] if name not in (*sums, *stopped, "epochs")]
    means = {name: mean(name, "steps") for name in apart}
    found = sums | {"epochs": mean("epochs", "trainer_tokens")} | means | stopped
    return {name: found[name] for name in trained[0]}


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / "training.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
