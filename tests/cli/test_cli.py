"""The command line: every verb, every mistake of a user as a message with exit code 2, and output that scripts read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from optima_lite.cli.console import ctrl_c_waits, program
from optima_lite.settings.config import load_machine, shipped_recipes
from optima_lite.settings.keys import reference
from optima_lite.settings.machine import EXAMPLE_TOML
from optima_lite.settings.recipe import Recipe
from support import MACHINE, SMALL, TINIER, Finished, Outcome, call, records

VERBS = [
    ("train",),
    ("check",),
    ("eval",),
    ("scale",),
    ("compare",),
    ("sweep",),
    ("search",),
    ("chat",),
    ("stream",),
    ("report",),
    ("doctor",),
    ("init",),
    ("recipes", "list"),
    ("recipes", "show"),
    ("recipes", "copy"),
    ("runs", "list"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and nothing in the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    return tmp_path


def refused(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2
    assert outcome.err.startswith("error "), outcome.err
    assert "Traceback" not in outcome.err
    missing = [part for part in parts if part not in outcome.err]
    assert not missing, outcome.err


# --- Help and version -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb: tuple[str, ...]) -> None:
    outcome = call(*verb, "--help")
    assert outcome.code == 0
    assert f"optima-lite {' '.join(verb)}" in outcome.out
    assert len(outcome.out.split("\n")[3].strip()) > 10, "a sentence on what it does"


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_an_example_and_a_short_help(verb: tuple[str, ...]) -> None:
    told = call(*verb, "-h").out
    assert told == call(*verb, "--help").out
    assert f"Example: optima-lite {' '.join(verb)}" in " ".join(told.split())


def test_exit_codes_and_completion_are_in_the_help() -> None:
    told = " ".join(call("-h").out.split())
    assert "Exit codes: 0 done; 1 a training self-check failed; 2 a mistake" in told and "--install-completion" in told


def test_what_is_listed_and_looked_at_is_told_as_json_too(finished: Finished) -> None:
    config = ("--config", finished.arguments[2])
    assert call("recipes", "list", "--json").events[0]["recipe"] == "quickstart"
    assert {finding["subject"] for finding in call("doctor", "--json").events} > {"Python", "GPU", "disk"}
    assert call("check", *finished.arguments, "--no-probe", "--json").events[0]["status"] == "ok"
    (run,) = call("runs", "list", *config, "--json").events
    assert (run["name"], run["finished"], run["folder"]) == ("small-seed0", True, str(finished.folder))
    (report,) = call("report", finished.folder, "--json").events
    assert report["evaluations"] == json.loads((finished.folder / "summary.json").read_text())["evaluations"]
    assert len(report["imitations"]) == 2 and set(report["undone"]) == {"iteration_0", "iteration_1"}


def test_the_list_of_verbs_is_whole() -> None:
    from optima_lite.cli.app import app, recipes_app, runs_app

    named = {(command.name or getattr(command.callback, "__name__", ""),) for command in app.registered_commands}
    for group, part in (("recipes", recipes_app), ("runs", runs_app)):
        named |= {(group, command.name or "") for command in part.registered_commands}
    assert set(VERBS) <= named


def test_without_a_verb_there_is_help() -> None:
    assert "Usage: optima-lite" in call().out
    assert "optima-lite train" not in call("--help").err


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    outcome = call("--version")
    assert (outcome.code, outcome.out) == (0, version("optima-lite") + "\n")


@pytest.mark.parametrize(
    "arguments", [("trian",), ("train",), ("train", "--no-such-option"), ("eval", "x", "--seed", "-1")]
)
def test_a_wrong_command_line_is_told(arguments: tuple[str, ...]) -> None:
    outcome = call(*arguments)
    assert outcome.code == 2 and "Usage:" in outcome.err and "Traceback" not in outcome.err


# --- Mistakes in the settings ---------------------------------------------------------------------

BASE = yaml.safe_load(SMALL)


@pytest.mark.parametrize("verb", ["train", "check", "recipes show"])
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("small.yaml",)),
        ("{", ("small.yaml",)),
        ("- a\n- b\n", ("small.yaml",)),
        ("\0\1", ("small.yaml",)),
        (SMALL + "sampling2: 1\n", ("small.yaml:12", "sampling2", "did you mean sampling")),
        (SMALL + "seed: 1\nseed: 2\n", ("small.yaml:13", "seed")),
        (SMALL + "seed: no\n", ("small.yaml:12", "seed")),
        (SMALL + "seed: -1\n", ("small.yaml:12", "seed")),
        (SMALL + "threads: 2\n", ("small.yaml:12", "threads", "belongs in optima_lite.toml")),
    ],
    ids=["empty", "no YAML", "list", "binary", "misspelt", "twice", "mistyped", "out of range", "machine key"],
)
def test_a_recipe_with_a_mistake_is_refused(here: Path, verb: str, text: str, parts: tuple[str, ...]) -> None:
    (here / "small.yaml").write_text(text)
    refused(call(*verb.split(), "small.yaml"), *parts)
    assert [path.name for path in here.iterdir()] == ["small.yaml"], "nothing was written"


@pytest.mark.parametrize("verb", ["train", "check", "recipes show", "recipes copy"])
def test_a_recipe_that_is_nowhere_is_told(here: Path, verb: str) -> None:
    refused(call(*verb.split(), "quickstrat"), "error quickstrat: no such recipe\n  try: quickstart")
    refused(call(*verb.split(), "zzz"), "error zzz: no such recipe\n  try: a path, or a shipped recipe: ")


def test_a_recipe_without_permission_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "small.yaml").write_text(SMALL)

    def denied(*arguments: Any, **named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    refused(call("train", "small.yaml"), "error small.yaml: cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("threads = 'many'\n", ("machine.toml:1", "threads")),
        ("seed = 1\n", ("machine.toml:1", "seed", "it belongs in the recipe")),
        ("thread = 1\n", ("machine.toml:1", "thread", "did you mean threads?")),
        ("threads =\n", ("machine.toml", "not valid TOML")),
    ],
)
def test_a_machine_file_with_a_mistake_is_refused(here: Path, text: str, parts: tuple[str, ...]) -> None:
    (here / "machine.toml").write_text(text)
    for verb in (("train", "quickstart"), ("doctor",), ("runs", "list"), ("report", "x")):
        refused(call(*verb, "--config", "machine.toml"), *parts)
    refused(call("doctor", "--config", "nowhere.toml"), "error nowhere.toml: no such file")


def test_all_mistakes_come_at_once(here: Path) -> None:
    (here / "small.yaml").write_text(SMALL + "sead: 1\n")
    outcome = call("check", "small.yaml", "reward.token_weight=-1", "sampling.rolouts=2", "--variant", "fast")
    refused(
        outcome, "error 4 mistakes in the settings", "sead", "reward.token_weight", "sampling.rolouts", "--variant fast"
    )


# --- Mistakes in the data and the model -----------------------------------------------------------

ROWS = [{"question": f"What is {i}?", "answers": [str(i)], "context": [f"it is {i}", "no"]} for i in range(40)]


@pytest.fixture
def jsonl(here: Path) -> Path:
    """A recipe over rows.jsonl; returns the file's path."""
    recipe = BASE | {"task": {"name": "jsonl", "path": "rows.jsonl"}}
    (here / "rows.yaml").write_text(yaml.safe_dump(recipe))
    (here / "optima_lite.toml").write_text(MACHINE)
    path = here / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"question": "Wh', ("rows.jsonl:41: not JSON: Unterminated string starting at at column 14",)),
        ('{"question": "Why?", "context": []}', ("rows.jsonl:41: no field 'answers'",)),
        ('{"question": "Why?", "answers": "", "context": []}', ("rows.jsonl:41: answers holds no answer",)),
        (None, ("rows.jsonl: the file has no rows",)),
    ],
    ids=["broken line", "missing field", "empty answer", "no rows"],
)
def test_data_that_cannot_be_used_is_told_with_its_line(jsonl: Path, line: str | None, parts: tuple[str, ...]) -> None:
    jsonl.write_text("" if line is None else jsonl.read_text() + line + "\n")
    refused(call("train", "rows.yaml"), *parts)
    outcome = call("check", "rows.yaml", "--no-probe")
    assert outcome.code == 2
    assert all(part in outcome.out for part in parts), outcome.out
    assert outcome.out.rstrip().endswith("1 problem")


