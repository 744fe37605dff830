"""The base model and its adapter: what is refused before it is loaded, and that weights are what they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import ModelError  # noqa: E402
from optima_lite.model.checkpoint import BUNDLED, bundled, read  # noqa: E402
from optima_lite.model.families import SUPPORTED  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.hub import locate  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Renderer  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings  # noqa: E402

LLAMA = json.loads((bundled() / "config.json").read_text())
WEIGHTS = (bundled() / "model.safetensors").read_bytes()
GREEDY = Sampling(0.0, 1.0, 6)
PROMPTS = [list(range(20, 40)), list(range(50, 57))]

Model = Callable[..., Path]
"""A copy of the bundled model with these files in place of its own; None takes a file away."""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    def make(**changes: str | bytes | None) -> Path:
        folder = shutil.copytree(bundled(), tmp_path / "model")
        for name, content in changes.items():
            path = folder / name.replace("__", ".")
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make


def said(raised: Any) -> tuple[str, str | None]:
    assert raised.value.exit_code == 2
    return raised.value.what, raised.value.hint


def generated(policy: Policy) -> list[tuple[int, ...]]:
    return Generator(policy, max_batch_tokens=4096).generate(PROMPTS, sampling=GREEDY, keys=[1, 2])


def adapter(policy: Policy) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" in n}


def base_weights(policy: Policy) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" not in n}


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def disturb(policy: Policy) -> None:
    """An adapter that changes what the model says."""
    with policy.changing(), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.1)


# --- Finding and checking a folder ----------------------------------------------------------------


def test_a_folder_beats_an_alias_and_an_alias_the_bundled_model(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("llama", "elsewhere"):
        (tmp_path / name).mkdir()
    machine = Machine(models={"llama": str(tmp_path / "elsewhere"), "other": str(tmp_path / "elsewhere")})
    assert locate("llama", machine=machine) == "llama"
    assert locate("other", machine=machine) == str(tmp_path / "elsewhere")
    assert [locate(name, machine=machine) for name in BUNDLED] == [str(bundled(name)) for name in BUNDLED]
    assert locate("tiny", machine=Machine(models={"tiny": str(tmp_path)})) == str(tmp_path)
    assert locate("unsloth/llama-3-8b", machine=machine) == "unsloth/llama-3-8b"


@pytest.mark.parametrize("name", ["/models/llama", "./llama", "~/no-such-folder", "llama", "a/b/c"])
def test_a_model_that_is_nowhere_is_told(name: str) -> None:
    with pytest.raises(ModelError) as raised:
        locate(name, machine=Machine(models={"mine": "/models/mine"}))
    assert raised.value.where == "model.name"
    assert said(raised) == (
        f"no such model folder: {name}",
        "a folder, one of tiny, tiny-teams, mine, or a hub id such as unsloth/llama-3-8b-Instruct-bnb-4bit",
    )


def test_an_alias_to_nowhere_is_told() -> None:
    with pytest.raises(ModelError) as raised:
        locate("mine", machine=Machine(models={"mine": "/models/mine"}))
    assert raised.value.where == "optima_lite.toml [models]"
    assert said(raised) == (
        "the alias 'mine' points to a folder that does not exist: /models/mine",
        "correct the path, or remove the alias",
    )


def test_a_complete_folder_passes(model: Model) -> None:
    read(model())


AGAIN = "download the model again"
UNREADABLE = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
FAMILIES = f"a chat model of one of these families: {SUPPORTED}"
WHOLE = "model.safetensors is damaged or not whole"
TWO_PARTS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def config(**changes: object) -> str:
    return json.dumps({name: value for name, value in (LLAMA | changes).items() if value is not None})


REFUSED: list[tuple[dict[str, str | bytes | None], str, str]] = [
    ({"config__json": None}, "this model folder has no config.json", AGAIN),
    ({"config__json": "{"}, f"cannot read config.json: {UNREADABLE}", AGAIN),
    ({"config__json": "[]"}, "cannot read config.json: it is no JSON object", AGAIN),
    ({"config__json": "[" * 10_000}, "cannot read config.json: nested too deeply", AGAIN),
    ({"config__json": " " * (2**20 + 1)}, "config.json is larger than 1 MB", AGAIN),
    (
        {"config__json": config(auto_map={})},
        "this model asks to run code of its own, which is refused",
        FAMILIES,
    ),
    ({"config__json": config(architectures=["GPT2LMHeadModel"])}, "cannot train GPT2LMHeadModel", FAMILIES),
    ({"config__json": "{}"}, "cannot train a model of unknown architecture", FAMILIES),
    ({"config__json": config(architectures={"a": 1})}, "cannot train a model of unknown architecture", FAMILIES),
    ({"config__json": config(hidden_size=None)}, "does not say its hidden_size", AGAIN),
    (
        {"config__json": config(num_attention_heads=0)},
        "its num_attention_heads must be a whole number from 1 to 4,096, not 0",
        AGAIN,
    ),
    ({"config__json": config(head_dim=47)}, "its head_dim does not fit its other sizes", AGAIN),
    ({"config__json": config(num_key_value_heads=3)}, "its num_key_value_heads does not fit its other sizes", AGAIN),
    ({"config__json": config(hidden_act="x/y")}, "its hidden_act must be one of silu, swish, gelu, gelu_new, ", AGAIN),
    (
        {"config__json": config(quantization_config={"quant_method": "gptq", "bits": 4})},
        "its weights are quantised by gptq",
        "its plain copy; quantization: nf4 takes four bits",
    ),
    (
        {"config__json": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})},
        "config.json says that the weights are stored in four bits, and they are not",
        AGAIN,
    ),
    (
        {"config__json": config(num_attention_heads=64, num_key_value_heads=64, head_dim=2, hidden_size=200)},
        "cannot load the model: ",
        AGAIN,
    ),
    (
        {"model__safetensors": None, "pytorch_model.bin": ""},
        "this model folder has only pickled weights (pytorch_model.bin), which can run code",
        "a version saved as *.safetensors",
    ),
    ({"model__safetensors": None}, "this model folder has no weights", "a version saved as *.safetensors"),
    (
        {
            "model__safetensors": None,
            "model-00001-of-00002.safetensors": WEIGHTS,
            "model.safetensors.index.json": json.dumps({"weight_map": TWO_PARTS}),
        },
        "part of the weights is missing: model-00002-of-00002.safetensors",
        "finish the download",
    ),
    (
        {"model__safetensors": None, "model.safetensors.index.json": "{"},
        f"cannot read model.safetensors.index.json: {UNREADABLE}",
        AGAIN,
    ),
    (
        {
            "model__safetensors": None,
            "model.safetensors.index.json": json.dumps({"weight_map": {"a": "../secret.safetensors"}}),
        },
        "model.safetensors.index.json names '../secret.safetensors', which is no file of this folder",
        AGAIN,
    ),
    ({"tokenizer__json": None}, "this model folder has no tokenizer.json", AGAIN),
    ({"tokenizer__json": "{}"}, "tokenizer.json holds no tokenizer that can be used", AGAIN),
    ({"tokenizer_config__json": '{"eos_token": 3}'}, "its eos_token is no text", AGAIN),
    ({"generation_config__json": '{"eos_token_id": "x"}'}, "its eos_token_id is no token, nor a list of them", AGAIN),
    (
        {"chat_template__jinja": "{% for i in range(9999) %}{% for j in range(9999) %}{{ i }}{% endfor %}{% endfor %}"},
        "its chat template cannot be used: it is damaged, never ends, or writes far more than the messages",
        "an instruct (chat) version of the model",
    ),
    (
        {"adapter_config__json": "{}"},
        "this folder holds an adapter",
        "the folder of its base model; or take adapter_config.json out of this one",
    ),
    ({"model__safetensors": WEIGHTS[:-1]}, WHOLE, AGAIN),
    ({"model__safetensors": WEIGHTS[: len(WEIGHTS) // 2]}, WHOLE, AGAIN),
    ({"model__safetensors": WEIGHTS + b"xx"}, WHOLE, AGAIN),
    ({"model__safetensors": b""}, WHOLE, AGAIN),
    ({"model__safetensors": b"no header"}, WHOLE, AGAIN),
]


@pytest.mark.parametrize(("files", "what", "hint"), REFUSED, ids=[what[:40] for _, what, _ in REFUSED])
def test_a_folder_that_cannot_be_used_is_refused(
    model: Model, files: dict[str, str | bytes | None], what: str, hint: str
) -> None:
    folder = model(**files)
    with pytest.raises(ModelError) as raised:
        read(folder)
    assert said(raised)[0].startswith(what) and said(raised)[1] == hint
    assert str(raised.value.where).startswith(str(folder))


def test_weights_that_lack_a_layer_or_have_another_shape_are_told(tmp_path: Path) -> None:
    """transformers makes up what is missing at random, and says so in a table that nobody sees."""
    folder = shutil.copytree(bundled(), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    layers = config["num_hidden_layers"]
    for changes, what in (
        ({"num_hidden_layers": layers + 1}, f"part of the weights is missing: model.layers.{layers}."),
        (
            {"intermediate_size": 8},
            "model.layers.0.mlp.gate_proj.weight has the shape 512 x 192, and config.json asks ",
        ),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ModelError) as raised:
            load(ModelSettings(name=str(folder)), machine=Machine(), seed=0)
        assert raised.value.what.startswith(what)
        assert raised.value.where == str(folder)


def test_a_hub_name_without_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError) as raised:
        load(ModelSettings(name="nobody/nothing"), machine=Machine(offline=True), seed=0)
    assert raised.value.what == "`offline` is set, and this model is not in the local cache"


# --- The policy -----------------------------------------------------------------------------------


def test_a_new_policy_speaks_as_its_base_and_knows_its_ends(policy: Policy) -> None:
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad(), policy.model.disable_adapter():
        bare = policy.model(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(policy.model(input_ids=ids).logits, bare)
    assert not policy.model.training
    assert set(policy.end_ids) == set(policy.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"]))
    assert policy.pad_id not in policy.end_ids
    assert policy.device.type == "cpu" and policy.model.dtype == torch.float32
    assert policy.tokenizer.padding_side == "left"


def test_the_length_limit_can_only_be_lowered(policy: Policy) -> None:
    own = policy.max_length
    for wanted, given in ((64, 64), (10**9, own)):
        loaded = load(ModelSettings(name="tiny", max_length=wanted), machine=Machine(), seed=0)
        assert loaded.max_length == given


def test_the_adapter_has_the_recipe_s_shape() -> None:
    settings = ModelSettings(name="tiny", lora_rank=3, lora_alpha=12, lora_dropout=0.25)
    policy = load(settings, machine=Machine(), seed=0)
    found = policy.model.peft_config["default"]
    assert (found.r, found.lora_alpha, found.lora_dropout) == (3, 12, 0.25)
    assert {min(weight.shape) for weight in adapter(policy).values()} == {3}
    layers = policy.model.get_base_model().config.num_hidden_layers
    assert len(adapter(policy)) == 2 * 7 * layers, "every linear layer of every block, and no other"


def test_restart_depends_on_the_seed_alone(policy: Policy) -> None:
    first = adapter(policy)
    state = torch.get_rng_state()
    policy.restart(seed=7)
    assert torch.equal(torch.get_rng_state(), state), "other randomness is left alone"
    seventh = adapter(policy)
    disturb(policy)
    torch.manual_seed(123)
    policy.restart(seed=7)
    assert same(adapter(policy), seventh) and not same(seventh, first)
    assert all((weight == 0).all() for name, weight in seventh.items() if "lora_B" in name)
    policy.restart(seed=0)
    assert same(adapter(policy), first)


def test_speaking_puts_the_weights_back_bit_for_bit(policy: Policy) -> None:
    disturb(policy)
    before = base_weights(policy) | adapter(policy)
    with policy.speaking() as model:
        assert not same(base_weights(policy), {n: w for n, w in before.items() if "lora_" not in n}), "merged"
        assert not model.training
    assert same(base_weights(policy) | adapter(policy), before)
    with pytest.raises(KeyboardInterrupt), policy.speaking():
        raise KeyboardInterrupt
    assert same(base_weights(policy) | adapter(policy), before)


def test_speaking_says_what_the_adapter_says(policy: Policy) -> None:
    disturb(policy)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        apart = policy.model(input_ids=ids).logits
    with policy.speaking() as model, torch.no_grad():
        merged = model(input_ids=ids).logits
    with policy.reading() as base:
        bare = base(input_ids=ids).logits
    assert (merged - apart).abs().max() < 1e-3 < (bare - apart).abs().max()


def test_reading_is_the_base_model_whatever_the_adapter(policy: Policy) -> None:
    ids = torch.tensor([PROMPTS[0]])
    with policy.reading() as base:
        before = base(input_ids=ids).logits
    disturb(policy)
    with policy.reading() as base:
        assert torch.equal(base(input_ids=ids).logits, before)
        assert not base.training
    with torch.no_grad():
        assert not torch.equal(policy.model(input_ids=ids).logits, before), "the adapter is on again"


def test_an_adapter_comes_back_exactly(policy: Policy, tmp_path: Path) -> None:
    disturb(policy)
    weights, spoken = adapter(policy), generated(policy)
    policy.save_adapter(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    other = load(ModelSettings(name="tiny"), machine=Machine(), seed=5)
    assert not same(adapter(other), weights)
    other.load_adapter(tmp_path)
    assert same(adapter(other), weights)
    assert generated(other) == spoken


def test_a_foreign_adapter_is_refused(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        policy.load_adapter(tmp_path)
    assert (said(raised)[0], raised.value.where) == ("no adapter_model.safetensors in this folder", str(tmp_path))
    before = adapter(policy)
    load(ModelSettings(name="tiny", lora_rank=3), machine=Machine(), seed=0).save_adapter(tmp_path)
    with pytest.raises(ModelError) as raised:
        policy.load_adapter(tmp_path)
    assert said(raised)[0] == "this adapter belongs to another model or rank"
    assert same(adapter(policy), before)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as raised:
        policy.load_adapter(tmp_path)
    assert said(raised) == (
        "adapter_model.safetensors is damaged or not whole",
        "delete this folder, and the run's own command trains it again",
    )


def test_everything_that_changes_the_model_advances_the_version(policy: Policy, tmp_path: Path) -> None:
    policy.save_adapter(tmp_path)
    version = policy.version
    with policy.speaking(), policy.reading():
        pass
    assert policy.version == version
    for change in (lambda: policy.restart(seed=1), lambda: policy.load_adapter(tmp_path)):
        change()
        assert policy.version > version
        version = policy.version
    with pytest.raises(ZeroDivisionError), policy.changing() as model:
        assert policy.version > version, "what is computed while it changes is stale afterwards"
        inside = policy.version
        model.train()
        raise ZeroDivisionError
    assert policy.version > inside and not policy.model.training


def test_a_tokenizer_without_padding_gets_a_token_that_nothing_else_uses(tokenizer: Any, renderer: Renderer) -> None:
    from optima_lite.model.loading import _padding

    taken = {*renderer.end_ids, *renderer.written}
    found = tokenizer.convert_tokens_to_ids(_padding(tokenizer, taken=taken, vocabulary=len(tokenizer)))
    assert found not in taken and found in tokenizer.all_special_ids
    with pytest.raises(ModelError) as raised:
        _padding(tokenizer, taken=taken, vocabulary=found)  # the model has no such id
    assert said(raised) == ("its tokenizer has no token to pad with", "set pad_token in its tokenizer_config.json")
