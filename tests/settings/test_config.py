"""Recipes and machine files: what loads, where each value comes from, and what every mistake says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from optima_lite.errors import ConfigError
from optima_lite.settings import strict_yaml
from optima_lite.settings.config import load_machine, load_recipe
from optima_lite.settings.keys import reference
from optima_lite.settings.layers import differences, undoing
from optima_lite.settings.machine import EXAMPLE_TOML, Machine
from optima_lite.settings.recipe import Recipe
from optima_lite.settings.sections import ALL_FORMATS, ModelSettings
from optima_lite.settings.task import TaskSettings
from optima_lite.team import prompts

ROOT = Path(__file__).resolve().parents[2]
BASE = "model: {name: tiny}\ntask: {name: world}\n"
MINIMAL = Recipe(model=ModelSettings(name="tiny"), task=TaskSettings(name="world"))

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write text to `r.yaml` in a fresh working folder and give its relative path."""
    monkeypatch.chdir(tmp_path)

    def to_file(text: str) -> Path:
        Path("r.yaml").write_text(text, encoding="utf-8")
        return Path("r.yaml")

    return to_file


def refusal(path: Path, *overrides: str, variants: tuple[str, ...] = ()) -> str:
    """The message that loading ends with."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides=overrides, variants=variants)
    return str(caught.value)


# ---- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("012", 12),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("=", "="),
        ("'2e-4'", "2e-4"),
        ('"no"', "no"),
        ("[1, no, 2e-4]", [1, "no", 2e-4]),
        ("{a: 1:30}", {"a": "1:30"}),
    ],
)
def test_scalars_follow_yaml_1_2_in_files_and_overrides_alike(text: str, value: object) -> None:
    for loaded in (strict_yaml.load(f"key: {text}\n").value["key"], strict_yaml.load_value(text).value):
        assert loaded == value
        assert type(loaded) is type(value)


def test_an_override_is_one_scalar_even_with_signs_that_yaml_reads() -> None:
    for text in ("#### (.+)", "a: b", "# x", "- x", "*x", "&x", "!x", "a #b", "<<", "%x", "`x", "You, {name}: go"):
        assert strict_yaml.load_value(text).value == text


def test_anchors_and_merges(write: Write) -> None:
    path = write(
        "model: {name: tiny}\ntask: {name: world}\ntraining: &t\n  epochs: 5\n  questions: 7\n"
        "variants:\n  long:\n    training:\n      <<: *t\n      epochs: 9\n"
    )
    loaded = load_recipe(path, variants=["long"])
    assert (loaded.recipe.training.epochs, loaded.recipe.training.questions) == (9, 7)
    assert loaded.origins["training.epochs"] == "r.yaml:10 (variant long)"
    assert strict_yaml.load("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 3}").value["c"] == {
        "x": 1,
        "y": 2,
        "z": 3,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: the file is empty"),
        ("# only a comment\n", "r.yaml: the file is empty"),
        ("- a\n- b\n", "r.yaml:1: the file must hold `key: value` lines at its top level"),
        ("just text\n", "r.yaml:1: the file must hold `key: value` lines at its top level"),
        ("seed: 1\nmodel:\n\tname: tiny\n", "r.yaml:3: a tab where YAML wants spaces; indent with spaces"),
        (BASE + "---\nseed: 1\n", "r.yaml:3: a second document begins (---); a recipe is one document"),
        (
            "seed: 1: 2\n",
            "r.yaml:1: a colon inside plain text, or a line indented too far; put text with a colon in quotes",
        ),
        ("seed: [1\n", "r.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed: *nowhere\n", "r.yaml:1: not valid YAML: found undefined alias 'nowhere'"),
        ("seed: 1\nmodel: \x00\n", "r.yaml:2: holds the unreadable character U+0000; not a text file?"),
        ("seed: &a [*a]\n", "r.yaml:1: seed: an anchor contains itself"),
        (
            "seed: !!python/name:os.system x\n" + BASE,
            "r.yaml:1: seed: the tag !!python/name:os.system is not supported; write a plain value",
        ),
        ("seed: " + "[" * 1200, "r.yaml: nested too deeply"),
        ("seed: " + "9" * 5000 + "\n" + BASE, "r.yaml:1: seed: has too many digits"),
        ("? [a]\n: 1\n" + BASE, "r.yaml:1: a key must be text, not a list or a mapping"),
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_unreadable_yaml_is_refused_in_one_line(write: Write, text: str, message: str) -> None:
    assert message in [line.strip() for line in refusal(write(text)).splitlines()]


def test_anchors_that_multiply_are_stopped(write: Write) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    assert "the anchors multiply into too many values" in refusal(write(bomb))


def test_a_repeated_key_is_refused_with_both_lines(write: Write) -> None:
    path = write(BASE + "training:\n  epochs: 3\n  questions: 5\n  epochs: 4\n")
    assert refusal(path) == "r.yaml:6: training.epochs: stated twice; first on line 4"


def test_bom_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load_recipe(path).recipe == MINIMAL


@given(st.text() | st.text(alphabet="ab: -[]{}\n#&*!'\"<?|>\t,01."))
def test_any_text_is_read_or_refused(text: str) -> None:
    for document in (strict_yaml.load(text), strict_yaml.load_value(text)):
        assert (
            document.mistakes or document.value is None or isinstance(document.value, str | int | float | list | dict)
        )
    document = strict_yaml.load(text)
    assert isinstance(document.value, dict) or document.mistakes


# ---- files that are none


def test_missing_recipe_suggests_near_names(write: Write) -> None:
    write(BASE)
    assert refusal(Path("quikstart")).startswith("quikstart: no such recipe\n  try: quickstart")
    assert refusal(Path("recipes/quickstart.yml")) == "recipes/quickstart.yml: no such recipe\n  try: quickstart"
    assert refusal(Path("rr.yaml")) == "rr.yaml: no such recipe\n  try: r.yaml"
    assert "try: a path, or a shipped recipe: " in refusal(Path("zzzzzz"))
    assert "no such recipe" in refusal(Path("x" * 5000))


def test_folder_binary_and_foreign_encoding_are_refused(write: Write) -> None:
    write(BASE)
    Path("folder").mkdir()
    assert refusal(Path("folder")) == "folder: a folder, not a recipe\n  try: give the recipe's YAML file"
    Path("latin.yaml").write_bytes("# für\n".encode("latin-1"))
    assert refusal(Path("latin.yaml")) == "latin.yaml: not a text file in UTF-8\n  try: save it as UTF-8"
    Path("utf16.yaml").write_bytes(BASE.encode("utf-16"))
    assert refusal(Path("utf16.yaml")) == "utf16.yaml: not a text file in UTF-8\n  try: save it as UTF-8"


def test_a_file_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    assert refusal(write(BASE)) == "r.yaml: cannot be read: Permission denied"


def test_a_shipped_recipe_loads_by_name_and_a_file_comes_first(write: Write) -> None:
    assert load_recipe("quickstart").name == "quickstart"
    write(BASE).rename("quickstart")
    assert load_recipe("quickstart").path == Path("quickstart")


# ---- layers


def test_later_layers_win_and_origins_tell(write: Write) -> None:
    path = write(
        BASE + "training:\n  epochs: 2\n  questions: 20\n  batch_size: 2\n"
        "variants:\n  small:\n    training:\n      questions: 30\n      batch_size: 3\n  big: {seed: 7}\n"
    )
    loaded = load_recipe(path, overrides=["training.batch_size=4"], variants=["small,big"])
    training = loaded.recipe.training
    assert (training.iterations, training.epochs, training.questions, training.batch_size) == (3, 2, 30, 4)
    assert (loaded.name, loaded.variants, loaded.available) == ("r", ("small", "big"), ("small", "big"))
    assert loaded.path == path
    assert {key: loaded.origins[f"training.{key}"] for key in ("iterations", "epochs", "questions", "batch_size")} == {
        "iterations": "default",
        "epochs": "r.yaml:4",
        "questions": "r.yaml:10 (variant small)",
        "batch_size": "command line",
    }
    assert loaded.origins.keys() == {key.path for key in reference(Recipe)}
    assert load_recipe(path).recipe.seed == 0  # a variant nobody chose has no effect


def test_overrides_are_read_like_the_file(write: Write) -> None:
    path = write(BASE)
    recipe = load_recipe(
        path,
        overrides=[
            "training.learning_rate=2e-4",
            "protocol.roles=[Ann, 'Bo']",
            "prompts.system=You are {name}: be brief. # really",
            "task.name=jsonl",
            "task.answer_pattern=#### (.+)",
            "task.fields={context: null, answers: gold.aliases}",
            "prompts.formats=[]",
            "sampling.pool_temperature=",
        ],
    ).recipe
    assert recipe.training.learning_rate == 2e-4
    assert recipe.protocol.roles == ("Ann", "Bo")
    assert recipe.prompts.system == "You are {name}: be brief. # really"
    assert recipe.task.answer_pattern == "#### (.+)"
    assert (recipe.task.fields.context, recipe.task.fields.answers) == (None, "gold.aliases")
    assert recipe.prompts.formats == ()
    assert recipe.sampling.pool_temperature is None


def test_a_section_without_lines_is_its_defaults(write: Write) -> None:
    assert load_recipe(write(BASE + "training:\n  # epochs: 3\nvariants:\n")).recipe == MINIMAL


# ---- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {epochs: 3}", "trainig: no such key; did you mean training?"),
        ("training: {epoch: 3}", "training.epoch: no such key; did you mean training.epochs?"),
        ("epochs: 3", "epochs: no such key; did you mean training.epochs?"),
        ("learning_rate: 1", "learning_rate: no such key; did you mean training.learning_rate?"),
        ("zzz: 3", "zzz: no such key"),
        ("threads: 3", "threads: no such key; threads belongs in optima_lite.toml"),
        ("training: {micro_batch: 3}", "training.micro_batch: no such key; micro_batch belongs in optima_lite.toml"),
        ("training: 3", "training: holds keys such as training.iterations, and no value of its own"),
        ("seed: {a: 1}", 'seed: must be a whole number, not {"a": 1}'),
        ("seed: no", 'seed: must be a whole number, not "no"'),
        ("seed: null", "seed: must be a whole number, not null"),
        ("seed: true", "seed: must be a whole number, not true"),
        ("seed: 1.0", "seed: must be a whole number, not 1.0"),
        ("seed: -1", "seed: must be at least 0, not -1"),
        ("seed: 4294967296", "seed: must be below 4294967296, not 4294967296"),
        ("protocol: {max_turns: 1}", "protocol.max_turns: must be at least 2, not 1"),
        ("protocol: {roles: [A, A]}", "protocol.roles: must be different names"),
        ("protocol: {roles: [A]}", "protocol.roles: must hold 2 names, not 1"),
        ("protocol: {roles: [A, B, C]}", "protocol.roles: must hold 2 names, not 3"),
        ("protocol: {roles: Ann}", 'protocol.roles: must be a list, not "Ann"'),
        ("protocol: {roles: [A, 3]}", "protocol.roles: item 2 must be text, not 3"),
        ("protocol: {name: debat}", 'protocol.name: must be exchange or debate, not "debat"; did you mean debate?'),
        ("protocol: {name: debate, roles: [A, B, C, D]}", "protocol.roles: must hold 2 or 3 names, not 4"),
        ("prompts: {formats: [jsn]}", 'not "jsn"; did you mean json?'),
        ("prompts: {formats: json}", 'prompts.formats: must be a list, not "json"'),
        ("prompts: {system: 5}", "prompts.system: must be text or a table, not 5"),
        ("sampling: {temperature: 0}", "sampling.temperature: must be at least 0.001, not 0"),
        ("sampling: {temperature: .inf}", "sampling.temperature: must be a finite number, not Infinity"),
        ("sampling: {temperature: .nan}", "sampling.temperature: must be a finite number, not NaN"),
        ("sampling: {top_p: 1.5}", "sampling.top_p: must be at most 1, not 1.5"),
        ("sampling: {top_p: yes}", 'sampling.top_p: must be a number, not "yes"'),
        ("sampling: {pool_temperature: -1}", "sampling.pool_temperature: must be at least 0.001, not -1"),
        ("reward: {token_weight: -0.6}", "reward.token_weight: must be at least 0, not -0.6"),
        ("reward: {readability_weight: -1}", "reward.readability_weight: must be at least 0, not -1"),
        ("reward: {readability: caped}", 'must be inverse, capped or relative, not "caped"; did you mean capped?'),
        ("selection: {min_reward: 1e999}", "selection.min_reward: must be a finite number, not Infinity"),
        ("selection: {keep_fraction: 0}", "selection.keep_fraction: must be above 0, not 0"),
        ("model: {name: ''}", "model.name: must not be empty"),
        ("model: {lora_rank: 8}", "model.name: is required"),
        ("task: {name: world, path: rows.jsonl}", "task.path: is not read by task.name world"),
        ("task: {name: cbt, context: first_sentence}", "task.context: is read by task.name hotpotqa and 2wiki"),
        ("task: {name: jsonl, answer_pattern: '('}", "task.answer_pattern: is not a regular expression: missing )"),
        (
            "task: {name: jsonl, held_out_share: 0.95}",
            "task.validation_share: and held_out_share together must stay below 1",
        ),
        (
            "task: {name: jsonl, fields: {qestion: q}}",
            "task.fields.qestion: no such key; did you mean task.fields.question?",
        ),
        ("variants: 3", "variants: must be a block of named overrides"),
        ("variants: {a: 3}", "variants.a: must be a block of overrides, laid out like the recipe"),
        ("variants: {a b: {}}", "variants.a b: a variant's name is made of letters, digits, _ and -"),
        ("variants: {a: {variants: {}}}", "variants.a.variants: a variant holds no variants"),
        ("variants: {a: {seed: x}}", 'r.yaml:3 (variant a): seed: must be a whole number, not "x"'),
        ("variants: {a: {sed: 1}}", "r.yaml:3 (variant a): sed: no such key; did you mean seed?"),
    ],
)
def test_what_each_mistake_says(write: Write, text: str, message: str) -> None:
    sections = {line.partition(":")[0]: line for line in (*BASE.splitlines(), text)}
    said = refusal(write("\n".join(sections.values()) + "\n"))
    assert message in said
    assert "\n" not in said  # one mistake, one line
    assert said.startswith("r.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "command line: seed: not of the form key.sub=value"),
        ("=3", "command line: =3: not of the form key.sub=value"),
        ("a..b=3", "command line: a..b=3: not of the form key.sub=value"),
        ("seed=no", 'command line: seed: must be a whole number, not "no"'),
        ("trainig.epochs=3", "command line: trainig.epochs: no such key; did you mean training.epochs?"),
        ("training={epoch: 3}", "command line: training.epoch: no such key; did you mean training.epochs?"),
        ("training=", "command line: training: holds keys such as training.iterations, and no value of its own"),
        ("seed.x=1", 'command line: seed: must be a whole number, not {"x": 1}'),
        ("micro_batch=2", "command line: micro_batch: no such key; micro_batch belongs in optima_lite.toml"),
        ("variants.a.seed=2", "command line: variants.a.seed: no such key; choose variants with --variant"),
        ("task.path=x.jsonl", "command line: task.path: is not read by task.name world"),
        (
            "reward.schemas.Alice={}",
            "command line: reward.schemas.Alice: the schemas are set all at once: reward.schemas='{Alice: {...}}'",
        ),
        ("protocol.roles=[A", "command line: protocol.roles: not valid YAML: expected ',' or ']'"),
    ],
)
def test_what_an_override_s_mistake_says(write: Write, override: str, message: str) -> None:
    assert refusal(write(BASE), override).startswith(message)


def test_an_override_given_twice(write: Write) -> None:
    assert refusal(write(BASE), "seed=1", "seed=2") == "command line: seed: given twice"


def test_variants_that_clash_or_are_not_there(write: Write) -> None:
    path = write(BASE + "variants:\n  long: {seed: 1}\n  short: {seed: 2}\n")
    assert (
        refusal(path, variants=("long,short",)) == "r.yaml:5 (variant short): seed: also set by r.yaml:4 (variant long)"
    )
    assert refusal(path, variants=("shrt",)) == "command line: --variant shrt: no such variant; did you mean short?"
    assert refusal(path, variants=("zz",)) == "command line: --variant zz: no such variant; there is long, short"
    assert refusal(write(BASE), variants=("a",)) == "command line: --variant a: no such variant; there is none"


def test_all_mistakes_come_together(write: Write) -> None:
    path = write(
        "task: {name: wrld}\ntraining:\n  epoch: 3\n  learning_rate: fast\n  questions: 5\n  questions: 6\n"
        "variants:\n  a:\n    training: {epochs: 0}\n"
    )
    assert refusal(path, "seed=x", "nonsense", variants=("b",)) == (
        "9 mistakes in the settings\n"
        "  r.yaml:6: training.questions: stated twice; first on line 5\n"
        "  command line: nonsense: not of the form key.sub=value\n"
        "  r.yaml:3: training.epoch: no such key; did you mean training.epochs?\n"
        "  command line: --variant b: no such variant; there is a\n"
        "  r.yaml:9 (variant a): training.epochs: must be at least 1, not 0\n"
        '  command line: seed: must be a whole number, not "x"\n'
        "  r.yaml: model.name: is required\n"
        "  r.yaml:1: task.name: must be world, jsonl, plugin, hotpotqa, 2wikimultihopqa, triviaqa, cbt, gsm8k, math, "
        'arc_challenge, mmlu, humaneval or mbpp, not "wrld"; did you mean world?\n'
        '  r.yaml:4: training.learning_rate: must be a number, not "fast"'
    )


def test_a_broken_file_and_a_broken_override_come_together(write: Write) -> None:
    assert refusal(write("seed: [\n"), "nonsense").startswith("2 mistakes in the settings\n  r.yaml:2: ")


@given(st.dictionaries(st.text(max_size=9), st.none() | st.floats() | st.lists(st.text(max_size=3)), max_size=3))
def test_any_recipe_is_read_or_refused(values: dict[str, object]) -> None:
    try:
        Recipe.from_dict(values, where="somewhere")
    except ConfigError as error:
        assert "model.name: is required" in str(error)
    else:
        pytest.fail("a recipe without a model was read")


# ---- the schema


def test_formats_are_those_of_the_pool() -> None:
    assert set(ALL_FORMATS) == set(prompts.FORMATS)


def test_every_key_is_described_and_every_default_is_valid(write: Write) -> None:
    keys = list(reference(Recipe))
    assert all(key.description and not key.description.endswith(".") for key in keys)
    assert [key.path for key in keys if key.default is None] == ["model.name", "task.name"]
    overrides = [f"{key.path}={key.default}" for key in keys if key.default is not None]
    assert load_recipe(write(BASE), overrides=overrides).recipe == MINIMAL


def test_recipe_and_machine_share_no_key() -> None:
    names = [{key.path.rpartition(".")[2] for key in reference(schema)} for schema in (Recipe, Machine)]
    assert not names[0] & names[1]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MINIMAL.training.epochs = 4  # type: ignore[misc]


def test_a_recipe_survives_a_manifest(write: Write) -> None:
    recipe = load_recipe(write(BASE), overrides=["protocol.roles=[A, B]", "prompts.formats=[json]", "seed=3"]).recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), where="manifest.json") == recipe
    with pytest.raises(ConfigError, match=re.escape("manifest.json: training.epoch: no such key")):
        Recipe.from_dict(
            {"model": {"name": "tiny"}, "task": {"name": "world"}, "training": {"epoch": 1}}, where="manifest.json"
        )


def test_what_takes_changes_back() -> None:
    old = {"seed": 1, "model": {"name": "a b", "max_length": None}, "formats": ["x"]}
    assert undoing(old, old) == []
    assert undoing(old, {"seed": 2, "model": {"name": "c", "max_length": 8}, "formats": []}) == [
        "seed=1",
        'model.name="a b"',
        "model.max_length=null",
        'formats=["x"]',
    ]
    assert undoing(old, {"seed": 1}) is None


def test_differences() -> None:
    old, new = MINIMAL.to_dict(), MINIMAL.to_dict()
    assert differences(old, new) == []
    new["training"]["epochs"] = 4
    new["protocol"]["roles"] = ["A", "B"]
    new["prompts"]["system"] = "Hi"
    del new["seed"]
    new["extra"] = {}
    old["model"]["name"], new["model"]["name"] = "x" * 100 + "a", "x" * 100 + "b"  # seen though cut in the message
    assert differences(old, new).pop(1) == f'model.name: "{"x" * 56}... -> "{"x" * 56}...'
    del old["model"], new["model"]
    assert differences(old, new) == [
        "seed: 0 -> absent",
        'protocol.roles: ["Alice", "Bob"] -> ["A", "B"]',
        'prompts.system: null -> "Hi"',
        "training.epochs: 3 -> 4",
        "extra: absent -> {}",
    ]


# ---- the machine


@pytest.fixture
def no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty config folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def machine_refusal(text: str) -> str:
    Path("m.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_machine(Path("m.toml"))
    return str(caught.value)


def test_machine_file_is_looked_for_in_order(no_machine: Path) -> None:
    assert load_machine() == Machine()
    users = no_machine / "config" / "optima_lite" / "optima_lite.toml"
    users.parent.mkdir(parents=True)
    users.write_text("threads = 3\n")
    assert load_machine().threads == 3
    Path("optima_lite.toml").write_text('threads = 2\n[models]\nllama = "~/llama"\n')
    assert load_machine().threads == 2
    assert load_machine().models == {"llama": str(Path("~/llama").expanduser())}
    Path("other.toml").write_text("threads = 1\n")
    assert load_machine(Path("other.toml")).threads == 1
    with pytest.raises(ConfigError, match=r"missing\.toml: no such file"):
        load_machine(Path("missing.toml"))


@pytest.mark.parametrize("home", ["", None])
def test_without_a_config_folder_the_home_folder_s_is_used(
    no_machine: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.setenv("HOME", str(no_machine))
    monkeypatch.delenv("XDG_CONFIG_HOME") if home is None else monkeypatch.setenv("XDG_CONFIG_HOME", home)
    users = no_machine / ".config" / "optima_lite" / "optima_lite.toml"
    users.parent.mkdir(parents=True)
    users.write_text("micro_batch = 4\n")
    assert load_machine().micro_batch == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thread = 3", "m.toml:1: thread: no such key; did you mean threads?"),
        ("\nthreads = 0", "m.toml:2: threads: must be at least 1 or auto, not 0"),
        ('threads = "all"', 'm.toml:1: threads: must be a whole number or auto, not "all"'),
        ('offline = "yes"', 'm.toml:1: offline: must be true or false, not "yes"'),
        ("[models]\na = 3", "m.toml:1: models: a must be text, not 3"),
        ("models = 3", "m.toml:1: models: must be a table, not 3"),
        (
            'backend = "unsloth"',
            "m.toml:1: backend: cannot be unsloth, which does not extend the attention states it is given; use auto",
        ),
        ("[speakers.a]\nurl = 'http://h'", "m.toml:1: speakers: a.model is required"),
        (
            "[speakers.a]\nurl = 'http://me:word@h'\nmodel = 'm'",
            "m.toml:1: speakers: a.url must be an address such as http://localhost:8000/v1, without password and query",
        ),
        ("[speakers.a]\nmodle = 'm'", "m.toml:1: speakers: a.modle: no such key; did you mean model?"),
        (
            "speakers.a = 3",
            'm.toml:1: speakers: holds tables, such as [speakers.a] with url = "..." and model = "..."',
        ),
        ("[speakers.'a b']\nmodel = 'm'", "m.toml:1: speakers: 'a b': a name is made of letters, digits, _ and -"),
        (
            "[speakers.a]\nurl = 'http://h'\nmodel = 'm'\nmax_cost = 1.0",
            "m.toml:1: speakers: a.max_cost needs a price: prompt_price, completion_price",
        ),
        ("[training]\nepochs = 3", "m.toml:1: training: no such key; it belongs in the recipe"),
        ("epochs = 3", "m.toml:1: epochs: no such key; training.epochs belongs in the recipe"),
        (
            '[serve]\nkey = "x"',
            "m.toml:1: serve.key: no such key; it stands in the environment as OPTIMA_LITE_API_KEY, never in a file",
        ),
        (
            '[serve]\norigin = ["http://a.example/"]',
            "m.toml:1: serve.origin: must be origins such as http://localhost:3000, without a path, "
            "not http://a.example/",
        ),
        (
            '[serve]\nserved_model_name = "a/b"',
            "m.toml:1: serve.served_model_name: must be up to 100 letters, digits and .-_, not a/b",
        ),
        ("threads = 1\nthreads = 2", "m.toml: not valid TOML: Cannot overwrite a value"),
        ("threads =", "m.toml: not valid TOML: Invalid value"),
    ],
)
def test_what_a_machine_file_s_mistake_says(no_machine: Path, text: str, message: str) -> None:
    assert machine_refusal(text).partition(" (at ")[0] == message


def test_the_example_is_the_file_of_the_repository_and_states_the_defaults(no_machine: Path) -> None:
    assert (ROOT / "optima_lite.toml").read_text(encoding="utf-8") == EXAMPLE_TOML
    Path("m.toml").write_text(EXAMPLE_TOML)
    assert load_machine(Path("m.toml")) == Machine()
    uncommented = re.sub(r"^# (?=[a-z_]+\d? = |\[)", "", EXAMPLE_TOML, flags=re.MULTILINE)
    Path("m.toml").write_text(uncommented)
    found = load_machine(Path("m.toml"))
    server = found.server.model_copy(update={"key_env": None})
    assert found.model_copy(update={"models": {}, "speakers": {}, "server": server}) == Machine()
    tables = ("models", "cluster", "server", "serve", "speakers")
    assert all(f"\n{name} = " in uncommented for name in Machine.model_fields if name not in tables)


# ---- Settings that nothing reads


JSONL = "model: {name: tiny}\ntask: {name: jsonl, path: rows.jsonl, answer_pattern: x, held_out_share: 0.3}\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.answer_pattern=x"], "task.answer_pattern: is read by task.name jsonl only; world knows its own layout"),
        (["task.name=gsm8k", "task.fields.question=q"], "task.fields.question: is read by task.name jsonl only; gsm8k"),
        (["task.name=gsm8k", "task.held_out_share=0.5"], "task.held_out_share: splits a file of rows; there is none"),
        (["task.validation_share=0.5"], "task.validation_share: splits rows; task.name world makes its own questions"),
        (["prompts.formats=[json, xml, json]"], "prompts.formats: holds json twice"),
        (["prompts.system=You are {nmae}."], "prompts.system: knows {name} and {partner}, not {nmae}; write { nmae }"),
        (["prompts.solo_system=I am {Name}."], "prompts.solo_system: knows {name} and {partner}, not {Name}"),
        (["selection.min_credit=0.1"], "selection.min_credit: tells no messages apart: reward.credit trajectory gives"),
        (["schedule=idpo", "training.iterations=1"], "schedule: idpo prefers from the second iteration on; training"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(write: Write, overrides: list[str], message: str) -> None:
    assert refusal(write(BASE), *overrides).startswith(f"command line: {message}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["task.answer_pattern=null", "task.fields.question=question"],
        ["task.name=gsm8k", "task.path=rows.jsonl", "task.held_out_share=0.5"],
        [r"prompts.system='You are {name}. Write \boxed{answer}, x_{i} or { word }.'"],
        ["schedule=idpo", "training.iterations=2"],
        ["selection.min_credit=0.1", "reward.credit=difference"],
        ["selection.min_credit=0.1", "reward.parse_weight=2"],
        ["preset=official"],
    ],
)
def test_defaults_and_what_is_read_may_be_stated(write: Write, overrides: list[str]) -> None:
    load_recipe(write(BASE), overrides=overrides)


def test_a_stored_run_with_an_idle_setting_still_opens(write: Write) -> None:
    stored = MINIMAL.to_dict() | {"schedule": "idpo"}
    stored["training"]["iterations"] = 1
    assert Recipe.from_dict(stored, where="manifest").schedule == "idpo"


# ---- Sizes


@pytest.mark.parametrize(
    "override",
    [
        "model.name=" + "x" * 10_000,
        'task.path="a\\0b"',
        "training.questions=" + "9" * 4000,
        "training.questions=10000000",
        "model.lora_rank=1000000",
        "sampling.temperature=1e-300",
        "task.answer_pattern=" + "(a?)" * 300,
        "prompts.formats=[" + ", ".join(f"x{i}" for i in range(10_000)) + "]",
        "x" * 90_000 + "=1",
        "seed=" + "1" * 100_000,
        ".".join("x" * 5000) + "=1",
    ],
    ids=lambda text: text[:30],
)
def test_what_is_too_long_or_too_large_is_refused_in_few_lines(write: Write, override: str) -> None:
    assert len(refusal(write(BASE), override)) < 15_000


def test_thousands_of_wrong_keys_are_told_in_few_lines(write: Write) -> None:
    said = refusal(write(BASE + "".join(f"key_{i}: 1\n" for i in range(7_000))))
    assert said.startswith("7000 mistakes in the settings\n  r.yaml:3: key_0: no such key\n")
    assert said.endswith("... and 6,980 more") and said.count("\n") == 21


def test_only_a_regular_file_of_sane_size_is_read(write: Write, tmp_path: Path) -> None:
    large = write(BASE + "# " + "x" * 100_000)
    assert refusal(large) == "r.yaml: larger than 100 kB, so it holds no settings"
    os.mkfifo("pipe")
    for device in ("pipe", "/dev/zero"):
        with pytest.raises(ConfigError, match="not a file"):
            load_machine(Path(device))
        assert "no such recipe" in refusal(Path(device))
    for name in ("x" * 10_000, "null\0character"):
        with pytest.raises(ConfigError):
            load_machine(Path(name))
        assert "no such recipe" in refusal(Path(name))


def test_a_machine_file_with_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("micro_batch = " + "9" * 5000)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_machine(path)
