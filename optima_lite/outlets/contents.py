"""What the viewer shows of runs: an index of everything, and blocks with the texts, which are unpacked when looked at.

Nothing that a run has stored is computed again, and no more than one question's dialogues are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from ..errors import RunError
from ..records import (
    Demonstration,
    Dialogue,
    Ending,
    Node,
    PreferencePair,
    Question,
    Reward,
    Rollouts,
    Tree,
    Turn,
    to_json,
)
from ..runs import market
from ..runs.comparison import compare
from ..runs.dialogue_view import ENDINGS
from ..runs.evaluation_view import gains, remarks
from ..runs.evaluations import evaluation_stage, evaluations, iteration_of, undone_remarks
from ..runs.folder import RunFolder, stage_name
from ..runs.spoken_view import spoken_lines
from ..runs.step_view import (
    format_lines,
    imitation_lines,
    preference_lines,
    reinforcement_lines,
    taught_lines,
    verdict_lines,
)
from ..runs.steps import Imitation, Reinforcement, imitations, preferences, reinforcements
from ..runs.summary import summary
from ..runs.tree_view import marks
from ..settings.teams import speakers, workflow
from ..settings.workflow import Workflow
from ..team.timeline import timeline
from .blocks import shelve

_ENDINGS = (*ENDINGS,)  # an ending is stored as its place here


@dataclass(frozen=True)
class Contents:
    """index: plain values, small enough to be unpacked at once. blocks: the texts, packed, by name."""

    index: dict[str, Any]
    blocks: dict[str, str]


def contents(runs: Sequence[RunFolder]) -> Contents:
    """Everything that there is to look at in these runs, finished or under way.

    Raises RunError for records that cannot be read.
    """
    blocks: dict[str, str] = {}
    asked = _Questions()
    sets: dict[str, list[dict[str, Any]]] = {"dialogues": [], "trees": [], "pairs": []}
    for number, run in enumerate(runs):
        here = {"run": number, "prefix": f"{number + 1}." if len(runs) > 1 else ""}
        sets["dialogues"] += (here | one for one in _dialogue_sets(run, asked, blocks))
        for iteration in run.iterations():
            sets["trees"] += (here | one for one in _tree_set(run, iteration, asked, blocks))
            sets["pairs"] += (here | one for one in _pair_set(run, iteration, asked, blocks))
    index = {
        "runs": [_told(run) for run in runs],
        "compared": _compared(runs),
        "endings": [*ENDINGS.values()],
        "questions": asked.stored(blocks),
        **sets,
    }
    return Contents(index, blocks)


@dataclass
class _Questions:
    """The questions of all records, each once, by number."""

    numbers: dict[Question, int] = field(default_factory=dict)

    def number(self, question: Question) -> int:
        return self.numbers.setdefault(question, len(self.numbers))

    def stored(self, blocks: dict[str, str]) -> dict[str, Any]:
        """same: a number that a question has in common with the one of the same id and text but with other facts."""
        same: dict[tuple[str, str], int] = {}
        return {
            "texts": [one.text for one in self.numbers],
            "answers": [one.answers for one in self.numbers],
            "same": [same.setdefault((one.id, one.text), len(same)) for one in self.numbers],
            "facts": shelve(([one.contexts, one.supporting] for one in self.numbers), blocks),
        }


# --- What is told of a run ------------------------------------------------------------------------


def _told(run: RunFolder) -> dict[str, Any]:
    rows, undone = evaluations(run), undone_remarks(run)
    talked: list[Imitation | Reinforcement] = [*imitations(run), *reinforcements(run)]
    recipe = run.manifest["recipe"]
    imitated = [step for step in talked if isinstance(step, Imitation)]
    said = [*remarks(rows), *verdict_lines(run), *spoken_lines(run), *format_lines(imitated), *taught_lines(imitated)]
    return {
        "name": run.folder.resolve().name,
        "recipe": run.manifest.get("recipe_name"),
        "variants": run.manifest.get("variants", ()),
        "seed": recipe.get("seed"),
        "settings": _flat(recipe),
        "speakers": market.speakers(run, None) or speakers(recipe),
        "holders": _holders(recipe),
        "evaluations": [to_json(row) | {"remark": undone.get(row.name, "")} for row in rows],
        "gains": [asdict(gain) for gain in gains(run, rows)],
        "steps": _steps(run),
        "rewards": [
            {"iteration": one.iteration, **to_json(one.reward)}
            for one in sorted(talked, key=lambda step: step.iteration)
            if one.reward
        ],
        "remarks": [line.plain for line in said],
        "costs": {name: value for name, value in summary(run).items() if name in ("training_tokens", "seconds")},
    }


def _steps(run: RunFolder) -> list[dict[str, Any]]:
    """A table for each kind of training step that the run has taken."""
    imitated, preferred, reinforced = imitations(run), preferences(run), reinforcements(run)
    tables = (
        ("imitation", imitated, imitation_lines(imitated) if imitated else []),
        ("preference", preferred, preference_lines(preferred) if preferred else []),
        ("reinforcement", reinforced, reinforcement_lines(reinforced) if reinforced else []),
    )
    return [
        {"kind": kind, "iterations": [one.iteration for one in steps], "lines": lines}
        for kind, steps, lines in tables
        if steps
    ]


def _flat(value: Any, above: str = "") -> list[tuple[str, str]]:
    """Settings by their dotted keys, as text."""
    if isinstance(value, dict):
        inner = (_flat(one, f"{above}.{name}" if above else str(name)) for name, one in value.items())
        return [pair for pairs in inner for pair in pairs]
    return [(above, str(value))]


def _holders(recipe: dict[str, Any]) -> tuple[str, ...]:
    """The roles that hold a share of the facts each; none where everyone sees everything."""
    if agents := recipe.get("method") == "market" and recipe["market"]["agents"]:
        return tuple(dict.fromkeys(one.get("role", key) for key, one in agents.items() if one.get("facts") == "share"))
    if recipe.get("team"):
        return workflow(recipe["team"]).holders
    return () if recipe.get("protocol", {}).get("name") == "debate" else speakers(recipe)


def _compared(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Paired differences from the first run, where each run has evaluated an iteration."""
    try:
        return [asdict(line) for line in compare(runs)] if len(runs) > 1 else []
    except RunError:
        return []


