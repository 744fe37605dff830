"""The report of a small hand-made run, against golden files; and the numbers in it.

`python tests/test_report.py --write-golden` writes the golden files anew; read the difference before you commit it.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from optima_lite.errors import RunError
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
from optima_lite.runs import report
from optima_lite.runs.card import write_adapter_card
from optima_lite.runs.dialogue_view import DialoguePair, printable, typical_pair
from optima_lite.runs.evaluation_view import Curve, bar, evaluation_table, gain_table, paired_interval, remarks
from optima_lite.runs.evaluations import evaluation_stage, evaluations, undone_remarks
from optima_lite.runs.folder import RunFolder, read_run
from optima_lite.runs.progress import Timing
from optima_lite.runs.step_view import format_lines, imitation_table, preference_table, verdict_lines
from optima_lite.runs.steps import Verdict, imitations, preferences
from optima_lite.runs.store import Run
from optima_lite.runs.summary import preparation_tokens, summary, training_tokens, validation_tokens

GOLDEN = Path(__file__).parents[1] / "golden"
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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with open_run(tmp_path / "run") as run:
        fill(run)
        yield read_run(run.folder)


def text(drawing: RenderableType, *, width: int, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, color_system=None, legacy_windows=False).print(drawing)
    stream.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in stream.read().splitlines())


def cells(table: RenderableType) -> dict[str, list[str]]:
    """The rows of a table of steps, by their names."""
    return {line[:22].strip(): line[22:].split() for line in text(table, width=80).splitlines()[1:]}


def drawings(run: RunFolder) -> dict[str, str]:
    """Name of the golden file to what belongs into it."""
    rows, imitated = evaluations(run), imitations(run)
    pair = typical_pair(run, rows)
    assert pair
    return {
        "report_evaluations.txt": text(evaluation_table(rows, undone_remarks(run)), width=80),
        "report_gain.txt": text(gain_table(run, rows), width=80),
        "report_curve.txt": text(Curve(rows), width=80),
        "report_curve_ascii.txt": text(Curve(rows), width=80, encoding="ascii"),
        "report_imitation.txt": text(imitation_table(imitated), width=80)
        + "".join(text(line, width=80) for line in format_lines(imitated)),
        "report_preference.txt": text(preference_table(preferences(run)), width=80)
        + "".join(text(line, width=80) for line in verdict_lines(run)),
        "report_dialogues_80.txt": text(pair, width=80),
        "report_dialogues_120.txt": text(pair, width=120),
    }


NAMES = [
    "report_evaluations.txt",
    "report_gain.txt",
    "report_curve.txt",
    "report_curve_ascii.txt",
    "report_imitation.txt",
    "report_preference.txt",
    "report_dialogues_80.txt",
    "report_dialogues_120.txt",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_report_looks_like_its_golden_file(run: RunFolder, name: str) -> None:
    assert drawings(run)[name] == (GOLDEN / name).read_text(encoding="utf-8")


def test_the_overview_holds_all_parts_and_fits_80_columns(run: RunFolder) -> None:
    whole = text(report.overview(run), width=80)
    assert whole.startswith("quickstart, short, seed 4, in")
    for name, part in drawings(run).items():
        assert (part in whole) == (name not in ("report_curve_ascii.txt", "report_dialogues_120.txt")), name
    assert max(map(len, whole.splitlines())) <= 80


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_every_width_draws(run: RunFolder, width: int) -> None:
    assert max(map(len, text(report.overview(run), width=width).splitlines())) <= width


def test_an_ascii_terminal_gets_ascii(run: RunFolder) -> None:
    assert text(report.overview(run), width=80, encoding="ascii").isascii()


def test_a_run_that_has_just_begun_reports_what_it_has(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        assert text(report.overview(run), width=200).splitlines()[1:] == ["nothing has been evaluated yet"]
        assert summary(run) == {
            "recipe": "quickstart",
            "seed": 4,
            "adapter": None,
            "seconds": None,
            "work": None,
            "training_tokens": None,
            "validation_tokens": 0,
            "evaluations": [],
        }
        run.append("iteration_00/1_dialogues", [dataclasses.replace(rollouts(0, terse=True), rewards=())])
        (facts,) = imitations(run)
        assert (facts.dialogues, facts.tokens, facts.reward, facts.selected, facts.trainer_tokens) == (
            3,
            84,
            None,
            None,
            None,
        )
        table = cells(imitation_table([facts]))
        assert (table["reward among siblings"], table["selected"]) == (["-"], ["-"])
        assert "verdict" not in table, "nothing has been judged"
        run.append("iteration_00/6_trees", [Tree(question(0), sampled=7)])
        (searched,) = preferences(run)
        assert (searched.trees, searched.tokens, searched.pairs, searched.gap, searched.trainer_tokens) == (
            1,
            7,
            None,
            None,
            None,
        )
        table = cells(preference_table([searched]))
        assert (table["pairs"], table["chosen shift (nats)"]) == (["-"], ["-"])
        assert "stopped early" not in table


def test_the_work_of_all_phases_is_told_in_a_line(run: RunFolder, tmp_path: Path) -> None:
    assert summary(run)["work"] is None, "a run of before this was kept"
    assert "read by the model" not in text(report.overview(run), width=80)
    with open_run(tmp_path / "fresh") as fresh:
        counts = [{"computed": 1200, "reused": 3400, "sampled": 56}, {"computed": 1, "reused": 2, "sampled": 3}, {}]
        fresh.append_timings(Timing(0, f"phase {k}", 1.0, 0, 1, {}, one) for k, one in enumerate(counts))
        assert summary(fresh)["work"] == {"computed": 1201, "reused": 3402, "sampled": 59}
        line = "1,201 tokens read by the model, 3,402 found in its cache, 59 sampled"
        assert line in text(report.overview(fresh), width=80)
        assert line in text(report.result(fresh), width=80)


def test_the_summary_has_the_promised_shape(run: RunFolder) -> None:
    told = json.loads(json.dumps(summary(run), allow_nan=False))
    assert list(told) == [
        "recipe",
        "seed",
        "adapter",
        "seconds",
        "work",
        "training_tokens",
        "validation_tokens",
        "evaluations",
    ]
    assert (told["recipe"], told["seed"], told["seconds"]) == ("quickstart", 4, 62.75)
    sampled = sum(100 + i + 56 + 8 for i in range(4)) + sum(20 + i + 56 + 8 for i in range(4))
    assert told["training_tokens"] == sampled + 2 * 1000 * 3 + 4 * 1500 + 250 * 2
    names = [(row["name"], row["decoding"]) for row in told["evaluations"]]
    assert names == [
        ("untrained", "sampled"),
        ("untrained", "greedy"),
        ("single_agent", "sampled"),
        ("iteration_0", "sampled"),
        ("iteration_1", "sampled"),
        ("iteration_1", "greedy"),
    ]
    fields = [field.name for field in dataclasses.fields(EvalRow)]
    assert all(list(row) == fields for row in told["evaluations"])
    assert told["evaluations"][-1]["tokens_per_correct"] is None


@pytest.mark.parametrize("adapter", ["4_adapter", "8_adapter"])
def test_training_tokens_are_unknown_while_a_step_is_under_way(run: RunFolder, adapter: str) -> None:
    (run.folder / f"iteration_01/{adapter}/training.json").unlink()
    assert summary(run)["training_tokens"] is None


def test_training_tokens_are_unknown_while_an_iteration_has_only_begun(run: RunFolder) -> None:
    (run.folder / "iteration_02").mkdir()
    assert summary(run)["training_tokens"] is None


def test_an_iteration_may_have_a_preference_step_alone(run: RunFolder) -> None:
    for name in ("1_dialogues.jsonl", "2_rewards.jsonl", "3_demonstrations.jsonl"):
        (run.folder / "iteration_01" / name).unlink()
    assert [step.iteration for step in imitations(run)] == [0]
    assert [step.iteration for step in preferences(run)] == [1]
    sampled = sum(100 + i + 56 + 8 for i in range(4))
    assert summary(run)["training_tokens"] == sampled + 1000 * 3 + 4 * 1500 + 250 * 2
    assert "preference, iteration       1\n" in text(report.overview(run), width=80)


def test_the_facts_of_a_preference_step(run: RunFolder) -> None:
    (step,) = preferences(run)
    assert (step.iteration, step.trees, step.tokens, step.pairs, step.trainer_tokens) == (1, 4, 6000, 4, 500)
    assert step.depths == {1: 0.75, 3: 0.25} and step.gap == pytest.approx(0.5)
    assert (step.chosen_shift, step.rejected_shift, step.stopped, step.shortened) == (-0.123, -1.456, False, 2)
    assert step.verdict == Verdict(0.5, 0.375, "revert", (-0.2, -0.05))


def test_a_step_that_found_no_pairs_says_so(run: RunFolder) -> None:
    (run.folder / "iteration_01/7_pairs.jsonl").write_text("")
    (step,) = preferences(run)
    assert (step.pairs, step.depths, step.gap) == (0, {}, None)
    assert cells(preference_table([step]))["pairs"] == ["0"]


def test_a_guard_that_stopped_a_step_is_shown(run: RunFolder) -> None:
    (step,) = preferences(run)
    both = [step, dataclasses.replace(step, iteration=2, stopped=True)]
    assert cells(preference_table(both))["stopped early"] == ["no", "yes"]


def test_the_facts_of_an_imitation_step(run: RunFolder) -> None:
    first, second = imitations(run)
    assert first.reward and first.reward.total == pytest.approx((1.0 + 0.0 - 0.1) / 3)
    assert (first.dialogues, first.selected, first.trainer_tokens) == (12, 3, 3000)
    assert first.formats == (("triples", 2), ("arrows", 1)) and second.formats == ()
    thirds = (Ending.AGREED, Ending.MAX_TURNS, Ending.TRUNCATED)
    assert first.endings == dict.fromkeys(Ending, 0) | dict.fromkeys(thirds, pytest.approx(1 / 3))
    assert first.two_messages == pytest.approx(1 / 3)
    assert (first.shortened, second.shortened) == (0, 1)


def test_many_iterations_take_several_tables(run: RunFolder) -> None:
    (first, _), (step,) = imitations(run), preferences(run)
    for table, name in (
        (imitation_table([dataclasses.replace(first, iteration=i) for i in range(16)]), "imitation"),
        (preference_table([dataclasses.replace(step, iteration=i) for i in range(16)]), "preference"),
    ):
        drawn = text(table, width=80)
        assert "…" not in drawn and max(map(len, drawn.splitlines())) <= 80
        heads = [line.split()[2:] for line in drawn.splitlines() if line.startswith(name)]
        assert [int(number) for head in heads for number in head] == list(range(16))


@pytest.mark.parametrize(
    ("name", "decoding", "stage"),
    [
        ("untrained", "sampled", "evaluation/untrained_sampled"),
        ("iteration_3", "greedy", "evaluation/iteration_03_greedy"),
        ("iteration_12", "sampled", "evaluation/iteration_12_sampled"),
    ],
)
def test_evaluation_files_sort_as_they_came(name: str, decoding: str, stage: str) -> None:
    assert evaluation_stage(name, decoding) == stage


def test_iterations_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        for i in (10, 2, 100):
            row = evaluation(f"iteration_{i}", "greedy", score=0.5, tokens=9.0, correct=1.0)
            evaluate(run, row, terse=True, scores=())
        assert [row.name for row in evaluations(run)] == ["iteration_2", "iteration_10", "iteration_100"]


def test_other_json_files_among_the_evaluations_are_left_alone(run: RunFolder) -> None:
    before = evaluations(run)
    (run.folder / "evaluation/questions.json").write_text("{}")
    assert evaluations(run) == before


def test_an_evaluation_of_another_shape_is_told(run: RunFolder) -> None:
    path = run.folder / "evaluation/untrained_sampled.json"
    path.write_text('{"name": "untrained"}')
    with pytest.raises(RunError) as error:
        evaluations(run)
    hint = "delete it and untrained_sampled.jsonl, and run the same command again"
    assert str(error.value) == f"{path}: is not an evaluation of this version\n  try: {hint}"


@given(st.floats(-1, 2), st.integers(1, 60), st.booleans())
def test_a_bar_fills_its_share_of_the_width(share: float, width: int, ascii_only: bool) -> None:
    drawn = bar(share, width, ascii_only=ascii_only)
    assert len(drawn) == width
    filled = sum({"#": 1.0, "█": 1.0, " ": 0.0}.get(c, " ▏▎▍▌▋▊▉".find(c) / 8) for c in drawn)
    error = 0.5 if ascii_only else 1 / 16
    assert abs(filled - width * min(1, max(0, share))) <= error + 1e-9


def test_the_paired_interval_sees_through_the_spread_between_questions() -> None:
    before = {str(i): i / 10 for i in range(10)}
    better = {key: score + 0.25 for key, score in before.items()}
    assert paired_interval(before, better) == pytest.approx((0.25, 0.25))
    low, high = paired_interval(before, dict(reversed({**better, "0": -1.0}.items()))) or (0, 0)
    assert low < 0.125 < high <= 0.25
    assert paired_interval(before, {"0": 1.0}) is None
    assert paired_interval({}, {}) is None


def test_what_undone_means_is_told_with_its_interval(run: RunFolder, tmp_path: Path) -> None:
    (line,) = verdict_lines(run)
    assert line.plain == "iteration 1, preference undone: the validation reward fell by 0.125 [0.050, 0.200]"
    for shown in (report.overview(run), report.result(run)):
        assert line.plain in text(shown, width=120)
    assert str(Verdict(0.5, 0.375, "revert")) == "the validation reward fell by 0.125", "of earlier versions"
    assert str(Verdict(0.5, 0.75, "keep", (-0.1, 0.6))) == "the validation reward rose by 0.250 [-0.100, 0.600]"


def test_what_was_sampled_to_judge_is_a_cost_of_training(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        fill(run)
        trained = training_tokens(run)
        assert validation_tokens(run) == {0: 0, 1: 0} and preparation_tokens(run) == trained
        for name in ("validation/untrained", "iteration_00/5_validation", "iteration_01/9_validation"):
            run.append(name, [rollouts(0, terse=True)])  # 84 tokens
        assert validation_tokens(run) == {0: 168, 1: 252}
        assert preparation_tokens(run) == {0: trained[0] + 168, 1: trained[1] + 252}
        assert summary(run)["validation_tokens"] == 252
        assert summary(run)["training_tokens"] == trained[1], "a sum apart"


def test_a_typical_question_is_near_both_means(run: RunFolder) -> None:
    pair = typical_pair(run, evaluations(run))
    assert pair and pair.question.id == "q1" and pair.titles == ("untrained", "iteration_1")
    untrained = [row for row in evaluations(run) if row.name == "untrained"]
    assert typical_pair(run, untrained) is None
    assert typical_pair(run, []) is None


@given(st.text(st.characters()))
def test_no_text_of_a_model_steers_the_terminal(sampled: str) -> None:
    shown = printable(sampled)
    assert all(c.isprintable() or c == "\n" for c in shown)
    shown.encode("utf-8")
    if sampled.isprintable():
        assert shown == sampled


def test_a_sampled_escape_sequence_is_shown_not_obeyed() -> None:
    assert printable("\x1b[2J\nü\ud800") == "\\x1b[2J\nü\\ud800"


def test_markup_in_a_message_is_text(run: RunFolder) -> None:
    talk = dialogue(0, "[bold]Tess[/bold] [/]", "[red]", tokens=4)
    pair = DialoguePair(
        question(0), (talk, talk), (reward(1.0), reward(1.0)), ("a", "b"), (("Ann", "Ben"), ("Ann", "Ben"))
    )
    assert "Ann: [bold]Tess[/bold] [/]" in text(pair, width=80)


def test_the_adapter_card_says_how_to_load_it(tmp_path: Path) -> None:
    facts = {"trainer_tokens": 1000, "epochs": 3, "loss": None}
    write_adapter_card(tmp_path, RECIPE, team="exchange", iteration=2, facts=facts)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "# Adapter of iteration 2\n" in card
    assert "`tiny`" in card and "team `exchange`, seed\n4." in card
    assert "- trainer tokens: 1000\n- epochs: 3\n\n```python\nfrom peft import" in card


def test_flexible_extraction_is_told_where_it_makes_a_difference() -> None:
    old = evaluation("untrained", "sampled", score=0.5, tokens=101.5, correct=203.0)
    same = dataclasses.replace(old, flexible_score=0.5004)
    other = dataclasses.replace(old, name="single_agent", flexible_score=0.54321)
    assert remarks([old, same]) == []
    assert [line.plain for line in remarks([same, other, old])] == [
        "score when unmarked answers count, too: single_agent sampled 0.543"
    ]


def test_hotpotqa_s_own_f1_is_told_where_it_differs() -> None:
    ours = evaluation("untrained", "sampled", score=0.5, tokens=101.5, correct=203.0)
    same, other = (dataclasses.replace(ours, hotpot_f1=value) for value in (0.5, 0.45))
    assert remarks([ours, same]) == []
    assert [line.plain for line in remarks([same, other])] == [
        "F1 by HotpotQA's own evaluation: untrained sampled 0.450"
    ]


def test_the_share_of_valid_messages_is_shown_where_it_was_asked_for(tmp_path: Path) -> None:
    def lines(weight: float) -> list[str]:
        recipe = {**RECIPE, "reward": {"format_weight": weight}}
        with Run.open(tmp_path / str(weight), {"recipe": recipe, "recipe_name": "x"}) as run:
            run.append("iteration_00/2_rewards", [rollouts(0, terse=True)])
            return text(imitation_table(imitations(run)), width=80).splitlines()

    assert not [line for line in lines(0.0) if "format" in line]
    assert [line.split() for line in lines(0.5) if "format" in line] == [["format", "0.000"]]


def test_undecided_answers_stand_below_the_table(tmp_path: Path) -> None:
    row = dataclasses.replace(evaluation("untrained", "greedy", score=0.5, tokens=9.0, correct=18.0), undecided=1)
    with Run.open(tmp_path / "run", {"recipe": RECIPE, "recipe_name": "x"}) as run:
        run.write_json("evaluation/untrained_greedy.json", row)
        for shown in (report.overview(run), report.result(run)):
            assert "untrained greedy: 1 answer could not be compared with the right one" in text(shown, width=120)
        assert summary(run)["evaluations"][0]["undecided"] == 1


if __name__ == "__main__":
    if sys.argv[1:] != ["--write-golden"]:
        sys.exit("python tests/test_report.py --write-golden writes the golden files anew")
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, open_run(Path(scratch) / "run") as filled:
        fill(filled)
        for golden, drawn in drawings(filled).items():
            (GOLDEN / golden).write_text(drawn, encoding="utf-8")
