"""What a recipe's questions are, before a run asks them: how many each split has, and what the agents see of one."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from ..errors import OptimaError
from ..records import Question
from ..runs.demonstrations import demonstrations_of, origin_of, read_demonstrations
from ..settings.recipe import Recipe
from ..settings.task import SPLITS
from ..settings.workflow import QUESTION, TASK
from ..statistics import FEWEST
from ..tasks.benchmarks import BENCHMARKS
from ..tasks.questions import ALL, facts, questions
from ..team.prompts import sights
from .cast import workflows
from .findings import Finding, Status


def data_findings(recipe: Recipe, *, here: bool = True) -> Iterator[Finding]:
    """The size of every split, and what is too little of it; a file that is not named yet is a note, not a problem.
    here: whether the run is to be on this machine; else nothing is asked of the hub."""
    if not here and _of_the_hub(recipe):
        yield Finding("data", Status.NOTE, f"{recipe.task.name} comes from the Hugging Face hub, which was not asked")
        return
    if recipe.task.name == "jsonl" and recipe.task.path is None:
        yield Finding("data", Status.NOTE, "no file yet", "add task.path=FILE.jsonl to the command")
        return
    try:
        found = {split: _size(recipe, split) for split in SPLITS}
    except OptimaError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        yield Finding("data", Status.PROBLEM, what, error.hint)
        return
    asked = {
        "train": (recipe.training.questions, "data to train on", "training questions"),
        "validation": (recipe.evaluation.validation_questions, "data to decide on", "validation questions"),
        "held_out": (recipe.evaluation.questions, "data to report on", "held-out questions"),
    }
    if recipe.method == "prompts":
        how = recipe.prompt_search
        both = how.questions + how.confirmation_questions
        asked["validation"] = (both, "data to search and confirm on", "validation questions")
        del asked["train"]
    for split, (wanted, subject, name) in asked.items():
        there = found[split]
        short = there is not None and there < wanted
        few = min(wanted, wanted if there is None else there) < FEWEST
        size = "endless" if there is None else f"{there:,}"
        detail = f"{size} {name}, {'fewer than the ' if short else ''}{wanted:,} asked for"
        each = " in an iteration" if split == "train" else ""
        hint = f"with fewer than {FEWEST} chance decides: use more rows, or other shares" if few else None
        yield Finding(subject, Status.NOTE if few or short else Status.OK, detail + each, hint)


def look_up_findings(recipe: Recipe, *, here: bool = True) -> Iterator[Finding]:
    """How much there is to look facts up in, where that is more than the question's own. here: see `data_findings`."""
    if not here and _of_the_hub(recipe):
        return
    for index in sorted({*workflows(recipe)[0].indexes} - {QUESTION}):
        try:
            found = len(facts(recipe.task, index))
        except OptimaError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            yield Finding("facts to look up", Status.PROBLEM, what, error.hint)
        else:
            yield Finding("facts to look up", Status.OK, f"{found:,} in {_where(index)}")


def _of_the_hub(recipe: Recipe) -> bool:
    return recipe.task.name in BENCHMARKS and recipe.task.path is None


def demonstration_findings(recipe: Recipe) -> Iterator[Finding]:
    """How many demonstrations there are, and under which licences."""
    path = demonstrations_of(recipe)
    if path is None:
        return
    try:
        rows = read_demonstrations(path)
    except OptimaError as error:
        yield Finding("demonstrations", Status.PROBLEM, f"{error.where}: {error.what}", error.hint)
        return
    licences = ", ".join(sorted({origin_of(row).licence for row in rows}))
    wanted = recipe.teacher.at_most or recipe.training.questions
    used = f"{len(rows):,}" if len(rows) <= wanted else f"{wanted:,} of {len(rows):,}"
    yield Finding("demonstrations", Status.OK, f"{used} of {path}, licence {licences}")


def _where(index: str) -> str:
    return "all questions of the task" if index == TASK else index


def _size(recipe: Recipe, split: str) -> int | None:
    """How many questions a split has; None for one without an end."""
    return None if recipe.task.endless else len(questions(recipe.task, split, ALL, seed=recipe.seed))


def samples(recipe: Recipe, count: int) -> Iterator[RenderableType]:
    """The first training questions as every agent sees them before anything is said, and the single agent.

    Raises DataError for data that cannot be read.
    """
    for question in questions(recipe.task, "train", count, seed=recipe.seed):
        yield _sample(recipe, question)


def _sample(recipe: Recipe, question: Question) -> RenderableType:
    panels = []
    team, alone = workflows(recipe)
    seen = [(f"{who} sees", told) for who, told in sights(question, team, layout=recipe.prompts.layout)]
    seen += [("one agent alone, to compare with, sees", told) for _, told in sights(question, alone)]
    for title, told in seen:
        text = "\n".join(f"[{message.role}] {message.text}" for message in told)
        panels.append(Panel(Text(text), title=Text(title), title_align="left"))
    answers = Text(f"right: {' or '.join(question.answers)}", style="green")
    return Group(Text(f"question {question.id}", style="bold"), *panels, answers)
