"""Model folders: which fields are read, that nothing else reaches the libraries, and what a saved adapter names."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402
from peft import AutoPeftModelForCausalLM, PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from optima_lite.errors import ModelError  # noqa: E402
from optima_lite.model import checkpoint, loading  # noqa: E402
from optima_lite.model.checkpoint import bundled, read  # noqa: E402
from optima_lite.model.config_file import FIELDS  # noqa: E402
from optima_lite.model.families import ACCEPTED  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings  # noqa: E402
from support import Finished  # noqa: E402

WITHOUT_MEANING = {  # for what is computed here: how weights would begin, and what others do with the result
    "initializer_range",
    "pretraining_tp",
    "use_cache",
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundled model in a folder of its own."""
    return Path(shutil.copytree(bundled(), tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_field_of_an_accepted_architecture_is_read_or_has_no_meaning() -> None:
    """A field that was left out here would silently make another model of it."""
    for name in ACCEPTED:
        declared = set(getattr(transformers, name).config_class.__annotations__)
        assert declared - FIELDS.keys() - WITHOUT_MEANING == set()


def test_nothing_but_the_known_fields_reaches_the_model(copy: Path) -> None:
    change(copy / "config.json", attn_implementation="evil/kernel", _attn_implementation="evil/kernel", use_cache=False)
    change(copy / "generation_config.json", num_beams=9, stop_strings=["a"], cache_implementation="quantized")
    base = loading.load(ModelSettings(name=str(copy)), machine=Machine(), seed=0).model.get_base_model()
    assert (base.config._attn_implementation, base.config.use_cache) == ("sdpa", True)
    generation = base.generation_config
    assert (generation.num_beams in (None, 1), generation.stop_strings, generation.cache_implementation) == (
        True,
        None,
        None,
    )


def test_the_tokenizer_is_the_one_that_transformers_would_take(copy: Path) -> None:
    ours = loading.load(ModelSettings(name=str(copy)), machine=Machine(), seed=0).tokenizer
    theirs = AutoTokenizer.from_pretrained(copy, local_files_only=True)
    text = "What is <|eot_id|> the  teacher of Ola?\n<A> 3 </A>"
    for options in ({}, {"add_special_tokens": False, "split_special_tokens": True}):
        assert ours(text, **options)["input_ids"] == theirs(text, **options)["input_ids"]
    chat = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)
    assert ours.all_special_ids == theirs.all_special_ids


def test_weights_that_are_no_numbers_are_told(copy: Path) -> None:
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    start, _ = header["model.layers.2.mlp.down_proj.weight"]["data_offsets"]
    data[8 + length + start : 8 + length + start + 2] = b"\xff\xff"  # one bfloat16 that is not a number
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no finite numbers"):
        loading.load(ModelSettings(name=str(copy)), machine=Machine(), seed=0)


def test_a_special_token_that_the_tokenizer_lacks_is_left_out(copy: Path) -> None:
    """It would get an id that the model has no embedding for."""
    change(copy / "tokenizer_config.json", pad_token="<|nowhere|>", unk_token={"content": "<|nor here|>"})
    assert read(copy).special.keys() == {"bos_token", "eos_token"}
    loaded = loading.load(ModelSettings(name=str(copy)), machine=Machine(), seed=0)
    assert loaded.pad_id < loaded.model.get_base_model().config.vocab_size


def test_links_in_a_circle_and_devices_are_no_files(copy: Path) -> None:
    for name, what in (("model.safetensors", "has no weights"), ("config.json", "has no config.json")):
        (copy / name).unlink()
        os.symlink(copy / name, copy / name)
        with pytest.raises(ModelError, match=what):
            read(copy)
        (copy / name).unlink()
        os.symlink("/dev/zero", copy / name)
        with pytest.raises(ModelError, match=what):
            read(copy)
        (copy / name).unlink()
        shutil.copyfile(bundled() / name, copy / name)


def test_layers_that_the_weights_do_not_have_are_not_laid_out(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(copy / "config.json", num_hidden_layers=1000)
    monkeypatch.setattr(checkpoint.Checkpoint, "configuration", lambda self: pytest.fail("a model was laid out"))
    with pytest.raises(ModelError, match="part of the weights is missing"):
        read(copy)


# --- The adapter in force -------------------------------------------------------------------------


def test_a_saved_adapter_names_no_place_of_this_machine(finished: Finished, copy: Path, tmp_path: Path) -> None:
    configs = list(finished.folder.glob("iteration_*/*/adapter_config.json"))
    assert configs
    assert {json.loads(path.read_text())["base_model_name_or_path"] for path in configs} == {"tiny"}
    loading.load(ModelSettings(name=str(copy)), machine=Machine(), seed=0).save_adapter(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/adapter_config.json").read_text())["base_model_name_or_path"] == "model"
    for path in (tmp_path / "saved").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


PEFT_ASKS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21; 2026-11


@PEFT_ASKS
def test_the_adapter_in_force_loads_as_the_readme_says(finished: Finished) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    adapter = finished.folder / "adapter"
    assert adapter.resolve() == (finished.folder / summary["adapter"]).resolve()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bundled()), str(adapter))
    ours = loading.load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
    ours.load_adapter(adapter)
    ids = torch.tensor([[20, 30, 40]])
    with torch.no_grad():
        assert torch.allclose(model.float()(ids).logits, ours.model(ids).logits, atol=1e-4)
        with model.disable_adapter():
            assert not torch.allclose(model(ids).logits, ours.model(ids).logits, atol=1e-4), (
                "the adapter does something"
            )


@PEFT_ASKS
def test_an_adapter_of_a_hub_model_loads_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `maker/model` in the working folder stands in for the hub, which knows models by the same names."""
    monkeypatch.chdir(tmp_path)
    ours = loading.load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
    ours.base = "maker/model"
    ours.save_adapter(tmp_path / "adapter")
    shutil.copytree(bundled(), tmp_path / "maker/model")
    model = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    assert model.peft_config["default"].base_model_name_or_path == "maker/model"
