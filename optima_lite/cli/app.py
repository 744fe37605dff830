"""The command line. Heavy imports live inside the commands; only here do errors become messages and exit codes.

Exit codes: 0 done, 1 a training self-check failed, 2 a mistake that the message tells how to mend, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import OptimaError

if TYPE_CHECKING:
    from ..records import Dialogue, Question, Rollouts
    from ..runs.progress import Observer, Timing
    from ..runs.store import RunFolder
    from ..settings.config import LoadedRecipe, Machine
    from ..stage.cast import Cast
    from ..stage.preflight import Finding

app = typer.Typer(
    name="optima-lite",
    help="Teach two LLM agents to solve more and say less, on one GPU (or, with the bundled tiny model, on none).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="Shipped recipes: list, show, copy.", no_args_is_help=True)
runs_app = typer.Typer(help="Finished and unfinished runs.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(runs_app, name="runs")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as training.iterations=4."),
]
Variant = Annotated[list[str] | None, typer.Option("--variant", "-v", help="Variants of the recipe, as a,b.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run folder, instead of one named after the recipe.")]
RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its name under run_folder.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="The machine file, instead of ./optima_lite.toml.")]
Iteration = Annotated[str, typer.Option("--iteration", "-i", help="An iteration's number, `last`, or `untrained`.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the result and errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Events and the result as JSON, one object a line.")]


def main() -> None:
    """The command line, on the arguments of this process."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at import what a CPU lacks for four bits
    app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("optima-lite"))
        raise typer.Exit()


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    variant: Variant = None,
    run: RunOption = None,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    profile: Annotated[bool, typer.Option("--profile", help="Tell and keep where the time went.")] = False,
) -> None:
    """Run a recipe from the untrained pair to the final table; the same command resumes."""
    command = shlex.join([_program(), *sys.argv[1:]])
    with _errors(go_on=command):
        from ..runs.store import run_folder

        loaded, machine = _load(recipe, overrides, variant, config)
        console = _console(machine)
        folder = run or run_folder(loaded, machine)
        finished = _is_finished(folder, loaded)
        _announce(console, loaded, folder, quiet=quiet or as_json, finished=finished)
        with _progress(console, quiet=quiet or (finished and not as_json), as_json=as_json) as observe:
            _choose_backend(machine)
            from ..methods.optima.loop import train as run_loop
            from ..runs.progress import Timings, fan_out

            timings, started = Timings(), time.monotonic()
            run_loop(loaded, machine=machine, folder=folder, observe=fan_out(observe, timings))
        if profile:
            _show_profile(console, folder, timings.rows(), seconds=time.monotonic() - started, as_json=as_json)
        _show_result(console, folder, as_json=as_json)


@app.command()
def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    variant: Variant = None,
    run: RunOption = None,
    config: ConfigOption = None,
    vram: Annotated[float | None, typer.Option(min=1, help="Forecast for a card of so many GiB.")] = None,
    probe: Annotated[bool, typer.Option(help="On a GPU, load the model and measure each phase.")] = True,
) -> None:
    """Read a recipe, say what its run would do and what it needs, memory above all; nothing is written."""
    with _errors():
        from ..runs.store import run_folder
        from ..stage.preflight import check as findings

        loaded, machine = _load(recipe, overrides, variant, config)
        folder = run or run_folder(loaded, machine)
        _choose_backend(machine)
        found = findings(loaded, machine=machine, folder=folder, vram=vram, probe=probe)
        _report_findings(_console(machine), found)


