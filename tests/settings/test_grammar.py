"""Teams in YAML: what they mean, and for every mistake its line, its key and what to write instead."""
# ruff: noqa: E501  (tables of whole sentences)

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from optima_lite.errors import ConfigError
from optima_lite.settings.config import load_recipe
from optima_lite.settings.recipe import Recipe
from optima_lite.settings.teams import named, shipped, shipped_teams
from optima_lite.settings.workflow import Condition, Parse, Streaming, Way, Workflow
from optima_lite.team.talks import team_of

ROOT = Path(__file__).resolve().parents[2]
TEAM = """\
roles:
  Writer:
    system: You are {name}, and write.
  Critic:
    system: You are {name}, and judge.
steps:
  write:
    speaker: Writer
    reads: "{question}"
    parse: list
    then: judge
  judge:
    speaker: Critic
    reads: "{write.item} of {write}"
    parse: verdict
    writes: verdict
    then:
      accepted: end
      more write and rounds < 3: judge
      otherwise: rewrite
  rewrite:
    speaker: Writer
    reads: "{facts} {verdict} {write.all}"
    parse: list
    writes: write
    then: judge
answer: [write, rewrite]
max_steps: 9
"""


def mistakes(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with a team, a line a mistake, without the file's name."""
    path = tmp_path / "team.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        named(str(path))
    first, *rest = error.value.what.split("\n  ")
    return [line.replace(f"{path}:", "").replace(f"{path}", "") for line in rest or [first]]


def test_a_team_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(TEAM)
    team = named(str(tmp_path / "team.yaml"))
    assert (team.names, team.start, team.answer, team.max_steps) == (
        ("Writer", "Critic"),
        ("write",),
        ("write", "rewrite"),
        9,
    )
    write, judge, rewrite = team.steps
    assert write.ways == (Way(("judge",)),) and write.writes == rewrite.writes == "write"
    assert judge.ways == (
        Way((), (Condition("accepted"),)),
        Way(("judge",), (Condition("more", "write"), Condition("rounds", "judge", 3))),
        Way(("rewrite",)),
    )
    assert judge.inputs == [("write", "item"), ("write", "")] and rewrite.inputs == [("verdict", ""), ("write", "all")]


@pytest.mark.parametrize(
    ("stated", "adapters"),
    [
        ("", ("shared", "shared")),
        ("adapters: shared\n", ("shared", "shared")),
        ("adapters: separate\n", ("Writer", "Critic")),
        ("adapters: {Writer: words, Critic: words}\n", ("words", "words")),
    ],
)
def test_every_role_has_the_adapter_that_is_stated(tmp_path: Path, stated: str, adapters: tuple[str, str]) -> None:
    (tmp_path / "team.yaml").write_text(stated + TEAM)
    team = named(str(tmp_path / "team.yaml"))
    assert tuple(role.adapter for role in team.roles) == adapters
    assert team.adapters == tuple(dict.fromkeys(adapters))


def test_the_command_line_gives_any_team_its_adapters(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {name: tiny}\ntask: {name: world}\n")

    def adapters(*overrides: str) -> tuple[str, ...]:
        return team_of(load_recipe(tmp_path / "recipe.yaml", overrides=overrides).recipe).adapters

    assert adapters("team=exchange") == ("shared",)
    assert adapters("team=exchange", "team.adapters=separate") == ("Alice", "Bob")
    assert adapters("team.adapters={Alice: a, Bob: b}", "team=exchange") == ("a", "b")
    with pytest.raises(ConfigError, match=r"team\.adapters: there is no team that could have them; add team=exchange"):
        adapters("team.adapters=separate")
    with pytest.raises(ConfigError, match=r"command line: team\.adapters\.Bobby: there is no role Bobby"):
        adapters("team=exchange", "team.adapters={Alice: a, Bobby: b}")


def test_how_messages_are_handed_on(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {name: tiny}\ntask: {name: world}\n")

    def team(*overrides: str) -> Workflow:
        return team_of(load_recipe(tmp_path / "recipe.yaml", overrides=overrides).recipe)

    assert (team("team=chain").transfer, team("team=chain").stream) == ("serial", None), "nobody is told of steps"
    assert team("team=chain", "team.transfer=stream").stream == Streaming()
    marked = team("team=chain", "team.stream.steps=4")
    assert (marked.transfer, marked.stream) == ("serial", Streaming(steps=4)), "told of steps, and handed on whole"
    changed = team("team=tree", "team.transfer=stream", "team.stream={steps: auto, merge: per_step}", "schedule=isft")
    assert changed.streams and changed.stream == Streaming(merge="per_step")
    with pytest.raises(ConfigError, match=r"schedule: idpo prefers whole messages"):
        team("team=chain", "team.transfer=stream", "schedule=idpo")
    with pytest.raises(ConfigError, match=r"team\.transfer: stream needs steps that form no loop.*first -> second"):
        team("team=exchange", "team.transfer=stream")
    with pytest.raises(ConfigError, match=r"team\.stream\.stepps: no such key; did you mean steps\?"):
        team("team=chain", "team.stream.stepps=4")


WRONG = [  # what is written in place of what, and what is said of it
    ("speaker: Critic", "speaker: Critik", "13: steps.judge.speaker: there is no role Critik; did you mean Critic?"),
    ("    then: judge\n  judge", "    then: juge\n  judge", "11: steps.write.then: there is no step juge; did you mean judge?"),
    ("accepted: end", "acepted: end", "18: steps.judge.then.acepted: `acepted` is no condition; did you mean accepted?"),
    ("parse: verdict", "parse: verdikt", "15: steps.judge.parse: must be text, answer, list, verdict, code or json, not "
     '"verdikt"; did you mean verdict?'),
    ("    parse: verdict\n", "", "17: steps.judge.then.accepted: `accepted` needs parse: verdict"),
    ("writes: verdict", "wrote: verdict", "16: steps.judge.wrote: no such key; did you mean writes?"),
    ("{verdict}", "{verdikt}", "23: steps.rewrite.reads: {verdikt}: no step writes it; did you mean verdict?"),
    ("{facts} {verdict}", "{facts.all} {verdict}", "23: steps.rewrite.reads: {facts.all}: only what steps write has .all"),
    ('reads: "{write.item} of {write}"', 'reads: "{verdict.item}"', "14: steps.judge.reads: {verdict.item}: verdict is no "
     "list; give the step that writes it parse: list"),
    ("more write", "more verdict", "19: steps.judge.then.more verdict and rounds < 3: there is no list verdict; there is write"),
    ("rounds < 3", "rounds of jude < 3", "19: steps.judge.then.more write and rounds of jude < 3: there is no step jude; did you mean judge?"),
    ("      otherwise: rewrite\n", "", "17: steps.judge.then: must end with `otherwise`, for when no condition holds"),
    ("answer: [write, rewrite]", "answer: wrote", "27: answer: there is no step of a role wrote; did you mean write?"),
    ("answer: [write, rewrite]\n", "", " answer: is required"),
    ("max_steps: 9\n", "", "17: steps.judge.then: a loop without a bound (judge -> judge); state max_steps"),
    ("max_steps: 9", "max_steps: 1", "28: max_steps: must be at least 2, the shortest way to the end, not 1"),
    ("max_steps: 9", "max_steps: 0", "28: max_steps: must be at least 1, not 0"),
    ("      accepted: end\n", "", "17: steps.judge.then: no way leads from here to the end"),
    ("otherwise: rewrite", "otherwise: judge", "21: steps.rewrite: no way leads here"),
    ("answer: [write, rewrite]", "answer: rewrite", "27: answer: the end is reached without an answer that counts on the "
     "way write -> judge -> end"),
    ("roles:\n", "adapters: {Writer: a, Citric: b}\nroles:\n", "1: adapters.Citric: there is no role Citric; did you mean Critic?"),
    ("roles:\n", "adapters: {Writer: a}\nroles:\n", "1: adapters: must name the adapter of every role, and leaves out Critic"),
    ("roles:\n", "adapters:\n  Writer: a\n  Critic: a/b\nroles:\n", "3: adapters.Critic: an adapter's name is made of letters, digits, _ and -, not 'a/b'"),
    ("roles:\n", "adapters: {Writer: own, Critic: Own}\nroles:\n", "1: adapters.Writer: own and Own differ in case only"),
    ("roles:\n", "adapters: seperate\nroles:\n", "1: adapters: must be shared, separate, or the name of an adapter for each role"),
    ("    system: You are {name}, and judge.\n", "    system: ''\n", "5: roles.Critic.system: must not be empty"),
    ("  Critic:\n", "  Idle: {system: x}\n  Critic:\n", "4: roles.Idle: takes no step"),
    ("  Writer:\n    system: You are {name}, and write.\n", "  Writer: {system: x, facts: none}\n", "22: steps.rewrite.reads: "
     "{facts}: Writer knows no facts"),
    ("    speaker: Critic\n", "    speaker: Critic\n    tool: retrieve\n", "12: steps.judge: needs a speaker or a tool, and "
     "not both"),
    ("    speaker: Critic\n", "    tool: run_tests\n", "15: steps.judge.parse: is for what a role says; a tool's output "
     "is text"),
    ("  judge:\n    speaker", "  end:\n    speaker", "12: steps.end: a step's name is made of letters, digits and _, and is "
     "not `end`"),
    ("parse: verdict", "parse: verdict\n    at_most: 3", "16: steps.judge.at_most: is read with parse: list, or by tool: "
     "retrieve, only"),
    ("parse: verdict", "parse: verdict\n    index: task", "16: steps.judge.index: is read by tool: retrieve only"),
    ("answer: [write, rewrite]", "answer: [write, write]", "27: answer: names a step twice"),
    ("roles:\n", "rolls: {}\nroles:\n", "1: rolls: no such key; did you mean roles?"),
    ("roles:\n", "transfer: stream\nroles:\n", "1: transfer: stream needs steps that form no loop, because all of them "
     "speak at once (judge -> judge); transfer: serial, or a team without a way back"),
    ("roles:\n", "transfer: steam\nroles:\n", "1: transfer: must be serial or stream, not \"steam\"; did you mean stream?"),
    ("roles:\n", "stream:\n  merge: one\nroles:\n", "2: stream.merge: must be drain or per_step, not \"one\""),
    ("roles:\n", "stream:\n  steps: 40\nroles:\n", "2: stream.steps: is more than stream.at_most, 16"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "said"), WRONG, ids=[said for _, _, said in WRONG])
def test_a_mistake_is_told_with_its_line(tmp_path: Path, good: str, bad: str, said: str) -> None:
    assert good in TEAM
    assert said in mistakes(tmp_path, TEAM.replace(good, bad, 1))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = (
        TEAM.replace("speaker: Critic", "speaker: Critik")
        .replace("accepted:", "acepted:")
        .replace("{write}", "{wrote}")
    )
    assert len(mistakes(tmp_path, text)) == 3


SIDE = """\
roles:
  A: {system: a}
  B: {system: b}
steps:
  one: {speaker: A, reads: "{question}", then: [left, right]}
  left: {speaker: A, reads: "{one}", then: last}
  right: {speaker: B, reads: "{one}", then: last}
  last: {speaker: B, reads: "{left} {right}", then: end}
answer: last
"""


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ('reads: "{one}", then: last}\n  r', "then: last}\n  r", "6: steps.left: reads the conversation, and so cannot be "
         "taken side by side (left and right)"),
        ('right: {speaker: B, reads: "{one}", then: last}', 'right: {speaker: B, reads: "{one}", then: end}',
         "7: steps.right.then: left and right are taken side by side, so all must lead to the same steps, always"),
        ('right: {speaker: B, reads: "{one}", then: last}\n  last: {speaker: B, reads: "{left} {right}"',
         'right: {speaker: B, reads: "{one}", writes: left, then: last}\n  last: {speaker: B, reads: "{left}"',
         "7: steps.right.writes: left and right are taken side by side and write the same name"),
        ('right: {speaker: B, reads: "{one}"', 'right: {speaker: B, reads: "{one} {left}"',
         "7: steps.right.reads: {left} is not there yet on the way one -> left + right"),
        ("[left, right]", "left", "7: steps.right: no way leads here"),
        ("{left} {right}", "{left}", "7: steps.right: nobody reads what it writes, {right}"),
        ("[left, right]", "[left, left]", "5: steps.one.then: names a step twice"),
        ("[left, right]", "[]", "5: steps.one.then: must be the name of a step, or a list of them by condition"),
    ],
)  # fmt: skip
def test_steps_side_by_side(tmp_path: Path, good: str, bad: str, said: str) -> None:
    assert good in SIDE
    assert said in mistakes(tmp_path, SIDE.replace(good, bad, 1))


@pytest.mark.parametrize("name", shipped_teams())
def test_a_shipped_team_is_read_and_says_what_it_is(name: str) -> None:
    team = shipped(name)
    assert team.name == name
    first = shipped_teams()[name].read_text().splitlines()[0]
    assert first.startswith("# ") and first.endswith("."), "what `teams list` shows"


def test_the_shipped_teams_are_the_folder_s_and_travel_with_the_package() -> None:
    assert shipped_teams().keys() == {path.stem for path in (ROOT / "teams").glob("*.yaml")}
    assert '"optima_lite.teams" = "teams"' in (ROOT / "pyproject.toml").read_text()


def test_the_team_of_the_document_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "teams.md").read_text(), re.DOTALL)
    (tmp_path / "team.yaml").write_text(text)
    team = named(str(tmp_path / "team.yaml"))
    assert (len(team.roles), team.max_steps) == (4, 8)