def test_a_data_file_that_is_not_there_is_told(jsonl: Path) -> None:
    refused(call("train", "rows.yaml", "task.path=other.jsonl"), "error other.jsonl: no such file")
    outcome = call("check", "rows.yaml", "task.path=null")
    assert (
        outcome.code == 0 and "no file yet" in outcome.out and "add task.path=FILE.jsonl to the command" in outcome.out
    )


def test_a_start_that_failed_does_not_stand_in_the_way_of_the_right_one(jsonl: Path) -> None:
    """Nothing was computed, so there is nothing to protect from another recipe."""
    refused(call("train", "rows.yaml", "task.path=other.jsonl"), "no such file")
    refused(call("train", "rows.yaml", "model.name=./nowhere"), "no such model folder: ./nowhere")
    assert not (jsonl.parent / "runs").exists()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: None, "no such model folder"),
        (lambda folder: folder.mkdir(), "this model folder has no config.json"),
        (lambda folder: model(folder, weights="pytorch_model.bin"), "only pickled weights (pytorch_model.bin)"),
        (
            lambda folder: model(folder, auto_map={"AutoModel": "code.py"}),
            "asks to run code of its own, which is refused",
        ),
        (lambda folder: model(folder, weights="model.safetensors"), "model.safetensors is damaged or not whole"),
    ],
    ids=["missing", "empty", "pickle", "remote code", "half"],
)
def test_a_model_that_cannot_be_used_is_told(here: Path, make: Any, what: str) -> None:
    (here / "small.yaml").write_text(SMALL)
    make(here / "llama")
    refused(call("train", "small.yaml", "model.name=./llama"), what)
    outcome = call("check", "small.yaml", "--no-probe", "model.name=./llama")
    assert outcome.code == 2 and what in outcome.out


