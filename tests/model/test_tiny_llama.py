"""The bundled tiny Llamas as shipped: they load without a network, their tokenizers read any text, they have skill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optima_lite.model.checkpoint import BUNDLED, bundled
from optima_lite.records import Question, Turn
from optima_lite.settings.workflow import told
from optima_lite.tasks import world
from optima_lite.team.prompts import view
from optima_lite.team.talks import exchange

PAIR = told(exchange(("Alice", "Bob"), 6), "You are {name}, working with {partner}.")


@pytest.fixture(scope="module", params=BUNDLED)
def folder(request: pytest.FixtureRequest) -> Path:
    return bundled(request.param)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


# No lone surrogates: they are not UTF-8.
@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
@example("Mira's mother , is Tess .\n\n  <A> X</A>  ")
@example("naïve 東京 🙂\r\n\t\0")
@example("<|eot_id|><A> Mira </A>")
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(plain) == text


def test_every_name_and_relation_is_one_token(tokenizer: Any) -> None:
    names = [*world.RELATIONS, *(name for kind in world.ENTITIES.values() for name in kind)]
    assert {len(tokenizer.encode(f" {name}", add_special_tokens=False)) for name in names} == {1}
    assert [len(tokenizer.encode(mark, add_special_tokens=False)) for mark in ("<A>", "</A>", " <A>", " </A>")] == [
        1
    ] * 4
    assert tokenizer.tokenize(" Tess home <A> Portham </A>")[-3:] == [" <A>", "ĠPortham", " </A>"]


def test_the_chat_layout_is_llama_3s(tokenizer: Any) -> None:
    chat = [{"role": "system", "content": " be brief\n"}, {"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.encode("hello")[0] == tokenizer.bos_token_id, "as in Llama 3, plain text gets a beginning too"


def test_ends_and_padding_are_apart(tokenizer: Any, model: Any) -> None:
    ends = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    assert tokenizer.eos_token == "<|eot_id|>"
    assert model.generation_config.eos_token_id == ends
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id == model.config.pad_token_id
    assert tokenizer.pad_token_id not in ends
    assert model.config.vocab_size == len(tokenizer)


def test_the_weights_are_small_enough_to_ship(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size <= 4_000_000
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4_500_000


def test_the_model_looks_facts_up(tokenizer: Any, model: Any) -> None:
    """One of four facts, asked for by the partner: a guess is right in a quarter of the cases."""
    import torch

    asked = world.questions("held_out", 60, seed=5)
    right = 0
    for question in asked:
        entity, relation, value = question.contexts[0][0].split()
        turns = [Turn(1, (), f" {entity} {relation}?"), Turn(0, (), f" {entity} {relation}")]
        ids = torch.tensor([_ids(tokenizer, question, turns)])
        with torch.no_grad():
            right += tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax().item()) == f" {value}"
    assert right / len(asked) >= 0.8


def _ids(tokenizer: Any, question: Question, turns: list[Turn]) -> list[int]:
    """The view of agent 0 as ids, open at the end of the last turn."""
    text = tokenizer.bos_token
    for message in view(question, turns, 0, workflow=PAIR, format="telegraphic"):
        said = message.text + "".join(turn.text for turn in message.turns)
        text += f"<|start_header_id|>{message.role}<|end_header_id|>\n\n{said}<|eot_id|>"
    return list(tokenizer.encode(text.removesuffix("<|eot_id|>"), add_special_tokens=False))