def test_the_document_names_every_key_and_every_condition() -> None:
    text = (ROOT / "docs" / "teams.md").read_text()
    for key in (
        "speaker",
        "tool",
        "reads",
        "parse",
        "at_most",
        "schema",
        "writes",
        "then",
        "system",
        "facts",
        "formats",
    ):
        assert f"| `{key}` |" in text
    for name in get_args(Parse):
        assert f"`{name}`" in text


def test_a_schema_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optima_lite.settings.schemas.LIBRARY", "no_such_library")
    text = SIDE.replace("then: [left, right]", "parse: json, schema: {type: object}, then: [left, right]")
    assert (
        "steps.one.schema: needs the library jsonschema: pip install '.[schema]' in the clone"
        in mistakes(tmp_path, text)[0]
    )


# --- In a recipe ----------------------------------------------------------------------------------

RECIPE = "model: {name: tiny}\ntask: {name: world}\n"


def recipe_with(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + text)
    return load_recipe(path, overrides=overrides).recipe


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        recipe_with(tmp_path, text, *overrides)
    return error.value.what.replace(f"{tmp_path}/", "")


def test_a_recipe_names_a_team_a_file_or_holds_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEAM)
    inside = "team:\n" + "".join(f"  {line}\n" for line in TEAM.splitlines())
    for text, name in (
        ("team: tree\n", "tree"),
        (f"team: {tmp_path}/mine.yaml\n", "mine"),
        (inside, "team"),
    ):
        recipe = recipe_with(tmp_path, text)
        assert team_of(recipe).name == name
        assert Recipe.from_dict(recipe.to_dict(), where="manifest") == recipe, "the whole team is in the manifest"
    assert team_of(recipe_with(tmp_path, "protocol: {max_turns: 4}\n", "team=chain")).name == "chain"
    assert team_of(recipe_with(tmp_path, "")).name == "exchange"