def model(folder: Path, *, weights: str | None = None, **config: Any) -> None:
    folder.mkdir()
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"]} | dict.fromkeys(sizes, 8) | {"head_dim": 2} | config)
    )
    if weights:
        (folder / weights).write_bytes(b"\0")


# --- Looking at things ----------------------------------------------------------------------------


def test_check_says_what_a_run_would_do_and_writes_nothing(here: Path) -> None:
    (here / "small.yaml").write_text(SMALL)
    outcome = call("check", "small.yaml", "--no-probe", "training.iterations=5")
    assert outcome.code == 0
    assert "5 iterations of 4 questions x 2 dialogues of up to 4 x 24 tokens; 4 held-out questions" in outcome.out
    for subject in ("recipe", "model", "data to train on", "disk", "run folder"):
        assert f" {subject}: " in outcome.out
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


def test_check_tells_of_a_run_that_goes_on(finished: Finished) -> None:
    assert "which holds this run and will be resumed" in call("check", *finished.arguments, "--no-probe").out


def test_doctor_looks_at_everything(here: Path) -> None:
    outcome = call("doctor")
    assert outcome.code == 0, outcome.out
    for subject in ("Python", "torch", "transformers", "trl", "peft", "bitsandbytes", "GPU", "memory", "disk"):
        assert f" {subject}: " in outcome.out
    assert "problem" not in outcome.out


def test_recipes_are_listed_with_what_they_do() -> None:
    outcome = call("recipes", "list")
    assert outcome.code == 0
    for name in shipped_recipes():
        assert name in outcome.out
    assert "Optima from end to end on a CPU" in outcome.out


