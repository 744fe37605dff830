"""The card of an export: README.md, for people, with the results in front as the hub reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..records import UNKNOWN, EvalRow
from ..runs.evaluations import evaluations, iteration_of
from ..runs.folder import RunFolder
from ..runs.steps import Taught, learnt_from

_USES = {
    "adapter": "A LoRA adapter in PEFT's format: `PeftModel.from_pretrained(base, FOLDER)` on the base named above.",
    "merged": "The whole model with the adapter in its weights: `AutoModelForCausalLM.from_pretrained(FOLDER)`.",
    "gguf": "The whole model as one GGUF file, for llama.cpp and what is built on it.",
    "lora-gguf": "A LoRA adapter as a GGUF file: `llama-cli -m BASE.gguf --lora FILE`, on the same base.",
    "ollama": "The whole model as one GGUF file, with a Modelfile a role: `ollama create NAME -f Modelfile.ROLE`.",
}
_TEXT = """
# {name}

Agents that share one model and were trained by optima-lite (the method: arXiv 2410.08115) to solve more and say less:
task `{task}`, base `{base}`, seed {seed}, iteration {iteration}. The licence of the base holds for what is made of it.
{taught}
{use}

`role_card.json` says what each role is told, in which order they speak, when a dialogue ends and how it is sampled. A
model that is asked in another layout than it was trained in answers worse.

## Results

{questions} held-out questions. Tokens are all that the agents say to each other; in brackets 95 % intervals.

| | score | tokens a dialogue | tokens per right answer |
|---|---|---|---|
{rows}
"""


def write_card(folder: Path, run: RunFolder, iteration: int, *, kind: str) -> None:
    """Write README.md: what it is, how it is used, what it scores beside the untrained team and the single agent."""
    recipe = run.manifest["recipe"]
    rows = [row for row in evaluations(run) if iteration_of(row) in (None, iteration)]
    own = [row for row in rows if iteration_of(row) == iteration]
    base = recipe["model"]["name"]
    data = ModelCardData(
        model_name=run.folder.resolve().name,
        base_model=base if base.count("/") == 1 and not base.startswith((".", "/", "~")) else None,
        library_name="peft" if kind == "adapter" else "gguf" if "gguf" in kind or kind == "ollama" else "transformers",
        pipeline_tag="text-generation",
        tags=["optima-lite", "multi-agent", "lora"],
        eval_results=[result for row in own for result in _results(row, str(recipe["task"]["name"]))] or None,
    )
    text = _TEXT.format(
        name=run.folder.resolve().name,
        task=recipe["task"]["name"],
        base=Path(base).name if "/" in base and data.base_model is None else base,
        seed=recipe["seed"],
        iteration=iteration,
        taught="".join(map(_licence, learnt_from(run))),
        use=_USES[kind],
        questions=own[0].questions if own else "no",
        rows="\n".join(map(_line, rows)),
    )
    (folder / "README.md").write_text(f"---\n{data.to_yaml().strip()}\n---\n{text}", encoding="utf-8")


def _results(row: EvalRow, task: str) -> list[Any]:
    found = (
        ("score", row.score, [row.score_low, row.score_high]),
        ("tokens_per_dialogue", row.tokens, [row.tokens_low, row.tokens_high]),
        ("tokens_per_right_answer", row.tokens_per_correct, None),
    )
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=f"{task} ({row.questions} held-out questions)",
            metric_type=metric,
            metric_name=f"{metric.replace('_', ' ')}, {row.decoding}",
            metric_value=round(value, 4),
            metric_args={"decoding": row.decoding, "interval": interval},
        )
        for metric, value, interval in found
        if value is not None
    ]


def _licence(taught: Taught) -> str:
    """What is said of demonstrations that were trained on."""
    licence = "of an unknown licence" if taught.licence == UNKNOWN else f"under the licence {taught.licence}"
    source = "" if taught.source is None else f", from {taught.source}"
    return f"\nTrained on {taught.selected} demonstrations of {taught.teacher} as well, {licence}{source}.\n"


def _line(row: EvalRow) -> str:
    per_right = "-" if row.tokens_per_correct is None else f"{row.tokens_per_correct:.1f}"
    tokens = "" if row.tokens_low is None else f" [{row.tokens_low:.1f}, {row.tokens_high:.1f}]"
    name = f"{row.name.replace('_', ' ')}, {row.decoding}"
    score = f"{row.score:.3f} [{row.score_low:.2f}, {row.score_high:.2f}]"
    return f"| {name} | {score} | {row.tokens:.1f}{tokens} | {per_right} |"