def test_mistakes_of_a_team_in_a_recipe_have_the_recipe_s_lines(tmp_path: Path) -> None:
    inside = "team:\n" + "".join(f"  {line}\n" for line in TEAM.replace("Critic\n", "Critik\n").splitlines())
    said = refused(tmp_path, inside)
    assert said == "r.yaml:16: team.steps.judge.speaker: there is no role Critik; did you mean Critic?"
    variant = "variants:\n  v:\n    team: tre\n"
    assert refused(tmp_path, variant).startswith("r.yaml:5: variants.v.team: there is no team tre; did you mean tree?")
    assert refused(tmp_path, "", "team=tre").startswith("command line: team: there is no team tre; did you mean tree?")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("team: tree\nprotocol: {max_turns: 4}\n", "r.yaml:4: protocol.max_turns: is not read beside a team, which says "
         "who speaks and when"),
        ("team:\n  roles: {A: {system: a, facts: share}}\n  steps: {a: {speaker: A, then: end}}\n  answer: a\n",
         "r.yaml:3: team: has 1 of its roles with `facts: share`; the facts of a task come in two shares"),
    ],
)  # fmt: skip
def test_a_team_and_the_rest_of_a_recipe(tmp_path: Path, text: str, said: str) -> None:
    assert refused(tmp_path, text) == said


