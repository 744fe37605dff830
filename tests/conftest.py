"""What every test shares: no network, one thread, plain terminal output, and skips for what a machine may lack."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from optima_lite.model.resources import kept

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

# The same examples every time; OPTIMA_LITE_SEARCH=1 looks for new ones.
settings.register_profile("ours", deadline=None, derandomize=not os.environ.get("OPTIMA_LITE_SEARCH"))
settings.load_profile("ours")


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


@pytest.fixture(scope="session")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Cast:
    """The agents of `support.SMALL`, as a start makes them; not to be touched."""
    from optima_lite.settings.config import load_recipe
    from optima_lite.settings.machine import Machine
    from optima_lite.stage.cast import assemble
    from support import SMALL

    path = tmp_path_factory.mktemp("assembled") / "small.yaml"
    path.write_text(SMALL)
    machine = Machine(threads=1, max_batch_tokens=8192)
    return assemble(load_recipe(path).recipe, machine=machine, settle=lambda key, choose: choose())


@pytest.fixture
def cast(assembled: Cast) -> Cast:
    """The agents of `support.SMALL`, ready to talk. A copy takes a twentieth of the time of a start."""
    from support import copied

    return copied(assembled)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run, for reading only: copy the folder to change it. All processes of the tests share the work for it,
    and each has a copy of its own, since a run belongs to one process at a time."""
    from filelock import FileLock

    from support import finish

    home = tmp_path_factory.mktemp("finished")
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "shared"
    with FileLock(shared.with_suffix(".lock")):
        made = finish(shared)
    shutil.copytree(shared, home, symlinks=True, dirs_exist_ok=True)
    return made.at(home)


LONGEST = (  # files, those with the most seconds first, so that at the end no process waits long for another
    "methods/test_loop.py",
    "methods/test_preference.py",
    "model/test_families.py",
    "learn/test_rollout.py",
    "stage/test_baselines.py",
    "test_bench.py",
    "cli/test_cli.py",
    "learn/test_teams.py",
    "test_hostile.py",
    "methods/test_market_run.py",
    "methods/test_whole_run.py",
    "methods/test_prompts_run.py",
    "model/test_selftest.py",
    "stage/test_crew.py",
    "outlets/test_export.py",
    "learn/test_dpo.py",
    "learn/test_halving.py",
    "learn/test_sft.py",
    "learn/test_rl.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    tests = Path(__file__).parent
    rank = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the tests import stays: else every clean-up after a training step would look through it."""
    with kept():
        return (yield)


def pytest_collection_finish() -> None:
    """The bundled models go through the self-test once in each process, not at every start in it."""
    if cast := sys.modules.get("optima_lite.stage.cast"):
        from support import once_for_each_model

        cast.agreement = once_for_each_model(cast.agreement)  # type: ignore[attr-defined]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is no GPU; torch is asked only when such a test is about to run."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")
