"""Messages by a JSON schema: valid ones, all the others, and what is no schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.errors import ConfigError
from optima_lite.settings import schemas
from optima_lite.settings.config import load_recipe
from optima_lite.settings.recipe import Recipe
from optima_lite.tasks import forms
from optima_lite.tasks.bounded import Worker
from support import SMALL

pytest.importorskip("jsonschema")

FACTS = {
    "type": "object",
    "properties": {"facts": {"type": "array", "items": {"type": "string"}}, "answer": {"type": ["string", "null"]}},
    "required": ["facts"],
    "additionalProperties": False,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("message", "valid"),
    [
        ('{"facts": ["Mira mother Tess"]}', True),
        ('  {"facts": [], "answer": "<A>Portham</A>"}\n', True),
        ('{"facts": []} and more', False),
        ('```json\n{"facts": []}\n```', False),
        ('{"facts": [1]}', False),
        ('{"answer": "x"}', False),
        ('{"facts": [], "more": 1}', False),
        ("Mira mother Tess", False),
        ("", False),
        ("[" * 9_000, False),
        ('{"facts": ["' + "x" * forms.LONGEST + '"]}', False),
    ],
)
def test_a_message_is_valid_as_a_whole(message: str, valid: bool) -> None:
    assert forms.valid(message, FACTS) is valid


@pytest.mark.parametrize("message", ["NaN", "-Infinity", "1e999", "9" * 6_000, "1e400"])
def test_numbers_that_no_float_holds_are_no_error(message: str) -> None:
    assert forms.valid(message, {"multipleOf": 0.1}) is False


@pytest.mark.parametrize(
    ("message", "valid"),
    [('{"a": "bb"}', True), ('{"a": "c"}', False), ("no JSON", False), ('{"a": "' + "b" * 60 + '!"}', False)],
)
def test_a_pattern_may_search_for_ever_and_is_stopped(
    message: str, valid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of them takes 2^60 steps: it counts as not valid, and the next message is checked as ever."""
    worker = Worker("optima_lite.tasks.fitting:fits", seconds=0.1)
    monkeypatch.setattr(forms, "_in_time", worker)
    schema = {"properties": {"a": {"pattern": "^(b+)+$"}}}
    assert forms.valid(message, schema) is valid
    assert worker.undecided == (len(message) > 60)
    assert forms.valid('{"a": "b"}', schema)


@given(st.text() | JSON.map(json.dumps))
def test_no_message_is_an_error(message: str) -> None:
    assert forms.valid(message, FACTS) in (True, False)


@given(st.lists(st.text()), st.none() | st.text())
def test_what_follows_the_schema_is_valid(facts: list[str], answer: str | None) -> None:
    message = json.dumps({"facts": facts, "answer": answer})
    assert forms.valid(message, FACTS) == (len(message) <= forms.LONGEST)


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "strin"}, "type: 'strin' is not valid under any of the given schemas"),
        ({"properties": {"a": {"minLength": -1}}}, "properties.a.minLength: -1 is less than the minimum of 0"),
        ({"pattern": "("}, "pattern: '(' is not a 'regex'"),
        ({"items": [{"$ref": "https://example.com"}]}, "the keyword $ref is not supported; write the schema out"),
        (FACTS, None),
    ],
)
def test_what_is_no_schema_is_told(schema: dict[str, Any], what: str | None) -> None:
    assert schemas.problem(schema) == what


# --- In a recipe ----------------------------------------------------------------------------------

ASKING = SMALL.replace(
    "{readability: capped}",
    """
  readability: capped
  format_weight: 0.5
  schemas:
    Alice: {type: object, required: [facts]}
""",
)


def write(folder: Path, text: str) -> Path:
    path = folder / "asking.yaml"
    path.write_text(text)
    return path


def test_a_recipe_holds_the_schema_of_each_role(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, ASKING)).recipe
    assert recipe.reward.schemas == {"Alice": {"type": "object", "required": ["facts"]}}
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), where="manifest") == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("Alice:", "Alic:"),
            "reward: schemas has a schema for Alic, who has no part in the protocol; did you mean Alice?",
        ),
        (("object", "objekt"), "reward.schemas: of Alice is no JSON schema: type: 'objekt' is not valid under any"),
        (("Alice: {type: object, required: [facts]}", "{}"), "reward.schemas: must hold a role's schema when"),
        (("{type: object, required: [facts]}", "object"), "reward.schemas: must be a table"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, ASKING.replace(*change)))
    assert message in str(caught.value)