def test_a_recipe_shows_every_setting_and_its_origin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    (here / "small.yaml").write_text(SMALL + "variants: {wide: {training: {questions: 9}}}\n")
    outcome = call("recipes", "show", "small.yaml", "seed=7", "--variant", "wide")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    for key in reference(Recipe):
        assert any(line.startswith(f"{key.path}: ") for line in lines) and f"    {key.description}" in lines
    assert "seed: 7  (command line)" in lines and "model.lora_rank: 16  (default)" in lines
    assert "sampling.rollouts: 2  (small.yaml:7)" in lines
    assert "training.questions: 9  (small.yaml:12 (variant wide))" in lines
    assert "variants: wide" in outcome.out


def test_a_recipe_is_copied_once(here: Path) -> None:
    assert call("recipes", "copy", "quickstart").out == "wrote quickstart.yaml\n"
    assert (here / "quickstart.yaml").read_text() == shipped_recipes()["quickstart"].read_text()
    (here / "quickstart.yaml").write_text("mine")
    outcome = call("recipes", "copy", "gsm8k_jsonl", "quickstart.yaml")
    refused(outcome, "error quickstart.yaml: exists already\n  try: --force to replace it, or another path\n")
    assert (here / "quickstart.yaml").read_text() == "mine"
    assert call("recipes", "copy", "gsm8k_jsonl", "quickstart.yaml", "--force").code == 0
    assert (here / "quickstart.yaml").read_text() == shipped_recipes()["gsm8k_jsonl"].read_text()
    refused(call("recipes", "copy", "quickstart", "no/such/folder.yaml"), "no/such/folder.yaml: cannot be written: ")


def test_init_writes_a_machine_file_that_says_nothing_new(here: Path) -> None:
    assert call("init").out == "wrote optima_lite.toml\n"
    assert (here / "optima_lite.toml").read_text() == EXAMPLE_TOML
    assert load_machine() == load_machine(None)
    refused(call("init"), "error optima_lite.toml: exists already")


def test_runs_are_listed_with_their_state(finished: Finished, here: Path) -> None:
    assert call("runs", "list").out == "no runs in runs yet: optima-lite train quickstart\n"
    shutil.copytree(finished.folder, here / "runs" / "done")
    shutil.copytree(finished.folder, here / "runs" / "half")
    (here / "runs/half/summary.json").unlink()
    shutil.rmtree(here / "runs/half/iteration_01")
    (here / "runs" / "odd").mkdir()
    (here / "runs/broken").mkdir()
    (here / "runs/broken/manifest.json").write_text("{")
    lines = [line.split(maxsplit=1) for line in call("runs", "list").out.splitlines()]
    found = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert found["done"].split() == ["small", "0", "2", "of", "2", "finished"]
    assert found["half"].split() == ["small", "0", "1", "of", "2", "unfinished"]
    assert found["odd"] == "is not a run folder: it has no manifest.json"
    assert found["broken"].startswith("is damaged: ")


# --- A run ----------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_what_came_out(finished: Finished) -> None:
    lines = finished.printed.splitlines()
    assert lines[0] == "small: 2 iterations of 4 questions x 2 dialogues, model tiny, seed 0"
    assert lines.count(f"run folder {finished.folder}") == 1
    for part in ("iteration 0 generate: 8 dialogues", "iteration 1 train: ", "evaluation untrained sampled: score "):
        assert any(line.startswith(part) for line in lines), part
    assert lines[-2:] == [
        f"Go on with:  optima-lite chat {finished.folder} --sample 3",
        f"             optima-lite report {finished.folder}",
    ]
    assert "\x1b" not in finished.printed, "no colours where nobody sees them"


def test_quiet_is_only_the_result(finished: Finished) -> None:
    outcome = call("train", *finished.arguments, "--quiet")
    assert outcome.code == 0 and outcome.err == ""
    first = next(line for line in outcome.out.splitlines() if line)
    assert first.split() == ["tokens", "per", "readability"], "the table's heading"


