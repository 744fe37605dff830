"""Several samples of a question: who wins the vote, what it scores, and how the curves are written."""

from __future__ import annotations

import csv
import io
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from optima_lite.errors import ConfigError, RunError
from optima_lite.stage import scaling_view
from optima_lite.stage.scaling import Sample, ScalingRow, alike, coverage, largest_group, majority, sizes
from optima_lite.stage.scaling_view import draw, require_plot, scaling_table, write_csv

LONG = "one two three four five six seven eight nine ten"
NEAR = LONG.replace("ten", "eleven")  # nine of ten words: F1 0.9
FAR = NEAR.replace("one", "zero")  # 0.9 from NEAR, 0.8 from LONG


def test_the_largest_group_wins() -> None:
    assert largest_group(["a cat", "dog", "Dog.", "cow"], metric="f1") == [1, 2]


def test_the_first_of_equal_groups_wins() -> None:
    assert largest_group(["cow", "dog", "dog", "cow"], metric="f1") == [0, 3]


def test_an_answer_joins_the_first_group_with_any_member_like_it() -> None:
    assert alike(LONG, NEAR, metric="f1") and alike(NEAR, FAR, metric="f1") and not alike(LONG, FAR, metric="f1")
    assert largest_group([LONG, NEAR, FAR], metric="f1") == [0, 1, 2], "FAR is like NEAR, which is in the group"
    assert largest_group([LONG, FAR, NEAR], metric="f1") == [0, 2], "and NEAR joins the first group, not both"


def test_who_gives_no_answer_has_no_vote() -> None:
    assert largest_group([None, "x", None], metric="f1") == [1]
    assert largest_group([None, None], metric="f1") == largest_group([], metric="f1") == []
    assert majority([Sample(None, 0.0, 5)], metric="f1") == majority([], metric="f1") == coverage([]) == 0.0


@pytest.mark.parametrize(
    ("metric", "one", "other", "same"),
    [
        ("f1", "the Eiffel Tower", "eiffel tower", True),
        ("f1", "Eiffel Tower", "Eiffel", False),
        ("exact", "Mira.", "mira", True),
        ("exact", "Mira", "Mira Tess", False),
        ("numeric", "1,000", "$1000.0", True),
        ("numeric", "1000", "1001", False),
        ("math", r"\dfrac{1}{2}", r"\frac{1}{2}", True),
        ("math", r"\frac{1}{2}", r"\frac{1}{3}", False),
    ],
)
def test_answers_are_alike_by_the_task_s_metric(metric: Any, one: str, other: str, same: bool) -> None:
    assert alike(one, other, metric=metric) is alike(other, one, metric=metric) is same


def test_the_majority_scores_the_mean_of_its_members() -> None:
    samples = [Sample(LONG, 1.0, 5), Sample("other", 1.0, 5), Sample(NEAR, 0.5, 5)]
    assert majority(samples, metric="f1") == 0.75
    assert coverage(samples) == 1.0


def test_small_votes_agree_with_counting() -> None:
    """Every vote of up to five among three different words."""
    for n in range(1, 6):
        for stated in product("xyz", repeat=n):
            most = max(stated.count(word) for word in stated)
            winner = next(word for word in stated if stated.count(word) == most)
            assert largest_group(stated, metric="exact") == [i for i, word in enumerate(stated) if word == winner]


samples = st.lists(st.builds(Sample, st.sampled_from(["x", "y", None]), st.floats(0, 1), st.integers(0, 9)), min_size=1)


@given(samples)
def test_no_vote_beats_the_best_sample_and_more_samples_cover_more(drawn: list[Sample]) -> None:
    assert 0 <= majority(drawn, metric="f1") <= coverage(drawn) + 1e-12
    assert coverage(drawn[:-1]) <= coverage(drawn)


def test_the_numbers_of_samples_double() -> None:
    assert [sizes(n) for n in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 9]]
    assert sizes(32) == [1, 2, 4, 8, 16, 32]


# --- The view -------------------------------------------------------------------------------------

ROWS = [
    ScalingRow(name, n, 4, tokens * n, 0.5, 0.25, 0.75, 0.5 + n / 10, 0.5, 0.9)
    for name, tokens in (("iteration_1", 20.0), ("single_agent", 812.5))
    for n in (1, 2)
]


def test_the_table_names_everyone_once() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(scaling_table(ROWS))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["who", "answers", "samples", "tokens", "majority", "coverage"]
    assert lines[1] == ["iteration_1", "1", "20.0", "0.500", "[0.25-0.75]", "0.600", "[0.50-0.90]"]
    assert lines[2][:2] == ["2", "40.0"]
    assert lines[4][:2] == ["2", "1,625.0"]


def test_the_csv_holds_every_field(tmp_path: Path) -> None:
    write_csv(ROWS, tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [(row["name"], row["samples"], row["tokens"]) for row in found][2:] == [
        ("single_agent", "1", "812.5"),
        ("single_agent", "2", "1625.0"),
    ]
    assert found[0].keys() == {field for field in ScalingRow.__dataclass_fields__}
    with pytest.raises(RunError, match="cannot be written: Is a directory"):
        write_csv(ROWS, tmp_path)


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    draw(ROWS, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="cannot be written: No such file"):
        draw(ROWS, tmp_path / "nowhere" / "curve.png")


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_view, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        require_plot()
    assert str(error.value) == (
        "the picture needs the library matplotlib, which is not installed\n"
        "  try: in the clone: pip install '.[plot]', or --no-png for the table and the CSV alone"
    )
