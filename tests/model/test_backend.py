"""Which library loads the model, what is said when it is another than was asked for, and how a download goes wrong."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optima_lite.errors import ModelError
from optima_lite.model import backend
from optima_lite.model.backend import Backend, decide
from optima_lite.settings.config import Machine, ModelSettings

NAME = "somebody/llama"
Unsloth = Callable[..., None]


@pytest.fixture
def unsloth(monkeypatch: pytest.MonkeyPatch) -> Unsloth:
    """Makes Unsloth seem installed on a machine with or without a GPU; its import may raise."""
    torch = pytest.importorskip("torch")

    def install(*, gpu: bool = True, error: Exception | None = None) -> None:
        class Finder:
            def find_spec(self, name: str, *others: Any) -> Any:
                return importlib.machinery.ModuleSpec(name, self) if name == "unsloth" else None  # type: ignore[arg-type]

            def create_module(self, spec: Any) -> types.ModuleType:
                return types.ModuleType(spec.name)

            def exec_module(self, module: types.ModuleType) -> None:
                print("a banner")
                if error:
                    raise error

        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
        monkeypatch.delitem(sys.modules, "unsloth", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    yield install
    sys.modules.pop("unsloth", None)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None if name == "unsloth" else real(name))


def test_plain_transformers_is_used_without_a_word_where_unsloth_is_not_installed(bare: None) -> None:
    assert decide("auto") == decide("transformers") == Backend("transformers", None)


def test_unsloth_that_was_asked_for_and_is_not_there_is_told(bare: None) -> None:
    assert decide("unsloth") == Backend(
        "transformers", "plain transformers instead of Unsloth: it is not installed (pip install 'optima-lite[gpu]')"
    )


@pytest.mark.parametrize("wanted", ["auto", "unsloth"])
def test_unsloth_is_used_where_it_works(wanted: str, unsloth: Unsloth, capsys: pytest.CaptureFixture[str]) -> None:
    unsloth()
    assert decide(wanted) == Backend("unsloth", None)
    assert capsys.readouterr().out == "", "its banner would spoil --json"


def test_unsloth_is_not_even_imported_when_it_is_not_wanted(unsloth: Unsloth) -> None:
    unsloth()
    assert decide("transformers") == Backend("transformers", None)
    assert "unsloth" not in sys.modules


def test_unsloth_needs_a_gpu(unsloth: Unsloth) -> None:
    unsloth(gpu=False)
    why = "plain transformers instead of Unsloth: it needs a GPU, and torch finds none"
    assert decide("auto") == Backend("transformers", why)
    assert "unsloth" not in sys.modules


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("operator torchvision::nms does not exist\nmore"), "operator torchvision::nms does not exist"),
        (
            NotImplementedError("Unsloth cannot find any torch accelerator?"),
            "Unsloth cannot find any torch accelerator?",
        ),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_import_that_fails_is_one_line(error: Exception, reason: str, unsloth: Unsloth) -> None:
    unsloth(error=error)
    assert decide("auto") == Backend(
        "transformers", f"plain transformers instead of Unsloth: its import fails ({reason})"
    )


def test_the_reason_reaches_whoever_loads_a_model(bare: None) -> None:
    from optima_lite.model.policy import load

    machine = Machine(backend="unsloth")
    (note,) = load(ModelSettings(name="tiny"), machine=machine, seed=0).notes
    assert note.startswith("plain transformers instead of Unsloth: ")
    assert load(ModelSettings(name="tiny"), machine=Machine(backend="transformers"), seed=0).notes == ()


# --- The hub --------------------------------------------------------------------------------------


class Hub:
    """Stands in for the hub's client: a folder, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = pytest.importorskip("huggingface_hub")
        self.error: Exception | None = None
        self.folder: Path | None = None
        self.calls: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(hub, "hf_hub_download", self.file)
        monkeypatch.setattr(hub, "snapshot_download", self.snapshot)

    def file(self, name: str, file: str, **options: Any) -> str:
        self.calls.append((file, options))
        if self.error:
            raise self.error
        return str(self.folder / file) if self.folder else ""

    def snapshot(self, name: str, **options: Any) -> str:
        self.calls.append(("all", options))
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


def refused(offline: bool = False) -> tuple[str, str | None, str | None]:
    from optima_lite.model.policy import download

    with pytest.raises(ModelError) as raised:
        download(NAME, offline=offline)
    return raised.value.what, raised.value.where, raised.value.hint


def hub_error(kind: str, message: str = "no") -> Exception:
    import huggingface_hub.errors as errors

    error_type = getattr(errors, kind)
    error = error_type.__new__(error_type)  # their constructors want the server's whole response
    Exception.__init__(error, message)
    return error


def test_a_gated_model_says_where_to_ask_and_what_needs_no_asking(hub: Hub) -> None:
    hub.error = hub_error("GatedRepoError")
    assert refused() == (
        "this model is gated, and your account has no access to it",
        NAME,
        "ask for access at https://huggingface.co/somebody/llama, then `hf auth login`; "
        "or an ungated model, such as unsloth/llama-3-8b-Instruct-bnb-4bit",
    )


@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "HFValidationError"])
def test_a_model_that_is_not_there(kind: str, hub: Hub) -> None:
    hub.error = hub_error(kind)
    what, _, hint = refused()
    assert what == "there is no such model on the Hugging Face hub, or it is private"
    assert hint == "check the name at https://huggingface.co/somebody/llama"


@pytest.mark.parametrize("kind", ["LocalEntryNotFoundError", "OfflineModeIsEnabled"])
def test_no_network(kind: str, hub: Hub) -> None:
    hub.error = hub_error(kind)
    what, _, hint = refused()
    assert what == "the Hugging Face hub cannot be reached, and this model is not in the local cache"
    assert hint == "name a folder with the model in it, or an alias of one in optima_lite.toml; or go online once"
    assert refused(offline=True)[0] == "`offline` is set, and this model is not in the local cache"
    assert hub.calls[-1][1] == {"local_files_only": True}


def test_a_repository_without_a_config(hub: Hub) -> None:
    hub.error = hub_error("RemoteEntryNotFoundError")
    assert refused()[0] == "this model has no config.json, so it is not one for transformers"


def test_a_download_that_breaks_off(hub: Hub) -> None:
    hub.error = OSError(28, "No space left on device")
    assert refused()[0] == "the download broke off: [Errno 28] No space left on device"
    hub.error = hub_error("HfHubHTTPError", "503 Server Error\nRequest ID: 7")
    what, _, hint = refused()
    assert (what, hint) == (
        "the download broke off: 503 Server Error",
        "try again; the files that are complete are kept",
    )


def test_another_architecture_is_refused_before_its_gigabytes_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.folder = tmp_path
    (tmp_path / "config.json").write_text('{"architectures": ["QwenForCausalLM"]}')
    assert refused()[0] == "not a Llama but QwenForCausalLM"
    assert [file for file, _ in hub.calls] == ["config.json"]


def test_a_model_of_the_hub_is_loaded_from_the_folder_it_was_fetched_to(hub: Hub) -> None:
    from optima_lite.model.policy import bundled, load

    hub.folder = bundled()
    assert load(ModelSettings(name=NAME), machine=Machine(), seed=0).max_length == 1024
    assert hub.calls[-1] == (
        "all",
        {"allow_patterns": ["*.json", "*.safetensors", "*.jinja"], "local_files_only": False},
    )