def test_json_is_one_object_a_line(finished: Finished, tmp_path: Path) -> None:
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    (copy / "evaluation/iteration_01_greedy.jsonl").unlink()
    outcome = call("train", *finished.arguments, "--run", copy, "--json")
    assert outcome.code == 0
    *events, last = outcome.events
    assert last == {"summary": json.loads((copy / "summary.json").read_text())}
    kinds = {event["event"] for event in events}
    assert {"run_started", "phase_started", "phase_advanced", "phase_finished", "evaluated"} <= kinds


def test_a_report_shows_the_tables_again(finished: Finished) -> None:
    outcome = call("report", finished.folder)
    assert outcome.code == 0
    table = finished.printed[finished.printed.rindex("evaluation  ") :].partition("\n\n")[0]
    assert table.count("\n") == 14 and table in outcome.out
    assert "small, seed 0" in outcome.out
    by_name = call("report", finished.folder.name, "--config", finished.arguments[2])
    assert by_name.out == outcome.out, "a run is found by its name, too"


@pytest.mark.parametrize("verb", ["report", "eval", "chat"])
def test_a_run_that_is_nowhere_is_told(here: Path, verb: str) -> None:
    refused(call(verb, "nowhere"), "error nowhere: there is no such run folder\n  try: optima-lite runs list\n")
    (here / "odd").mkdir()
    refused(call(verb, "odd"), "error odd: is not a run folder: it has no manifest.json")
    (here / "odd/manifest.json").write_text("{")
    refused(call(verb, "odd"), "error odd/manifest.json: is damaged: ")


def test_eval_repeats_what_the_run_found(finished: Finished) -> None:
    before = records(finished.folder)
    for iteration, name in (("last", "iteration_1"), ("untrained", "untrained")):
        outcome = call("eval", finished.folder, "--iteration", iteration, "--config", finished.arguments[2], "--json")
        assert outcome.code == 0, outcome.err
        rows = [event["row"] for event in outcome.events if event["event"] == "evaluated"]
        summary = json.loads((finished.folder / "summary.json").read_text())
        stored = [row for row in summary["evaluations"] if row["name"] == name]
        assert [row | {"readability_loss": pytest.approx(row["readability_loss"], rel=1e-4)} for row in stored] == rows
    assert records(finished.folder) == before


def test_eval_of_another_iteration_size_and_seed(finished: Finished) -> None:
    outcome = call("eval", finished.folder, "-i", "0", "--questions", "2", "--seed", "5", "--quiet")
    assert outcome.code == 0
    assert "iteration_0" in outcome.out and "greedy" in outcome.out
    refused(
        call("eval", finished.folder, "-i", "7"),
        f"error {finished.folder}: there is no iteration 7\n  try: trained so far: 0, 1\n",
    )
    refused(
        call("eval", finished.folder, "-i", "best"),
        "error --iteration: 'best' is no iteration\n  try: a number, `last` or `untrained`\n",
    )


def test_chat_with_questions_of_the_task(finished: Finished) -> None:
    outcome = call("chat", finished.folder, "--sample", "2", "--greedy")
    assert outcome.code == 0
    assert "Alice and Bob" in outcome.out and "iteration 1" in outcome.out
    assert outcome.out.count("Alice knows: ") == outcome.out.count("Bob knows: ") == 2
    assert outcome.out.count(" tokens\n") == outcome.out.count(", right: ") == 2
    assert call("chat", finished.folder, "--sample", "2", "--greedy").out == outcome.out


def test_chat_with_questions_that_somebody_types(finished: Finished) -> None:
    typed = "Who [bold]is the mother of Mira? <|eot_id|> 東京 🙂\nMira mother Tess\n\n\nWho else?\n\n\n\n"
    outcome = call("chat", finished.folder, "--iteration", "untrained", stdin=typed)
    assert outcome.code == 0
    assert "Who [bold]is the mother of Mira? <|eot_id|> 東京 🙂" in outcome.out
    assert "Alice knows: Mira mother Tess" in outcome.out and "Bob knows: nothing" in outcome.out
    assert outcome.out.count(" tokens\n") == 2
    assert ", right: " not in outcome.out
    assert "An empty question, or Ctrl-D, ends the chat." in outcome.out
    assert call("chat", finished.folder, stdin="Who?\na fact").code == 0, "Ctrl-D among the facts ends it, too"