@app.command("eval")
def evaluate(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    questions: Annotated[int | None, typer.Option(min=1, help="Held-out questions; default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed; default: the recipe's.")] = None,
    task: Annotated[str | None, typer.Option(help="A recipe whose task and prompts to use instead.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Compare all iterations with other ways.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="With --baselines: samples of the majority vote.")] = 8,
    train_single: Annotated[
        bool,
        typer.Option("--train-single", help="With --baselines: first train the single agent as the pair was, once."),
    ] = False,
    config: ConfigOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate any iteration of a run again, sampled and greedy; the run's own records stay as they are."""
    with _errors():
        from ..settings.config import load_recipe

        if baselines and iteration != "last":
            raise OptimaError("--baselines looks at every iteration", hint="leave out --iteration")
        if train_single and (not baselines or task):
            what = "--train-single trains on the run's own task, to be compared by --baselines"
            raise OptimaError(what, hint="add --baselines, and leave out --task")
        machine = _machine(config)
        console = _console(machine)
        folder = _open_run(run, machine)
        number = _iteration_number(folder, iteration)
        other = load_recipe(task).recipe if task else None
        with _progress(console, quiet=quiet, as_json=as_json) as observe:
            _choose_backend(machine)
            from ..stage.cast import recall

            cast = recall(folder, machine=machine, iteration=number, other=other)
            if train_single:
                from ..methods.optima.loop import train_alone

                train_alone(cast, folder, observe=observe)
            if baselines:
                from ..stage.baselines import compare

                found = compare(cast, folder, wanted=questions, samples=samples, seed=seed, observe=observe)
            else:
                from ..stage.evaluate import evaluate_again

                name = "untrained" if number is None else f"iteration_{number}"
                rows = evaluate_again(cast, name=name, questions_wanted=questions, seed=seed, observe=observe)
        from ..records import to_json
        from ..runs.report import baseline_table, evaluation_table, remarks, verdict_lines

        if not as_json:
            console.print(baseline_table(found) if baselines else evaluation_table(rows))
            for remark in [*remarks([one.row for one in found] if baselines else rows), *verdict_lines(folder)]:
                console.print(remark)
        elif baselines:
            print(json.dumps({"baselines": to_json(found)}), flush=True)


@app.command()
def scale(
    run: RunFolderArgument,
    samples: Annotated[int, typer.Option(min=1, help="Most dialogues about a question.")] = 32,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions.")] = 100,
    iteration: Iteration = "last",
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed; default: the recipe's.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for scaling.csv and scaling.png.")] = Path(),
    png: Annotated[bool, typer.Option(help="Draw the curves (needs matplotlib).")] = True,
    config: ConfigOption = None,
    quiet: Quiet = False,
) -> None:
    """Ask each question up to so many times: majority vote and coverage against tokens, with and without training."""
    with _errors():
        from ..stage.scaling_view import draw, require_plot, scaling_table, write_csv

        if png:
            require_plot()
        if not output.is_dir():
            raise OptimaError("there is no such folder", where=output)
        machine = _machine(config)
        console = _console(machine)
        folder = _open_run(run, machine)
        number = _iteration_number(folder, iteration)
        with _progress(console, quiet=quiet, as_json=False) as observe:
            _choose_backend(machine)
            from ..stage.baselines import scaling
            from ..stage.cast import recall

            cast = recall(folder, machine=machine, iteration=number)
            rows = scaling(
                cast, folder, iteration=number, wanted=questions, samples=samples, seed=seed, observe=observe
            )
        console.print(scaling_table(rows))
        for name, write in (("scaling.csv", write_csv), *((("scaling.png", draw),) if png else ())):
            write(rows, output / name)
            console.print(f"wrote {escape(str(output / name))}", soft_wrap=True)


@app.command()
def chat(
    run: RunFolderArgument,
    iteration: Iteration = "last",
    sample: Annotated[int, typer.Option(min=0, help="So many held-out questions of the run's task instead.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Sampling seed.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Type a question with facts for each agent and watch the two agents of a run talk about it."""
    with _errors():
        machine = _machine(config)
        console = _console(machine)
        folder = _open_run(run, machine)
        number = _iteration_number(folder, iteration)
        _choose_backend(machine)
        from ..stage.cast import recall

        cast = recall(folder, machine=machine, iteration=number)
        who = "untrained" if number is None else f"iteration {number}"
        *others, last = cast.pair.protocol.roles
        console.print(f"[bold]{', '.join(others)} and {last}[/bold] of {folder.folder}, {who}")
        for question in _questions_for_chat(console, cast, sample):
            _talk(console, cast, question, greedy=greedy, seed=seed)


@app.command()
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
    config: ConfigOption = None,
    quiet: Quiet = False,
) -> None:
    """Grow the dialogue tree of a question and show it, with the messages that would be preferred; stores nothing."""
    with _errors():
        machine = _machine(config)
        console = _console(machine)
        with _progress(console, quiet=quiet, as_json=False) as observe:
            _choose_backend(machine)
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
        from ..runs.tree_view import TreeView

        found = pairs(trees, settings=cast.recipe.selection)
        for tree in trees:
            console.print(TreeView(tree, found, cast.pair.protocol.roles))
        console.print(
            f"{len(found)} {'pair' if len(found) == 1 else 'pairs'} to learn from, "
            f"{sum(tree.sampled for tree in trees):,} tokens sampled"
        )


@app.command()
def report(run: RunFolderArgument, config: ConfigOption = None) -> None:
    """A run's tables again, and the curve of score and tokens over its iterations."""
    with _errors():
        from ..runs.report import overview

        machine = _machine(config)
        _console(machine).print(overview(_open_run(run, machine)))


@app.command()
def doctor(config: ConfigOption = None) -> None:
    """Python, packages, GPU, memory, disk: what will and what won't work, and how to mend it."""
    with _errors():
        from ..stage.preflight import doctor as findings

        machine = _machine(config)
        _report_findings(_console(machine), findings(machine))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path("optima_lite.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented optima_lite.toml: the settings of this machine."""
    with _errors():
        from ..settings.config import EXAMPLE_TOML

        _write_new(path, EXAMPLE_TOML, force=force)


@recipes_app.command("list")
def recipes_list() -> None:
    """The recipes that come with optima-lite."""
    with _errors():
        from ..settings.config import shipped_recipes

        table = Table("recipe", "what it does", box=None)
        for name, path in shipped_recipes().items():
            table.add_row(name, escape(path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")))
        Console().print(table)


@recipes_app.command("show")
def recipes_show(recipe: RecipeName, overrides: Overrides = None, variant: Variant = None) -> None:
    """Every setting of a recipe with its value, where the value comes from, and what it means."""
    with _errors():
        from ..settings.config import Recipe, load_recipe, reference

        loaded = load_recipe(recipe, overrides=overrides or (), variants=variant or ())
        values = loaded.recipe.to_dict()
        console = Console(highlight=False, soft_wrap=True)
        for key in reference(Recipe):
            value = values
            for part in key.path.split("."):
                value = value[part]
            shown = escape(json.dumps(value, ensure_ascii=False))
            where = escape(loaded.origins[key.path].replace(str(loaded.path), loaded.path.name))
            console.print(f"[bold]{key.path}[/bold]: {shown}  [dim]({where})[/dim]\n    {escape(key.description)}")
        if loaded.available:
            console.print(f"variants: {', '.join(loaded.available)}")


@recipes_app.command("copy")
def recipes_copy(
    recipe: RecipeName,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Where to; default: here, under its own name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Copy a recipe to edit it."""
    with _errors():
        from ..settings.config import load_recipe

        source = load_recipe(recipe).path
        _write_new(path or Path(source.name), source.read_text(encoding="utf-8"), force=force)


@runs_app.command("list")
def runs_list(config: ConfigOption = None) -> None:
    """The runs in the run folder, and how far each has come."""
    with _errors():
        from ..runs.store import runs

        machine = _machine(config)
        console, found = _console(machine), runs(Path(machine.run_folder))
        table = Table("run", "recipe", "seed", "iterations", "state", box=None)
        for one in found:
            if one.problem:
                table.add_row(one.name, "", "", "", f"[red]{escape(one.problem)}[/red]")
                continue
            state = "running" if one.running else "finished" if one.finished else "unfinished"
            done = f"{one.iterations_done} of {one.iterations_planned}"
            table.add_row(one.name, one.recipe or "", str(one.seed), done, state)
        console.print(table if found else f"no runs in {machine.run_folder} yet: optima-lite train quickstart")


# --- Helpers --------------------------------------------------------------------------------------


@contextmanager
def _errors(*, go_on: str | None = None) -> Iterator[None]:
    """Mistakes as a message with their exit code; Ctrl-C as one line with the command that goes on."""
    try:
        yield
    except OptimaError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]error[/bold red] {escape(str(error))}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        ending = f"; what is complete is kept. Go on with: {go_on}" if go_on else ""
        print(f"\nstopped{ending}", file=sys.stderr)
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `... | head` has seen enough
        sys.stderr.close()
        raise typer.Exit(0) from None


def _console(machine: Machine) -> Console:
    force = {"always": True, "never": None, "auto": None}[machine.colour]
    return Console(force_terminal=force, no_color=machine.colour == "never" or None, highlight=False)


def _program() -> str:
    """What to type for this program: the path that was typed, where its name alone is not found."""
    typed = sys.argv[0]
    return typed if Path(typed).name == app.info.name and shutil.which(str(app.info.name)) is None else "optima-lite"


def _machine(config: Path | None) -> Machine:
    from ..settings.config import load_machine

    return load_machine(config)


def _choose_backend(machine: Machine) -> None:
    """Comes before whatever imports transformers, because Unsloth patches it while being imported; then all that is
    heavy is read in one go."""
    from ..model.backend import decide

    with _ctrl_c_waits():
        decide(machine.backend)
        from ..methods.optima import loop  # noqa: F401  (and with it everything else)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C counts at the end of the block. In the middle of their import, numpy and torch would end with a traceback
    of their own, or go on without a part of themselves."""
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _load(
    recipe: str, overrides: list[str] | None, variant: list[str] | None, config: Path | None
) -> tuple[LoadedRecipe, Machine]:
    from ..settings.config import load_recipe

    return load_recipe(recipe, overrides=overrides or (), variants=variant or ()), _machine(config)


def _open_run(run: Path, machine: Machine) -> RunFolder:
    from ..runs.store import read_run

    under = Path(machine.run_folder) / run
    return read_run(under if not run.exists() and under.exists() else run)


def _cast_to_search(
    source: str, overrides: list[str] | None, variant: list[str] | None, iteration: str, machine: Machine
) -> tuple[Cast, list[Rollouts]]:
    """The agents of a run, with their answers to the validation questions, or those that a recipe begins with."""
    from ..errors import RunError
    from ..methods.optima.explore import stored_probe
    from ..settings.config import load_recipe
    from ..stage.cast import assemble, recall

    if _is_run(Path(source), machine):
        if overrides or variant:
            what = "holds a run, whose recipe stands"
            raise RunError(what, where=source, hint="leave out the settings and variants, or name a recipe")
        folder = _open_run(Path(source), machine)
        number = _iteration_number(folder, iteration)
        return recall(folder, machine=machine, iteration=number), stored_probe(folder, number)
    loaded = load_recipe(source, overrides=overrides or (), variants=variant or ())
    if iteration not in ("last", "untrained"):
        raise RunError("a recipe has no iterations, only its runs have", where="--iteration", hint="name a run folder")
    return assemble(loaded.recipe, machine=machine, settle=lambda key, decide: decide()), []


def _is_run(path: Path, machine: Machine) -> bool:
    return any((folder / "manifest.json").is_file() for folder in (path, Path(machine.run_folder) / path))


def _is_finished(folder: Path, loaded: LoadedRecipe) -> bool:
    """Whether a run of just this recipe has come to its end there."""
    from ..runs.store import read_run

    if not (folder / "summary.json").exists():
        return False
    return bool(read_run(folder).manifest["recipe"] == loaded.recipe.to_dict())


def _iteration_number(run: RunFolder, wanted: str) -> int | None:
    from ..errors import RunError

    if wanted == "untrained":
        return None
    if wanted == "last":
        return max(run.trained(), default=None)
    if not wanted.isdecimal():
        raise RunError(f"'{wanted}' is no iteration", where="--iteration", hint="a number, `last` or `untrained`")
    return int(wanted)


def _announce(console: Console, loaded: LoadedRecipe, folder: Path, *, quiet: bool, finished: bool) -> None:
    if quiet:
        return
    from ..runs.progress import counted

    recipe = loaded.recipe
    console.print(
        f"[bold]{loaded.name}[/bold]: {counted(recipe.training.iterations, 'iterations')} of "
        f"{counted(recipe.training.questions, 'questions')} x {recipe.sampling.rollouts} dialogues, "
        f"model {escape(recipe.model.name)}, seed {recipe.seed}"
    )
    if finished:
        console.print(f"finished already in {escape(str(folder))}")


@contextmanager
def _progress(console: Console, *, quiet: bool, as_json: bool) -> Iterator[Observer]:
    from ..runs.progress import JsonObserver, LiveObserver, PlainObserver, silent

    if as_json:
        yield JsonObserver(sys.stdout)
    elif quiet:
        yield silent
    elif console.is_terminal:
        with LiveObserver(console) as observe:
            yield observe
    else:
        yield PlainObserver(sys.stdout)


def _show_result(console: Console, folder: Path, *, as_json: bool) -> None:
    from ..runs.report import result
    from ..runs.store import read_run

    run = read_run(folder)
    if as_json:
        print(json.dumps({"summary": run.read_json("summary.json")}), flush=True)
        return
    console.print(result(run))
    name = shlex.quote(str(folder))
    program = shlex.quote(_program())
    ways = f"\nGo on with:  {program} chat {name} --sample 3\n             {program} report {name}"
    console.print(ways, soft_wrap=True, markup=False)


def _show_profile(console: Console, folder: Path, timings: Sequence[Timing], *, seconds: float, as_json: bool) -> None:
    """Where this process's time went, also as profile.json: the stages of all iterations together, and the rest."""
    from ..runs.progress import ACTIVITIES, Timing, profile

    rest = Timing(None, "everything else", round(seconds - sum(row.seconds for row in timings), 3), 0, 0)
    rows = [*(replace(row, phase=row.phase.split()[0]) for row in timings), rest]
    phases = {
        name: {
            "seconds": round(sum(row.seconds for row in rows if row.phase == name), 3),
            "tokens": sum(row.tokens for row in rows if row.phase == name),
            **{a: round(sum(r.activities.get(a, 0.0) for r in rows if r.phase == name), 3) for a in ACTIVITIES},
        }
        for name in dict.fromkeys(row.phase for row in rows)
    }
    (folder / "profile.json").write_text(json.dumps(phases, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps({"profile": phases}), flush=True)
    else:
        console.print(profile(rows))


def _report_findings(console: Console, findings: Iterator[Finding]) -> None:
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    problems = 0
    for number, finding in enumerate(findings, start=1):
        status = f"[{colours[finding.status]}]{finding.status:<7}[/]"
        console.print(f"{number:>2} {status} {finding.subject}: {escape(finding.detail)}", soft_wrap=True)
        if finding.hint:
            console.print(f"           {escape(finding.hint)}", soft_wrap=True)
        problems += finding.status == "problem"
    if problems:
        console.print(f"[red]{problems} problem{'s' * (problems > 1)}[/red]")
        raise typer.Exit(2)


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
            if cast.pair.protocol.split:
                first, second = (_facts(console, f" of {role}") for role in cast.pair.protocol.roles)
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
    from ..learn.rollout import unfold
    from ..runs.report import printable

    roles = cast.pair.protocol.roles
    (fitted,), shortened = cast.fit(cast.pair, [question])
    console.rule()
    console.print(f"[bold]{escape(printable(question.text))}[/bold]")
    hands = [(f"{role} knows", facts) for role, facts in zip(roles, question.contexts, strict=False)]
    for who, facts in hands if cast.pair.protocol.split else [("everyone knows", sum(question.contexts, ()))]:
        console.print(f"[dim]{who}: {escape(printable('; '.join(facts))) or 'nothing'}[/dim]")
    if shortened:
        console.print("[yellow]the facts were shortened to fit the model[/yellow]")
    dialogue: Dialogue | None = None
    for dialogue in unfold(cast.pair, fitted, sampling=cast.sampling(cast.pair, greedy=greedy), seed=(seed, "chat")):
        turn = dialogue.turns[-1]
        answer = f"  [green]answer: {escape(turn.answer)}[/green]" if turn.answer else ""
        cut = "" if turn.finished else " [red](cut)[/red]"
        said = f"[cyan]{roles[turn.speaker]}[/cyan] [dim]({len(turn.ids)})[/dim] {escape(printable(turn.text))}"
        console.print(f"{said}{cut}{answer}")
    assert dialogue is not None and dialogue.ending is not None
    gold = f", right: {' / '.join(question.answers)}" if any(question.answers) else ""
    outcome = dialogue.answer or "none"
    console.print(f"[bold]{dialogue.ending}[/bold], answer: {escape(outcome)}{escape(gold)}, {dialogue.tokens} tokens")


def _write_new(path: Path, text: str, *, force: bool) -> None:
    from ..errors import OptimaError

    if path.exists() and not force:
        raise OptimaError("exists already", where=path, hint="--force to replace it, or another path")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptimaError(f"cannot be written: {error.strerror}", where=path) from error
    Console(highlight=False).print(f"wrote {escape(str(path))}")
