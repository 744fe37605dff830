"""`report`, `runs list`, `chat` and `search`: look at what there is; the run folders stay as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..errors import RunError
from .arguments import (
    AsJson,
    ConfigOption,
    Iteration,
    Overrides,
    Quiet,
    RunFolderArgument,
    StepsOption,
    TransferOption,
    Variant,
    handing_on,
    iteration_number,
    machine_of,
    open_run,
)
from .console import console_of, errors, import_libraries, progress
from .early import say

if TYPE_CHECKING:
    from ..records import Question, Rollouts
    from ..settings.machine import Machine
    from ..settings.workflow import Workflow
    from ..stage.asking import Said
    from ..stage.cast import Cast


def report(run: RunFolderArgument, config: ConfigOption = None, as_json: AsJson = False) -> None:
    """A run's tables again, and the curve of score and tokens over its iterations."""
    with errors():
        from ..records import to_json
        from ..runs.evaluations import undone_remarks
        from ..runs.market import trades
        from ..runs.report import overview
        from ..runs.searches import prompt_search
        from ..runs.steps import imitations, preferences, reinforcements
        from ..runs.summary import summary

        machine = machine_of(config)
        folder = open_run(run, machine)
        if not as_json:
            console_of(machine).print(overview(folder, machine.speakers))
            return
        steps = {
            "imitations": imitations(folder),
            "preferences": preferences(folder),
            "reinforcements": reinforcements(folder),
            "prompt_search": prompt_search(folder),
            "undone": undone_remarks(folder),
        }
        if found := trades(folder):
            steps["trades"] = [asdict(one) | {"successions": _lines(one.successions)} for one in found]
        print(json.dumps(summary(folder) | to_json(steps)))


def _lines(successions: Mapping[tuple[str, str], int]) -> list[dict[str, object]]:
    return [{"after": first, "acts": then, "times": count} for (first, then), count in successions.items()]


def runs_list(config: ConfigOption = None, as_json: AsJson = False) -> None:
    """The runs in the run folder, and how far each has come."""
    with errors():
        from ..runs.listing import runs

        machine = machine_of(config)
        console, found = console_of(machine), runs(Path(machine.run_folder))
        if as_json:
            for one in found:
                print(json.dumps(asdict(one) | {"folder": str(one.folder)}))
            return
        table = Table("run", "recipe", "seed", "iterations", "state", box=None)
        for one in found:
            if one.problem:
                table.add_row(one.name, "", "", "", f"[red]{escape(one.problem)}[/red]")
                continue
            state = "running" if one.running else "finished" if one.finished else "unfinished"
            done = f"{one.iterations_done} of {one.iterations_planned}"
            table.add_row(one.name, one.recipe or "", str(one.seed), done, state)
        console.print(table if found else f"no runs in {machine.run_folder} yet: optima-lite train quickstart")


