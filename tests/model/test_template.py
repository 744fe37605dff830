"""Chat templates as families have them: what every prompt begins with stays what earlier prompts and messages were."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from families import ALWAYS_THINKING, CHATML, DRESSES, GEMMA, write_tokenizer
from optima_lite.errors import ModelError
from optima_lite.model.render import Renderer
from optima_lite.model.template import Template
from optima_lite.records import Question, Turn
from optima_lite.settings.workflow import told
from optima_lite.team.prompts import Message, view
from optima_lite.team.talks import debate, exchange

SYSTEM = "You are {name}, working with {partner}."
QUESTION = Question("q", "Who is it?", ("Tess",), (("Mira mother Tess",), ("Lok boss Mira",)))
PAIR = told(exchange(("Alice", "Bob"), 6), SYSTEM)
THREE = told(debate(("Alice", "Bob", "Carol"), 7), SYSTEM)
SAID = ["Mira mother Tess", " over to you", "yes", "\nso it is", "Tess", "Tess", "ok"]


def tokenizer_of(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    write_tokenizer(folder, name)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module", params=DRESSES)
def dressed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    tokenizer = tokenizer_of(tmp_path_factory.mktemp("dressed"), request.param)
    ends = tokenizer.convert_tokens_to_ids(list(DRESSES[request.param].ends))
    bare = Renderer(tokenizer, end_ids=())
    assert bare.closing is not None
    return Renderer(tokenizer, end_ids={*ends, bare.closing})


def dialogue(renderer: Renderer, roles: int, *, endings: list[int | None]) -> list[Turn]:
    """What agents say in turn; None cuts a message."""
    turns = []
    for k, (text, end) in enumerate(zip(SAID, endings, strict=False)):
        turns.append(Turn(k % roles, renderer.encode(text) + (() if end is None else (end,)), text))
    return turns


@pytest.mark.parametrize("workflow", [PAIR, THREE], ids=["two agents", "three agents"])
def test_a_prompt_extends_the_prompt_and_the_message_before_it(dressed: Renderer, workflow: Any) -> None:
    """With either end of a turn, and with a message that was cut."""
    roles = len(workflow.roles)
    ends = sorted(dressed.end_ids)
    for endings in ([dressed.closing] * 7, [ends[0]] * 7, [ends[-1]] * 7, [None, *ends, dressed.closing, None] * 2):
        turns = dialogue(dressed, roles, endings=endings)

        def prompt(k: int, turns: list[Turn] = turns) -> tuple[int, ...]:
            return dressed.prompt(view(QUESTION, turns[:k], k % roles, workflow=workflow))

        for k, turn in enumerate(turns):
            before = prompt(k) + turn.ids
            if k + roles <= len(turns):
                assert prompt(k + roles)[: len(before)] == before
            trained = dressed.conversation(view(QUESTION, turns, turn.speaker, workflow=workflow))
            start, stop = trained.spans[k // roles]
            assert trained.ids[:start] == prompt(k) and trained.ids[start:stop] == turn.ids


def test_every_message_is_closed_once(dressed: Renderer) -> None:
    for end in sorted(dressed.end_ids):
        turns = dialogue(dressed, 2, endings=[end] * 3)
        plain = dressed.prompt(view(QUESTION, turns[:1], 1, workflow=PAIR))
        ids = dressed.prompt(view(QUESTION, turns, 1, workflow=PAIR))
        closed = sum(i in dressed.end_ids for i in ids) - sum(i in dressed.end_ids for i in plain)
        users_are_closed = any(i in dressed.end_ids for i in plain)
        assert closed == 1 + users_are_closed, "Bob's own message, and Alice's second one where users are closed, too"


def test_what_is_rendered_is_the_template_s_own_text(dressed: Renderer) -> None:
    """For a question alone, which every template takes."""
    chat = [{"role": "user", "content": "Who wrote Emma?"}]
    template = dressed.tokenizer.apply_chat_template
    text = template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    ids = dressed.prompt([Message("user", "Who wrote Emma?")])
    assert dressed.tokenizer.decode(ids) == re.sub("Today: .*", "Today: 26 Jul 2024", text)


def shown(folder: Path, name: str, messages: list[Message]) -> str:
    tokenizer = tokenizer_of(folder, name)
    return str(tokenizer.decode(Renderer(tokenizer, end_ids=()).prompt(messages)))


ASKED = [
    Message("system", "Be brief."),
    Message("user", "Who?"),
    Message("assistant", "Tess."),
    Message("user", "Why?"),
]
EXPECTED = {
    "gemma": (
        "<bos><start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>\n<start_of_turn>model\nTess.<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n"
    ),
    "gemma3": (
        "<bos><start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>\n<start_of_turn>model\nTess.<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n"
    ),
    "mistral": "<s>[INST] Be brief.\n\nWho?[/INST]Tess.</s>[INST] Why?[/INST]",
    "old mistral": "<s>[INST] Be brief.\n\nWho? [/INST]Tess.</s> [INST] Why? [/INST]",
    "qwen3": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nTess.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "smollm3": (
        "<|im_start|>system\nToday: 26 Jul 2024\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\nTess.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n"
    ),
    "phi3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWho?<|end|>\n<|assistant|>\nTess.<|end|>\n<|user|>\nWhy?<|end|>\n"
        "<|assistant|>\n"
    ),
}


@pytest.mark.parametrize(("name", "text"), EXPECTED.items(), ids=EXPECTED)
def test_a_dialogue_reads_as_the_family_wants_it(name: str, text: str, tmp_path: Path) -> None:
    assert shown(tmp_path, name, ASKED) == text


def test_users_in_a_row_become_one_where_roles_must_alternate(tmp_path: Path) -> None:
    heard = [*ASKED[:2], Message("user", "Bob: no."), *ASKED[2:]]
    assert "<start_of_turn>user\nBe brief.\n\nWho?\n\nBob: no.<end_of_turn>" in shown(tmp_path, "gemma", heard)
    assert "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>user\nBob: no.<|im_end|>" in shown(tmp_path, "qwen2", heard)


def test_a_message_alone_follows_a_silent_user_where_roles_must_alternate(tmp_path: Path) -> None:
    for name, before in (("gemma", "<bos><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\n"), ("phi3", None)):
        tokenizer = tokenizer_of(tmp_path / name, name)
        renderer = Renderer(tokenizer, end_ids=())
        turn = Turn(0, renderer.encode("hello"), "")
        row = renderer.alone(turn)
        ((start, stop),) = row.spans
        assert row.ids[start:stop] == turn.ids
        assert tokenizer.decode(row.ids[:start]) == (before or "<|assistant|>\n")


def test_no_thought_is_said_or_trained(tmp_path: Path) -> None:
    for name in ("qwen3", "smollm3"):
        tokenizer = tokenizer_of(tmp_path / name, name)
        renderer = Renderer(tokenizer, end_ids=())
        thoughts = set(tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
        turn = Turn(0, renderer.encode("hello"), "")
        row = renderer.conversation([*ASKED[:2], Message("assistant", turns=(turn,))])
        assert thoughts <= set(row.ids)
        assert not thoughts & {i for i, own in zip(row.ids, row.mask, strict=True) if own}


# --- What is refused ------------------------------------------------------------------------------

LAST_ANSWER_ONLY = CHATML.replace(
    "'\n' + m.content", "'\n' + (m.content if loop.last or m.role != 'assistant' else '')"
)
COUNTING = CHATML.replace("m.role + '\n'", "m.role + ' of ' + messages | length | string + '\n'")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (ALWAYS_THINKING, "its chat template makes the model think aloud before every message"),
        (LAST_ANSWER_ONLY, "its chat template drops, repeats or moves a message"),
        (COUNTING, "its chat template changes earlier turns when later ones follow"),
        (
            GEMMA.replace("(m.role == 'user') != (loop.index0 % 2 == 0)", "loop.index0 > 0"),
            "its chat template does not take the messages system, user, assistant, user, user, assistant, user: "
            "roles must alternate",
        ),
        ("{{ messages[0].content + 3 }}", None),
        (None, "its tokenizer has no chat template"),
    ],
)
def test_a_template_that_breaks_the_chain_of_prompts_is_refused(
    template: str | None, what: str | None, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(tmp_path, "qwen2")
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as raised:
        Template(tokenizer)
    assert raised.value.hint
    assert what is None or raised.value.what == what


def test_a_long_talk_is_rendered_once_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(tmp_path, "qwen3")
    template, calls, real = Template(tokenizer), [], tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    pieces = template.scaffold(("system", *("user", "assistant") * 40), reply=False)
    assert len(calls) == 41 and sum("<think>" in piece for piece in pieces) == 40


# --- Tokenizers that put a space in front ---------------------------------------------------------


def test_no_space_comes_in_between_template_and_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "phi3")
    assert tokenizer.tokenize("hello")[0] == "\u2581h", "this tokenizer puts a space in front"
    renderer = Renderer(tokenizer, end_ids=())
    whole = "<|user|>\nhello there<|end|>\n<|assistant|>\n"
    ids = renderer.prompt([Message("user", "hello there")])
    assert list(ids) == tokenizer("\n" + whole, add_special_tokens=False)["input_ids"][2:]
    assert renderer.encode("hello") == tuple(tokenizer.convert_tokens_to_ids(list("hello")))
