"""How a download goes wrong, and what is refused before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optima_lite.errors import ModelError
from optima_lite.settings.machine import Machine
from optima_lite.settings.sections import ModelSettings

NAME = "somebody/llama"


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
    from optima_lite.model.hub import download

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
    assert refused()[0] == "cannot train QwenForCausalLM"
    assert [file for file, _ in hub.calls] == ["config.json"]


def test_a_model_of_the_hub_is_loaded_from_the_folder_it_was_fetched_to(hub: Hub) -> None:
    from optima_lite.model.checkpoint import bundled
    from optima_lite.model.loading import load

    hub.folder = bundled()
    assert load(ModelSettings(name=NAME), machine=Machine(), seed=0).max_length == 1024
    assert hub.calls[-1] == (
        "all",
        {"allow_patterns": ["*.json", "*.safetensors", "*.jinja"], "local_files_only": False},
    )
