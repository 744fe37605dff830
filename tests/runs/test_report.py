"""The report of a small hand-made run, against golden files; and the numbers in it.

`PYTHONPATH=tests python tests/runs/test_report.py --write-golden` writes the golden files anew; read the difference
before you commit it.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.records import (
    Tree,
)
from optima_lite.runs import report
from optima_lite.runs.dialogue_view import DialoguePair, printable, typical_pair
from optima_lite.runs.evaluation_view import Curve, bar, evaluation_table, gain_table, paired_interval, remarks
from optima_lite.runs.evaluations import evaluations, undone_remarks
from optima_lite.runs.folder import RunFolder
from optima_lite.runs.step_view import format_lines, imitation_table, preference_table, verdict_lines
from optima_lite.runs.steps import Verdict, imitations, preferences
from optima_lite.runs.store import Run
from optima_lite.runs.summary import summary
from reported import (
    GOLDEN,
    RECIPE,
    cells,
    dialogue,
    evaluation,
    fill,
    finished,
    open_run,
    question,
    reward,
    rollouts,
    text,
)

run = pytest.fixture(finished)


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


def test_undecided_answers_stand_below_the_table(tmp_path: Path) -> None:
    row = dataclasses.replace(evaluation("untrained", "greedy", score=0.5, tokens=9.0, correct=18.0), undecided=1)
    with Run.open(tmp_path / "run", {"recipe": RECIPE, "recipe_name": "x"}) as run:
        run.write_json("evaluation/untrained_greedy.json", row)
        for shown in (report.overview(run), report.result(run)):
            assert "untrained greedy: 1 answer could not be compared with the right one" in text(shown, width=120)
        assert summary(run)["evaluations"][0]["undecided"] == 1


if __name__ == "__main__":
    if sys.argv[1:] != ["--write-golden"]:
        sys.exit("PYTHONPATH=tests python tests/runs/test_report.py --write-golden writes the golden files anew")
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, open_run(Path(scratch) / "run") as filled:
        fill(filled)
        for golden, drawn in drawings(filled).items():
            (GOLDEN / golden).write_text(drawn, encoding="utf-8")
