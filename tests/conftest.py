"""What every test shares: no network, one thread, plain terminal output, and skips for what a machine may lack."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from optima_lite.model.policy import Policy
    from optima_lite.model.render import Renderer
    from optima_lite.stage.cast import Cast
    from support import Finished

# Set before any test imports a library that reads them; subprocesses inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    NO_COLOR="1",
    COLUMNS="120",
)
for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS"):  # each makes rich or typer colour its output
    os.environ.pop(name, None)

# A job in the background of a script ignores Ctrl-C, and so would everything that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Put torch back to one thread after each test; never the reason that torch is imported."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_process() -> Iterator[None]:
    """No test has a second process do its work unless it asks for one: to start it costs more than it can save."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optima_lite.model.second.cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with rows of the real benchmarks, named in OPTIMA_LITE_REAL_DATA; few machines have it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("OPTIMA_LITE_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real benchmark rows here: name their folder in OPTIMA_LITE_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The bundled model's tokenizer."""
    from transformers import AutoTokenizer

    from optima_lite.model.checkpoint import bundled

    return AutoTokenizer.from_pretrained(bundled(), local_files_only=True)


@pytest.fixture(scope="session")
def renderer(tokenizer: Any) -> Renderer:
    """Renders for the bundled model, which has both ends of Llama 3."""
    from optima_lite.model.render import Renderer

    return Renderer(tokenizer, end_ids=tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"]))


@pytest.fixture
def policy() -> Policy:
    """The bundled model with a new adapter."""
    from optima_lite.model.loading import load
    from optima_lite.settings.machine import Machine
    from optima_lite.settings.sections import ModelSettings

    return load(ModelSettings(name="tiny"), machine=Machine(), seed=0)


@pytest.fixture
def cast(tmp_path: Path) -> Cast:
    """The agents of `support.SMALL`, ready to talk."""
    from optima_lite.settings.config import load_recipe
    from optima_lite.settings.machine import Machine
    from optima_lite.stage.cast import assemble
    from support import SMALL

    (tmp_path / "small.yaml").write_text(SMALL)
    recipe = load_recipe(tmp_path / "small.yaml").recipe
    machine = Machine(threads=1, max_batch_tokens=8192)
    return assemble(recipe, machine=machine, settle=lambda key, choose: choose())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run, for reading only: copy the folder to change it."""
    from support import MACHINE, SMALL, Finished, call, small_chunks

    home = tmp_path_factory.mktemp("finished")
    (home / "small.yaml").write_text(SMALL)
    (home / "machine.toml").write_text(MACHINE + f'run_folder = "{home}"\n')
    arguments = (str(home / "small.yaml"), "--config", str(home / "machine.toml"))
    small_chunks()
    outcome = call("train", *arguments)
    assert outcome.code == 0, outcome.err
    return Finished(home / "small-seed0", arguments, outcome.out)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is no GPU; torch is asked only when such a test is about to run."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")