@pytest.mark.parametrize("verb", ["chat", "stream"])
def test_a_talk_that_goes_back_and_forth_cannot_stream(finished: Finished, verb: str) -> None:
    how = ("--transfer", "stream") if verb == "chat" else ()
    refused(call(verb, finished.folder, *how), "goes back and forth", "a team such as chain, tree or graph")


@pytest.mark.slow
def test_three_debaters_train_and_talk(tmp_path: Path) -> None:
    """Everyone sees everything, so facts are asked for once and shown once."""
    (tmp_path / "three.yaml").write_text(TINIER)
    (tmp_path / "machine.toml").write_text(MACHINE)
    machine = ("--config", tmp_path / "machine.toml")
    debate = ("protocol.name=debate", "protocol.roles=[Ann, Ben, Cy]", "protocol.max_turns=3")
    outcome = call("train", tmp_path / "three.yaml", *debate, "--run", tmp_path / "run", *machine)
    assert outcome.code == 0, outcome.err
    outcome = call("chat", tmp_path / "run", "--sample", "1", "--greedy", *machine)
    assert outcome.code == 0, outcome.err
    assert "\nAnn, Ben and Cy of " in outcome.out and outcome.out.count("everyone knows: ") == 1
    outcome = call("chat", tmp_path / "run", *machine, stdin="Who?\nMira mother Tess\n\n\n")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("Facts, a line each") == 1 and "everyone knows: Mira mother Tess\n" in outcome.out


def test_chat_shortens_what_is_too_long(finished: Finished) -> None:
    outcome = call("chat", finished.folder, stdin=f"Who?\n{'Mira mother Tess ' * 800}\n\n\n\n")
    assert outcome.code == 0
    assert "the facts were shortened to fit the model" in outcome.out
    outcome = call("chat", finished.folder, stdin=f"{'Who is it? ' * 3000}\n\n\n\n")
    refused(outcome, "leave no room for its facts")


@pytest.mark.parametrize(
    ("typed", "on_path", "told"),
    [
        ("/env/bin/optima-lite", "/env/bin/optima-lite", "optima-lite"),
        ("/env/bin/optima-lite", None, "/env/bin/optima-lite"),
        ("-c", None, "optima-lite"),
    ],
    ids=["on the path", "elsewhere", "from Python"],
)
def test_commands_to_go_on_with_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, typed: str, on_path: str | None, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    monkeypatch.setattr(shutil, "which", lambda name: on_path)
    assert program() == told


# --- As a process ---------------------------------------------------------------------------------


def console_script() -> str:
    """Python code that does what the installed `optima-lite` does."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["optima-lite"].partition(":")
    return f"from {module} import {function}; {function}()"


@pytest.mark.parametrize("program", [["-m", "optima_lite"], ["-c", console_script()]], ids=["module", "script"])
def test_ctrl_c_before_the_command_line_is_there_is_quiet(program: list[str], tmp_path: Path) -> None:
    interrupted = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
    (tmp_path / "typer.py").write_text(interrupted)  # is what the command line imports first of all libraries
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *program, "--help"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped\n")


def test_ctrl_c_waits_for_an_import_and_then_counts() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), ctrl_c_waits():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("imported whole")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with ctrl_c_waits():
        pass


def test_ctrl_c_while_libraries_are_read_is_one_line(here: Path) -> None:
    (here / "small.yaml").write_text(SMALL)
    command = [sys.executable, "-c", "from optima_lite.cli.app import main; main()", "train", "small.yaml"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout and process.stderr
        while "2 iterations" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.strip() == "stopped; what is complete is kept. Go on with: optima-lite train small.yaml"
