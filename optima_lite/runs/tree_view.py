"""A dialogue tree in the terminal: who says what, what it is worth, and which messages are preferred to which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text
from rich.tree import Tree as Branch

from ..records import Node, PreferencePair, Tree, Turn
from ..team.tree import ROOT, children, turns
from .dialogue_view import ENDINGS, printable, who


@dataclass(frozen=True)
class TreeView:
    """One tree for `rich`, the best child first.

    pairs: those to be marked; pairs of other questions do not matter. roles: display names of the speakers. depth: so
    many messages deep; what lies deeper is counted.
    """

    tree: Tree
    pairs: Sequence[PreferencePair]
    roles: Sequence[str]
    depth: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        question, root = self.tree.question, self.tree.nodes[ROOT]
        answers = printable(" or ".join(question.answers))  # nobody may know one
        known = f"  (answer: {answers})" if answers else ""
        trunk = Branch(Text(f"{printable(question.text)}{known}\n").append_text(_worth(root)))
        self._grow(trunk, ROOT, children(self.tree), marks(self.tree, self.pairs), 1)
        yield trunk

    def _grow(
        self, branch: Branch, node: int, following: Sequence[Sequence[int]], marked: Mapping[int, set[str]], deep: int
    ) -> None:
        if self.depth is not None and deep > self.depth and following[node]:
            hidden = _below(node, following)
            branch.add(Text(f"{hidden} message{'' if hidden == 1 else 's'} deeper", style="dim"))
            return
        for child in sorted(following[node], key=lambda child: -self.tree.nodes[child].value):
            label = self._message(self.tree.nodes[child], marked.get(child, set()))
            self._grow(branch.add(label), child, following, marked, deep + 1)

    def _message(self, node: Node, marked: set[str]) -> Text:
        text = Text()
        for mark in sorted(marked):
            text.append(f"{mark} ", style="bold green" if mark == "chosen" else "bold red")
        if node.turn is not None:
            text.append(f"{who(node.turn, self.roles)}: ", style="bold")
            text.append(f"{printable(node.turn.text.strip())}\n")
        text.append_text(_worth(node))
        return text.append(f", {ENDINGS[node.ending]}" if node.ending else "", style="dim")


def _below(node: int, following: Sequence[Sequence[int]]) -> int:
    """The messages below a node."""
    return sum(1 + _below(child, following) for child in following[node])


def marks(tree: Tree, pairs: Sequence[PreferencePair]) -> dict[int, set[str]]:
    """The nodes that pairs prefer or reject: for each of them `chosen`, `rejected` or both. Pairs of other questions do
    not matter."""
    said: dict[tuple[Turn, ...], set[str]] = {}
    for pair in pairs:
        if pair.question.id == tree.question.id:
            said.setdefault((*pair.prefix, pair.chosen), set()).add("chosen")
            said.setdefault((*pair.prefix, pair.rejected), set()).add("rejected")
    found = ((node, said.get(turns(tree, node))) for node in range(1, len(tree.nodes)) if said)
    return {node: marked for node, marked in found if marked}


def _worth(node: Node) -> Text:
    visits = f"{node.visits} visit{'' if node.visits == 1 else 's'}"
    if node.reward is None:
        return Text(visits, style="dim")
    parts = node.reward
    return Text.assemble(
        (f"value {node.value:.2f}, {visits}", ""),
        (f", task {parts.task:.2f}, token share {parts.token_share:.2f}, readability {parts.readability:.2f}", ""),
        style="dim",
    )