SPOKEN = "team:\n  roles: {A: {system: a}, B: {system: b}}\n  steps:\n    a: {speaker: A, then: b}\n"
SPOKEN += "    b: {speaker: B, then: end}\n  answer: b\n  spoken_by: "


def test_roles_that_a_speaker_of_the_machine_file_speaks(tmp_path: Path) -> None:
    team = team_of(recipe_with(tmp_path, SPOKEN + "{B: gpt}\n", "team.adapters=separate"))
    assert [(role.spoken_by, role.adapter) for role in team.roles] == [("", "A"), ("gpt", "shared")]
    assert (team.elsewhere, team.adapters) == (("gpt",), ("A",))
    assert team_of(recipe_with(tmp_path, "team: proposer_critic\n", "team.spoken_by.Critic=gpt")).elsewhere == ("gpt",)
    everyone = team_of(recipe_with(tmp_path, SPOKEN + "gpt\n", "method=prompts"))
    assert everyone.adapters == ("shared",) and {role.spoken_by for role in everyone.roles} == {"gpt"}


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("{C: gpt}", "r.yaml:9: team.spoken_by.C: there is no role C; there is A, B"),
        ("{B: a b}", "r.yaml:9: team.spoken_by.B: a speaker's name is made of letters, digits, _ and -, not 'a b'"),
        (
            "{B: 3}",
            "r.yaml:9: team.spoken_by: must be the name of a speaker, or one for each role that is spoken by one",
        ),
        ("{B: gpt}\n  adapters: {A: x, B: y}", "r.yaml:10: team.adapters.B: is spoken by gpt, and has no adapter"),
        (
            "{B: gpt}\n  transfer: stream",
            "r.yaml:9: team.spoken_by: says whole messages, and those of this team fall into steps (stream)",
        ),
        (
            "gpt",
            "r.yaml:3: team: is spoken by others in all its roles, so that there is nothing to train; leave a role to "
            "the model, or compare with such a team: optima-lite eval RUN --spoken-by NAME",
        ),
    ],
)
def test_who_cannot_be_spoken_by_another(tmp_path: Path, stated: str, said: str) -> None:
    assert refused(tmp_path, f"{SPOKEN}{stated}\n") == said


