"""What a child with an adapter of its own is born with: its parent's weights, and for a child of the richest also what
its parent won with, learnt by imitation. The published method leaves this to come; it has agents of prompts alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ...learn.bidders import Bidders
from ...learn.sft import fine_tune
from ...model.sampling import seed_of
from ...runs.folder import birth_stage
from ...settings.agents import Agent
from ...settings.workflow import SHARED
from ...stage.cast import dress
from ...stage.stage import Stage
from ...team.episodes import Birth, Market

_FACTS = "training.json"


class Nursery:
    """Raises the children of an episode. market: as the episode begins. trained: tokens that they were trained on,
    times epochs."""

    def __init__(self, stage: Stage, iteration: int, market: Market) -> None:
        self.stage, self.iteration, self.market = stage, iteration, market
        self.trained = 0

    def __call__(self, parent: Agent, birth: Birth) -> None:
        """Makes the child's adapter, or finds it in the run folder, and has the policy hold it."""
        if birth.child.adapter == SHARED:
            return
        stage = self.stage
        folder = stage.run.folder_stage(
            birth_stage(self.iteration, birth.child.name), lambda beside: self._make(beside, parent, birth)
        )
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        self.trained += facts["trainer_tokens"] * facts["epochs"]
        stage.cast.policy.load_one(birth.child.adapter, folder)

    def _make(self, folder: Path, parent: Agent, birth: Birth) -> None:
        cast, bidders = self.stage.cast, self.stage.cast.team
        assert isinstance(bidders, Bidders)
        bidders.generator.release()
        inherited = Agent(parent.name, parent.role, adapter=birth.child.adapter)  # its weights, in the child's place
        dress(cast, self.stage.run, [inherited])
        wins = self.market.wins.get(parent.name, ()) if cast.recipe.market.imitation and birth.how == "mutate" else ()
        lessons = [lesson for win in wins if (lesson := bidders.lesson(win, parent.name)) is not None]
        with cast.meter("train"):
            facts = fine_tune(
                cast.policy,
                lessons,
                settings=cast.recipe.training,
                micro_batch=cast.micro_batch,
                seed=seed_of(cast.recipe.seed, birth.child.name, "nurture"),
                on_step=lambda done: None,
                notify=self.stage.note,
            )
        cast.policy.save_adapter(folder)
        (folder / _FACTS).write_text(json.dumps(asdict(facts)) + "\n", encoding="utf-8")
