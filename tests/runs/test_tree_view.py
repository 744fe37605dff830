"""A tree in the terminal, against golden files.

`python tests/test_tree_view.py --write-golden` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from optima_lite.learn.selection import pairs
from optima_lite.records import PreferencePair, Tree
from optima_lite.runs.tree_view import TreeView
from optima_lite.settings.sections import SelectionSettings
from optima_lite.team.tree import ROOT
from scripted_tree import PAIR, add, question, said, tree

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = tree("view", searches=2)
ALL = SelectionSettings(pair_keep_fraction=1.0)


def drawn(
    grown: Tree, marked: list[PreferencePair], *, width: int = 100, encoding: str = "utf-8", depth: int | None = None
) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, newline="\n") as file:
        Console(file=file, width=width, force_terminal=False).print(TreeView(grown, marked, PAIR.names, depth))
        file.flush()
        lines = raw.getvalue().decode(encoding).splitlines()
    return "".join(line.rstrip() + "\n" for line in lines)


PICTURES = {
    "tree_view.txt": {"width": 100, "encoding": "utf-8"},
    "tree_view_narrow_ascii.txt": {"width": 60, "encoding": "ascii"},
}


def picture(name: str) -> str:
    return drawn(SMALL, pairs([SMALL], settings=ALL), **PICTURES[name])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PICTURES)
def test_a_small_tree(name: str) -> None:
    assert picture(name) == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_what_lies_deeper_than_is_asked_for_is_counted(depth: int) -> None:
    at = depths(SMALL)
    text = drawn(SMALL, [], depth=depth)
    assert text.count("value ") - 1 == sum(1 <= deep <= depth for deep in at)  # the question has a value, too
    hidden = [int(line.split("──")[1].split()[0]) for line in text.splitlines() if "deeper" in line]
    assert sum(hidden) == sum(deep > depth for deep in at)


def depths(grown: Tree) -> list[int]:
    found: list[int] = []
    for node in grown.nodes:
        found.append(0 if node.parent is None else found[node.parent] + 1)
    return found


def test_only_pairs_of_this_question_are_marked() -> None:
    other = tree("other")
    assert "chosen" not in drawn(SMALL, pairs([other], settings=ALL))


def test_a_message_can_be_better_than_one_and_worse_than_another() -> None:
    grown = tree("q")
    marked = pairs([grown], settings=ALL.model_copy(update={"pairing": "paper", "min_gap": 0.0}))
    assert "chosen rejected " in drawn(grown, marked)


def test_texts_cannot_steer_the_terminal() -> None:
    grown, _ = add(Tree(question("q")), ROOT, said("\x1b[2J [bold]hi[/bold] \u202e", speaker=1))
    assert "Ben: \\x1b[2J [bold]hi[/bold] \\u202e\n" in drawn(grown, [])


def test_a_question_may_have_no_known_answer() -> None:
    asked = replace(question("q"), answers=("",))
    assert drawn(Tree(asked), []) == "What is the home of the mother of Mira?\n0 visits\n"


def test_a_tree_before_its_first_reward() -> None:
    grown, _ = add(Tree(question("q")), ROOT, said("hello", speaker=0))
    assert drawn(grown, []) == (
        "What is the home of the mother of Mira?  (answer: Portham)\n0 visits\n└── Ann: hello\n    0 visits\n"
    )


if __name__ == "__main__" and sys.argv[1:] == ["--write-golden"]:
    for name in PICTURES:
        (GOLDEN / name).write_text(picture(name), encoding="utf-8")
