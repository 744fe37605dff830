"""Whether an export says what the run's own team says: both answer the same questions, with the likeliest tokens."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..learn.ranking import score
from ..learn.rollout import sample
from ..model.checkpoint import read
from ..model.loading import computing_dtype, found
from ..records import Rollouts
from ..runs.folder import RunFolder
from ..settings.machine import Machine
from ..settings.recipe import Recipe
from ..stage.cast import Cast, assemble, recall
from ..tasks.questions import questions
from .export import Kind, write_model


@dataclass(frozen=True, slots=True)
class Agreement:
    """questions: asked. same: dialogues that are equal token for token. score, tokens: means of the export's dialogues,
    and of the run's own."""

    questions: int
    same: int
    score: float
    tokens: float
    own_score: float
    own_tokens: float


def check(run: RunFolder, folder: Path, kind: Kind, *, machine: Machine, iteration: int, count: int) -> Agreement:
    """How the export in `folder` answers so many held-out questions beside the run. One of the two is in memory at a
    time. Raises ConfigError for an export that nothing here can read.
    """
    if kind == "lora-gguf" or not (folder / "role_card.json").exists():
        what = "only llama.cpp reads it" if kind == "lora-gguf" else "it holds several adapters"
        raise ConfigError(f"--check cannot ask this export: {what}", where=folder)
    own, own_scores = _answers(recall(run, machine=machine, iteration=iteration), count)
    recipe = Recipe.from_dict(run.manifest["recipe"], where=run.folder / "manifest.json")
    with tempfile.TemporaryDirectory() as between:
        theirs, scores = _answers(_opened(recipe, folder, kind, machine, Path(between)), count)
    pairs = zip(own, theirs, strict=True)
    return Agreement(
        len(own),
        same=sum([t.ids for t in a.dialogues[0].turns] == [t.ids for t in b.dialogues[0].turns] for a, b in pairs),
        score=sum(scores) / len(scores),
        tokens=sum(one.dialogues[0].tokens for one in theirs) / len(theirs),
        own_score=sum(own_scores) / len(own_scores),
        own_tokens=sum(one.dialogues[0].tokens for one in own) / len(own),
    )


def _answers(cast: Cast, count: int) -> tuple[Sequence[Rollouts], list[float]]:
    drawn = questions(cast.recipe.task, "held_out", count, seed=0)
    fitted, _ = cast.fit(cast.team, drawn)
    asked = sample(
        cast.team, fitted, rollouts=1, sampling=cast.sampling(cast.team, greedy=True), seed=(cast.recipe.seed,)
    )
    return asked, [score(one.question, one.dialogues[0], scoring=cast.team.scoring) for one in asked]


def _opened(recipe: Recipe, folder: Path, kind: Kind, machine: Machine, between: Path) -> Cast:
    """The team with the export in place of the run's model."""
    if kind == "adapter":
        cast = assemble(recipe, machine=machine, settle=lambda key, decide: decide())
        cast.policy.load_adapter(folder)
        return cast
    if kind in ("gguf", "ollama"):
        _from_gguf(next(folder.glob("*.gguf")), recipe, machine, between)
    place = folder if kind == "merged" else between
    model = recipe.model.model_copy(update={"name": str(place), "quantization": "none"})
    return assemble(recipe.model_copy(update={"model": model}), machine=machine, settle=lambda key, decide: decide())


def _from_gguf(file: Path, recipe: Recipe, machine: Machine, target: Path) -> None:
    """The weights of a GGUF file as transformers reads them, with the base's own config and tokenizer, which its reader
    does not take from the file as they are."""
    base = read(found(recipe.model.name, machine=machine))
    with redirect_stderr(io.StringIO()):  # its reader draws a bar of its own
        model = base.architecture.from_pretrained(file.parent, gguf_file=file.name, dtype=computing_dtype())
    weights = model.state_dict()
    if base.config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    write_model(target, base, recipe, weights.items(), dtype=computing_dtype())
