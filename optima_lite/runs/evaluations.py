"""The evaluations that a run has stored: their names, their rows in order, and what to know of them."""

from __future__ import annotations

import re

from ..errors import RunError
from ..records import EvalRow, from_json
from .folder import RunFolder

DECODINGS = ("sampled", "greedy")


def evaluation_stage(name: str, decoding: str) -> str:
    """The stage of an evaluation: its rows are in `<stage>.jsonl`, their means in `<stage>.json`.

    name: untrained, single_agent, or iteration_3 (stored as iteration_03, so that files sort as they came).
    """
    padded = re.sub(r"(?<=^iteration_)\d+$", lambda number: number[0].zfill(2), name)
    return f"evaluation/{padded}_{decoding}"


def evaluations(run: RunFolder) -> list[EvalRow]:
    """The evaluations so far: untrained, single agent, then the iterations; sampled before greedy."""
    rows = []
    for path in run.folder.glob("evaluation/*.json"):
        if path.stem.rpartition("_")[2] in DECODINGS:
            try:
                rows.append(from_json(EvalRow, run.read_json(f"evaluation/{path.name}")))
            except (KeyError, TypeError, ValueError) as error:
                hint = f"delete it and {path.stem}.jsonl, and run the same command again"
                raise RunError("is not an evaluation of this version", where=path, hint=hint) from error
    return sorted(rows, key=_order)


def _order(row: EvalRow) -> tuple[int, int, str, int]:
    iteration = iteration_of(row)
    first = {"untrained": 0, "single_agent": 1}.get(row.name, 2 if iteration is None else 3)
    return first, iteration or 0, row.name, DECODINGS.index(row.decoding)


def iteration_of(row: EvalRow) -> int | None:
    """The number of the iteration that was evaluated; None for the untrained team and for a single agent."""
    found = re.fullmatch(r"iteration_(\d+)", row.name)
    return int(found[1]) if found else None


def undone_remark(run: RunFolder, iteration: int) -> str:
    """What to know of an iteration with a step that was taken back; empty for others."""
    steps = run.undone(iteration)
    return f"{' and '.join(steps)} undone" if steps else ""


def undone_remarks(run: RunFolder) -> dict[str, str]:
    """`undone_remark` for each iteration's name."""
    return {f"iteration_{iteration}": undone_remark(run, iteration) for iteration in run.iterations()}


def undecided_note(count: int) -> str:
    """What the user should know about so many undecided answers."""
    return (
        f"{count} {'answer' if count == 1 else 'answers'} could not be compared with the right one within the limits "
        "of time and memory, and count as wrong"
    )