def test_a_task_without_facts_has_none_to_share_or_to_look_up(tmp_path: Path) -> None:
    said = refused(tmp_path, "team: exchange\n", "task.name=gsm8k", "task.metric=numeric")
    assert said == "r.yaml:3: team: shares its facts out, and task.name gsm8k has none"
    assert "looks facts up" in refused(tmp_path, "team: decompose_retrieve_answer\n", "task.name=math")
    assert "runs tests, and task.name world has none; humaneval and mbpp have" in refused(
        tmp_path, "team: plan_code_test_reflect\n"
    )
    assert "task.metric: must be tests or pass, not f1: the answers to mbpp are programs" in refused(
        tmp_path, "team: solo\n", "task.name=mbpp"
    )
    assert "task.metric: cannot be pass, which runs programs; it is for humaneval and mbpp" in refused(
        tmp_path, "team: solo\n", "task.metric=pass"
    )
    assert recipe_with(tmp_path, "team: tree\n", "task.name=gsm8k").team


LOOKS_UP = """\
team:
  roles: {A: {system: a}}
  steps:
    look: {tool: retrieve, reads: "{question}", index: INDEX, then: say}
    say: {speaker: A, reads: "{look}", then: end}
  answer: say
"""


def test_a_team_s_file_is_suggested_by_the_files_that_lie_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("newsroom.yaml").write_text(TEAM)
    said = refused(tmp_path, "team: newsrom.yaml\n")
    assert said == "r.yaml:3: team: there is no team newsrom.yaml; did you mean newsroom.yaml?"


def test_where_facts_are_looked_up_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("library").mkdir()
    said = refused(tmp_path, LOOKS_UP.replace("INDEX", "libary"))
    assert said == "r.yaml:6: team.steps.look.index: there is no folder libary; did you mean library?"
    assert "no folder taks; did you mean task?" in refused(tmp_path, LOOKS_UP.replace("INDEX", "taks"))
    endless = "looks facts up in the whole task, and task.name world makes questions without end"
    assert endless in refused(tmp_path, LOOKS_UP.replace("INDEX", "task"))
    assert recipe_with(tmp_path, LOOKS_UP.replace("INDEX", "task"), "task.name=hotpotqa").team
    bare = recipe_with(tmp_path, LOOKS_UP.replace("INDEX", "library"), "task.name=gsm8k", "task.metric=numeric")
    assert team_of(bare).indexes == ("library",), "a folder is enough where the task has no facts"
    Path("library").rmdir()
    assert Recipe.from_dict(bare.to_dict(), where="manifest").team, "what a run has used need not be there any more"


def test_a_schema_is_for_a_role_of_the_team(tmp_path: Path) -> None:
    said = refused(tmp_path, "team: proposer_critic\nreward: {schemas: {Critik: {}}}\n")
    assert "who has no part in the team; did you mean Critic?" in said