# --- Dialogues ------------------------------------------------------------------------------------


def _dialogue_sets(run: RunFolder, asked: _Questions, blocks: dict[str, str]) -> Iterator[dict[str, Any]]:
    team = () if market.is_market(run) else speakers(run.manifest["recipe"])
    stream = _stream(run.manifest["recipe"])
    for row in evaluations(run):
        stored = run.read(evaluation_stage(row.name, row.decoding), Rollouts)
        alone = row.name == "single_agent"
        who = ("single agent",) if alone else team or market.speakers(run, iteration_of(row))
        about = {"kind": "evaluation", "evaluation": row.name, "decoding": row.decoding, "speakers": who}
        talks = _dialogues(stored, asked, blocks, stream=None if alone else stream)
        yield {"key": f"{row.name}_{row.decoding}", **about, **talks}
    for iteration in run.iterations():
        stored = run.read(stage_name(iteration, "2_rewards"), Rollouts)
        stored = stored or run.read(stage_name(iteration, "1_dialogues"), Rollouts)
        chosen = run.read(stage_name(iteration, "3_demonstrations"), Demonstration)
        imitated = {(one.question.id, one.dialogue.rollout) for one in chosen}
        if stored:
            told = {"kind": "training", "iteration": iteration, "speakers": team}
            talks = _dialogues(stored, asked, blocks, imitated, stream=stream)
            yield {"key": f"training_{iteration}", **told, **talks}


def _stream(recipe: dict[str, Any]) -> Workflow | None:
    """The workflow of a team that hands on steps of messages; None for others, whose messages tell their own order."""
    team = workflow(recipe["team"]) if recipe.get("team") else None
    return team if team and team.stream else None


