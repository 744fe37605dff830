"""A small finished run by hand, for the tests of what is told of a run."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from optima_lite.records import (
    Demonstration,
    Dialogue,
    Ending,
    EvalRow,
    PreferencePair,
    Question,
    Reward,
    Rollouts,
    Tree,
    Turn,
)
from optima_lite.runs.evaluations import evaluation_stage
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.runs.progress import Timing
from optima_lite.runs.store import Run

GOLDEN = Path(__file__).parent / "golden"


RECIPE = {
    "seed": 4,
    "model": {"name": "tiny"},
    "task": {"name": "world"},
    "protocol": {"name": "exchange", "roles": ["Ann", "Ben"]},
    "training": {"iterations": 2},
}


def question(number: int) -> Question:
    text = f"What is the home of the mother of Mira {number}?"
    return Question(f"q{number}", text, ("Portham",), (("Mira mother Tess",), ("Tess home Portham",)))


def dialogue(
    number: int, *messages: str, tokens: int, ending: Ending = Ending.AGREED, fmt: str | None = None
) -> Dialogue:
    each = tokens // len(messages)
    turns = tuple(
        Turn(i % 2, tuple(range(tokens - each * (len(messages) - 1) if i == 0 else each)), text, "Portham")
        for i, text in enumerate(messages)
    )
    return Dialogue(f"q{number}", 0, turns, ending, fmt)


def reward(task: float, *, total: float | None = None) -> Reward:
    return Reward(task if total is None else total, task, 0.5, 0.25, 2.0)


WORDY = (
    " Hello Ben! I would like to tell you that Mira's mother is Tess.",
    " Thank you very much. Tess lives in Portham, so the answer must be <A>Portham</A>.",
    " That is right, I agree with you: <A>Portham</A>",
)


TERSE = (" Mira mother Tess", " <A>Portham</A>", " <A>Portham</A>")


def rollouts(number: int, *, terse: bool, task: float = 1.0, fmt: str | None = None) -> Rollouts:
    messages, tokens = (TERSE, 20) if terse else (WORDY, 100)
    talk = dialogue(number, *messages, tokens=tokens + number, fmt=fmt)
    cut = dialogue(number, " Hm", tokens=56, ending=Ending.TRUNCATED)
    short = dialogue(number, " Tess", " <A>Tess</A>", tokens=8, ending=Ending.MAX_TURNS)
    return Rollouts(question(number), (talk, cut, short), (reward(task), reward(0.0), reward(0.0, total=-0.1)))


def evaluation(name: str, decoding: str, *, score: float, tokens: float, correct: float | None) -> EvalRow:
    return EvalRow(
        name,
        decoding,
        questions=4,
        score=score,
        score_low=max(0.0, score - 0.05),
        score_high=score + 0.05,
        tokens=tokens,
        tokens_low=tokens - 4,
        tokens_high=tokens + 4,
        turns=3.0,
        agreement=0.75,
        tokens_per_correct=correct,
        readability_loss=2.345,
    )


def evaluate(run: Run, row: EvalRow, *, terse: bool, scores: tuple[float, ...]) -> None:
    stage = evaluation_stage(row.name, row.decoding)
    whole = [rollouts(i, terse=terse, task=score) for i, score in enumerate(scores)]
    run.append(stage, [dataclasses.replace(one, dialogues=one.dialogues[:1], rewards=one.rewards[:1]) for one in whole])
    run.write_json(f"{stage}.json", row)


def judged(run: Run, name: str, *, after: float, verdict: str, interval: tuple[float, float] | None = None) -> None:
    """interval: None as in runs of earlier versions."""
    value = {
        "step": "prefer" if "9_verdict" in name else "imitate",
        "before": 0.5,
        "after": after,
        "verdict": verdict,
        "adapter": None,
    }
    run.write_json(name, value if interval is None else value | {"interval": interval})


def pair(number: int, *, depth: int, gap: float) -> PreferencePair:
    prefix = tuple(Turn(i % 2, (1, 2), f"message {i}") for i in range(depth))
    better, worse = (Turn(depth % 2, (3, i), text) for i, text in enumerate(("yes", "no")))
    return PreferencePair(question(number), prefix, better, worse, reward(1.0, total=gap), reward(0.0), 3, 2)


def prefer(run: Run, *, iteration: int, stopped: bool = False) -> None:
    """A preference step: four trees of 1,500 sampled tokens, three pairs after one message, one after three."""
    stage = f"iteration_{iteration:02d}"
    run.write_json(f"{stage}/6_questions.json", {"questions": 4, "shortened": 2})
    run.append(f"{stage}/6_trees", [Tree(question(i), sampled=1500) for i in range(4)])
    chosen = [pair(i, depth=3 if i == 0 else 1, gap=0.2 * (i + 1)) for i in range(4)]
    run.append(f"{stage}/7_pairs", chosen)
    facts = {"rows": 4, "trainer_tokens": 250, "epochs": 2, "loss": 0.6, "stopped": stopped}
    shifts = {"chosen_shift": -0.123, "rejected_shift": -1.456}
    run.write_json(f"{stage}/8_adapter/training.json", facts | shifts)
    judged(run, f"{stage}/9_verdict.json", after=0.375, verdict="revert", interval=(-0.2, -0.05))


def fill(run: Run) -> None:
    """Two iterations of four questions: in both an imitation step, three dialogues each, in the second one a preference
    step, too. Sampled evaluations throughout, greedy at the ends."""
    right = (1.0, 1.0, 1.0, 0.5)
    half = (1.0, 1.0, 0.0, 0.0)
    evaluate(run, evaluation("untrained", "sampled", score=0.5, tokens=101.5, correct=203.0), terse=False, scores=half)
    evaluate(run, evaluation("untrained", "greedy", score=0.5, tokens=90.0, correct=180.0), terse=False, scores=half)
    evaluate(run, evaluation("single_agent", "sampled", score=0.75, tokens=41.0, correct=55.0), terse=True, scores=half)
    for iteration, tokens in enumerate((60.0, 21.5)):
        stage = f"iteration_{iteration:02d}"
        formats = [("triples", "arrows")[i % 3 == 0] if iteration == 0 else None for i in range(4)]
        ranked = [rollouts(i, terse=iteration == 1, fmt=formats[i]) for i in range(4)]
        run.write_json(f"{stage}/0_questions.json", {"questions": 4, "shortened": iteration})
        run.append(f"{stage}/1_dialogues", [dataclasses.replace(one, rewards=()) for one in ranked])
        run.append(f"{stage}/2_rewards", ranked)
        chosen = [Demonstration(one.question, one.dialogues[0], one.rewards[0]) for one in ranked[1:]]
        run.append(f"{stage}/3_demonstrations", chosen)
        run.write_json(f"{stage}/4_adapter/training.json", {"trainer_tokens": 1000, "epochs": 3, "loss": 0.5})
        judged(run, f"{stage}/5_verdict.json", after=0.5 + iteration / 4, verdict="keep")
        row = evaluation(f"iteration_{iteration}", "sampled", score=0.7 + iteration / 10, tokens=tokens, correct=30.0)
        evaluate(run, row, terse=iteration == 1, scores=right)
    prefer(run, iteration=1)
    last = evaluation("iteration_1", "greedy", score=0.0, tokens=20.0, correct=None)
    evaluate(run, last, terse=True, scores=(0.0, 0.0, 0.0, 0.0))
    run.append_timings([Timing(0, "generate", 60.5, 1000, 4), Timing(1, "train", 2.25, 0, 4)])


def open_run(folder: Path) -> Run:
    return Run.open(folder, {"recipe": RECIPE, "recipe_name": "quickstart", "variants": ["short"], "versions": {}})


def text(drawing: RenderableType, *, width: int, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, color_system=None, legacy_windows=False).print(drawing)
    stream.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in stream.read().splitlines())


def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """The fixture `run` of these tests: a run of two iterations, of which nothing is synced."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with open_run(tmp_path / "run") as run:
        fill(run)
        yield read_run(run.folder)


def cells(table: RenderableType) -> dict[str, list[str]]:
    """The rows of a table of steps, by their names."""
    return {line[:22].strip(): line[22:].split() for line in text(table, width=80).splitlines()[1:]}