def chat(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    sample: Annotated[int, typer.Option(min=0, help="So many held-out questions of the run's task instead.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Sampling seed.")] = 0,
    transfer: TransferOption = None,
    steps: StepsOption = None,
    config: ConfigOption = None,
) -> None:
    """Type a question with its facts and watch the agents of a run talk about it."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        folder = open_run(run, machine)
        number = iteration_number(folder, iteration)
        say(console, f"{folder.folder}: the libraries and the model are being loaded")
        import_libraries()
        from ..stage.cast import recall

        cast = recall(folder, machine=machine, iteration=number, handing_on=handing_on(transfer, steps))
        who = "untrained" if number is None else f"iteration {number}"
        *others, last = cast.team.workflow.names
        console.print(f"[bold]{', '.join(others)} and {last}[/bold] of {folder.folder}, {who}")
        for question in _questions_for_chat(console, cast, sample):
            _talk(console, cast, question, greedy=greedy, seed=seed)


def _questions_for_chat(console: Console, cast: Cast, sample: int) -> Iterator[Question]:
    if sample:
        from ..tasks.questions import questions

        yield from questions(cast.recipe.task, "held_out", sample, seed=0)
        return
    from ..records import Question

    if cast.recipe.task.name == "world":
        from ..tasks.questions import questions

        (like,) = questions(cast.recipe.task, "held_out", 1, seed=0)
        console.print(f"Trained on questions like: {like.text}\nand on facts like:         {like.contexts[0][0]}")
    console.print("An empty question, or Ctrl-D, ends the chat.")
    while True:
        try:
            text = console.input("\n[bold]Question:[/bold] ").strip()
            if not text:
                return
            if cast.team.workflow.holders:
                first, second = (_facts(console, f" of {role}") for role in cast.team.workflow.holders)
            else:
                first, second = _facts(console, ""), ()
        except EOFError:
            console.print()
            return
        yield Question("chat", text, ("",), (first, second))


def _facts(console: Console, whose: str) -> tuple[str, ...]:
    console.print(f"Facts{whose}, a line each, then an empty line:")
    lines = []
    while line := console.input("  - ").strip():
        lines.append(line)
    return tuple(lines)


def _talk(console: Console, cast: Cast, question: Question, *, greedy: bool, seed: int) -> None:
    from ..runs.dialogue_view import printable
    from ..stage.asking import Team

    (fitted,), shortened = cast.fit(cast.team, [question])
    console.rule()
    console.print(f"[bold]{escape(printable(question.text))}[/bold]")
    everyone = all(role.facts == "all" for role in cast.team.workflow.roles)
    together = [("everyone knows" if everyone else "facts", sum(question.contexts, ()))]
    hands = [
        (f"{role} knows", facts) for role, facts in zip(cast.team.workflow.holders, question.contexts, strict=False)
    ]
    for who, facts in hands or together:
        console.print(f"[dim]{who}: {escape(printable('; '.join(facts))) or 'nothing'}[/dim]")
    if shortened:
        console.print("[yellow]the facts were shortened to fit the model[/yellow]")

    with _shown_live(console, cast.team.workflow) as show:
        found = Team(cast).ask(fitted, sample=not greedy, seed=seed, hear=show)
    gold = f", right: {' / '.join(question.answers)}" if any(question.answers) else ""
    outcome = printable(found.answer or "none")
    console.print(f"[bold]{found.ending}[/bold], answer: {escape(outcome)}{escape(gold)}, {found.tokens} tokens")


@contextmanager
def _shown_live(console: Console, workflow: Workflow) -> Iterator[Callable[[Said], None]]:
    """What shows every turn as soon as it is said: below each other, or, of a team that streams, a tick a row with
    its agents side by side."""
    if workflow.streams and console.is_terminal:
        from ..runs.stream_view import SideBySide

        shown = SideBySide(workflow)
        with Live(shown, console=console, vertical_overflow="visible") as live:

            def add(turn: Said) -> None:
                shown.add(turn.tick, turn.role, turn.text)
                live.refresh()

            yield add
        return
    from ..runs.dialogue_view import printable

    def show(turn: Said) -> None:
        answer = f"  [green]answer: {escape(printable(turn.answer))}[/green]" if turn.answer else ""
        cut = "" if turn.finished or (workflow.streams and turn.tokens) else " [red](cut)[/red]"
        tick = f"[dim]tick {turn.tick}[/dim] " if workflow.streams else ""
        by = f"by {turn.spoken_by}, " if turn.spoken_by else ""
        said = f"{tick}[cyan]{turn.role}[/cyan] [dim]({by}{turn.tokens})[/dim] {escape(printable(turn.text))}"
        console.print(f"{said}{cut}{answer}")

    yield show


def search(
    source: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="A recipe, or a run folder or its name.")],
    overrides: Overrides = None,
    variant: Variant = None,
    iteration: Iteration = "last",
    question: Annotated[str | None, typer.Option(help="A question, instead of held-out ones of the task.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="An accepted answer to it; may be given again.")] = None,
    facts_a: Annotated[list[str] | None, typer.Option(help="A fact of the first agent; may be given again.")] = None,
    facts_b: Annotated[list[str] | None, typer.Option(help="A fact of the second agent; may be given again.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Held-out questions of the task, a tree each.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Sampling seed.")] = 0,
    depth: Annotated[int | None, typer.Option(min=1, help="Show so many messages deep.")] = None,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grow the dialogue tree of a question and show it, with the messages that would be preferred; stores nothing."""
    with errors():
        machine = machine_of(config)
        console = console_of(machine)
        with progress(console, quiet=quiet or as_json, as_json=False) as observe:
            import_libraries()
            from ..learn.selection import pairs
            from ..methods.optima.explore import explore
            from ..tasks.questions import questions

            cast, probe = _cast_to_search(source, overrides, variant, iteration, machine)
            if question:
                from ..records import Question

                facts = (tuple(facts_a or ()), tuple(facts_b or ()))
                asked = [Question("question", question, tuple(answer or ("",)), facts)]
            else:
                asked = questions(cast.recipe.task, "held_out", sample, seed=0)
            trees = explore(cast, asked, probe=probe, seed=seed, observe=observe)
        from ..records import to_json
        from ..runs.tree_view import TreeView

        found = pairs(trees, settings=cast.recipe.selection)
        if as_json:
            print(json.dumps({"trees": to_json(trees), "pairs": to_json(found)}), flush=True)
            return
        for tree in trees:
            console.print(TreeView(tree, found, cast.team.workflow.names, depth))
        console.print(
            f"{len(found)} {'pair' if len(found) == 1 else 'pairs'} to learn from, "
            f"{sum(tree.sampled for tree in trees):,} tokens sampled"
        )


def _cast_to_search(
    source: str, overrides: list[str] | None, variant: list[str] | None, iteration: str, machine: Machine
) -> tuple[Cast, Sequence[Rollouts]]:
    """The agents of a run, with their answers to the validation questions, or those that a recipe begins with."""
    from ..methods.optima.explore import stored_probe
    from ..settings.config import load_recipe
    from ..stage.cast import assemble, recall

    if _is_run(Path(source), machine):
        if overrides or variant:
            what = "holds a run, whose recipe stands"
            raise RunError(what, where=source, hint="leave out the settings and variants, or name a recipe")
        folder = open_run(Path(source), machine)
        number = iteration_number(folder, iteration)
        return recall(folder, machine=machine, iteration=number), stored_probe(folder, number)
    loaded = load_recipe(source, overrides=overrides or (), variants=variant or ())
    if iteration not in ("last", "untrained"):
        raise RunError("a recipe has no iterations, only its runs have", where="--iteration", hint="name a run folder")
    return assemble(loaded.recipe, machine=machine, settle=lambda key, decide: decide()), []


def _is_run(path: Path, machine: Machine) -> bool:
    return any(os.path.isfile(folder / "manifest.json") for folder in (path, Path(machine.run_folder) / path))