def _dialogues(
    groups: Iterable[Rollouts],
    asked: _Questions,
    blocks: dict[str, str],
    imitated: Container[tuple[str, int]] = (),
    *,
    stream: Workflow | None = None,
) -> dict[str, Any]:
    """What lists and filters need of each dialogue, a column each, and where the texts are. stream: the workflow of
    dialogues of which is told who said what when."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("questions", "endings", "tokens", "scores", "rewards", "formats", "imitated")
    }

    def texts() -> Iterator[Any]:
        for group in groups:
            number = asked.number(group.question)
            for dialogue, reward in zip_longest(group.dialogues, group.rewards):
                of_it = (
                    number,
                    _ending(dialogue.ending),
                    dialogue.tokens,
                    round(reward.task, 4) if reward else None,
                    round(reward.total, 4) if reward else None,
                    dialogue.format,
                    int((group.question.id, dialogue.rollout) in imitated),
                )
                for column, value in zip(columns.values(), of_it, strict=True):
                    column.append(value)
                yield [[_turn(turn) for turn in dialogue.turns], _reward(reward), _beats(dialogue, stream)]

    return {"texts": shelve(texts(), blocks), **columns}


def _beats(dialogue: Dialogue, stream: Workflow | None) -> list[Any]:
    """The ticks at which each agent of a stream says a step."""
    if stream is None:
        return []
    beats = timeline(dialogue, stream)
    said = ([step.speaker, [beat.tick for beat in beats if beat.name == step.name]] for step in stream.steps)
    return [[who, ticks] for who, ticks in said if ticks]


def _turn(turn: Turn) -> list[Any]:
    by = [turn.spoken_by] if turn.spoken_by else []
    return [turn.speaker, len(turn.ids), turn.text, turn.answer, int(turn.finished), *by]


def _reward(reward: Reward | None) -> list[float] | None:
    if reward is None:
        return None
    return [round(part, 4) for part in (reward.total, reward.task, reward.token_share, reward.readability)]


def _ending(ending: Ending | None) -> int:
    return -1 if ending is None else _ENDINGS.index(ending)


# --- Trees and pairs ------------------------------------------------------------------------------


def _tree_set(run: RunFolder, iteration: int, asked: _Questions, blocks: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The trees of an iteration, nothing where it grew none."""
    trees = run.read(stage_name(iteration, "6_trees"), Tree)
    pairs: dict[str, list[PreferencePair]] = {}
    for pair in run.read(stage_name(iteration, "7_pairs"), PreferencePair):
        pairs.setdefault(pair.question.id, []).append(pair)
    columns: dict[str, list[Any]] = {name: [] for name in ("questions", "messages", "rewards", "tokens", "marked")}

    def texts() -> Iterator[Any]:
        for tree in trees:
            marked = marks(tree, pairs.get(tree.question.id, ()))
            value = round(tree.nodes[0].value, 4)
            of_it = (asked.number(tree.question), len(tree.nodes) - 1, value, tree.sampled, int(bool(marked)))
            for column, one in zip(columns.values(), of_it, strict=True):
                column.append(one)
            yield [
                [_node(node, sorted(marked.get(number, ()))) for number, node in enumerate(tree.nodes)],
                tree.expanded,
            ]

    if trees:
        about = {"key": f"trees_{iteration}", "iteration": iteration, "speakers": speakers(run.manifest["recipe"])}
        yield {**about, "texts": shelve(texts(), blocks), **columns}


def _node(node: Node, marked: Sequence[str]) -> list[Any]:
    turn = None if node.turn is None else _turn(node.turn)
    return [node.parent, turn, node.visits, _reward(node.reward), _ending(node.ending), marked]


def _pair_set(run: RunFolder, iteration: int, asked: _Questions, blocks: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The preference pairs of an iteration, nothing where it made none."""
    pairs = run.read(stage_name(iteration, "7_pairs"), PreferencePair)
    columns: dict[str, list[Any]] = {name: [] for name in ("questions", "depths", "said", "gaps")}

    def texts() -> Iterator[Any]:
        for pair in pairs:
            of_it = (asked.number(pair.question), pair.depth, pair.speaker, round(pair.gap, 4))
            for column, one in zip(columns.values(), of_it, strict=True):
                column.append(one)
            better = [_turn(pair.chosen), _reward(pair.chosen_reward), pair.chosen_visits]
            worse = [_turn(pair.rejected), _reward(pair.rejected_reward), pair.rejected_visits]
            yield [[_turn(turn) for turn in pair.prefix], better, worse]

    if pairs:
        about = {"key": f"pairs_{iteration}", "iteration": iteration, "speakers": speakers(run.manifest["recipe"])}
        yield {**about, "texts": shelve(texts(), blocks), **columns}
