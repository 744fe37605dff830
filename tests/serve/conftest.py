"""A server in this process, for all tests of this folder, and who asks it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from asking import ASKED, KEY, WAITING, Site

from support import SMALL

if TYPE_CHECKING:
    from optima_lite.stage.cast import Cast


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Cast:
    """The agents of `support.SMALL`, in double precision: then no batch can change a choice."""
    pytest.importorskip("torch")
    from optima_lite.settings.config import load_recipe
    from optima_lite.settings.machine import Machine
    from optima_lite.stage.cast import assemble

    recipe = tmp_path_factory.mktemp("serve") / "small.yaml"
    recipe.write_text(SMALL)
    machine = Machine(threads=1, max_batch_tokens=8192)
    cast = assemble(load_recipe(recipe).recipe, machine=machine, settle=lambda key, choose: choose())
    cast.policy.model.double()
    cast.team.generator.__init__(cast.policy, max_batch_tokens=8192)  # type: ignore[misc]
    return cast


@pytest.fixture(scope="session")
def site(agents: Cast) -> Iterator[Site]:
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    from optima_lite.serve.address import Limits, bound
    from optima_lite.serve.app import application
    from optima_lite.serve.running import service_of
    from optima_lite.stage.asking import Team

    team = Team(agents)
    wanted = [team.ask(question) for question in ASKED] + [
        team.ask(ASKED[0].text, ASKED[0].contexts, sample=True, seed=5)
    ]
    service = service_of(agents, Limits(WAITING, 4096, 30, key=KEY), name="optima", fingerprint="a run")
    server = uvicorn.Server(uvicorn.Config(application(service), log_level="warning", access_log=False))
    taken = bound("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[taken])))
    thread.start()
    site = Site(service, taken.getsockname()[1], wanted)
    while not server.started:
        time.sleep(0.01)
    yield site
    site.quiet()
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive() and not service.engine.is_alive() and not service.engine.failed
    taken.close()
