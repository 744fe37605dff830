"""Messages from a server with token ids in and out: the dialogues of this process, and words for a wrong answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import RunError  # noqa: E402
from optima_lite.learn.ranking import ranked  # noqa: E402
from optima_lite.learn.rollout import Agents, sample  # noqa: E402
from optima_lite.model.endpoint import Endpoint  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.remote import Remote  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings  # noqa: E402
from optima_lite.stage.cast import Cast  # noqa: E402
from optima_lite.tasks.questions import questions  # noqa: E402
from support import MACHINE, SMALL, assert_same_run, call, small_chunks  # noqa: E402


class OwnGenerator(ThreadingHTTPServer):
    """Answers as vLLM does, with this project's own generator. spoil: changes an answer before it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.policy = load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
        self.generator = Generator(self.policy, max_batch_tokens=8192)
        self.adapters: dict[str, Path] = {}
        self.loaded = "base"
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.spoil: Any = lambda answer, count: answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, path: str, body: dict[str, Any]) -> bytes:
        with self.lock:
            if path == "/v1/load_lora_adapter":
                self.adapters[body["lora_name"]] = Path(body["lora_path"])
                return b"Success"
            self.asked.append(body)
            self._wear(body["model"])
            sampling = Sampling(body["temperature"], body["top_p"], body["max_tokens"])
            (ids,) = self.generator.generate([body["prompt"]], sampling=sampling, keys=[body["seed"]])
            choice = {"index": 0, "text": "", "token_ids": list(ids)}
            whole = self.spoil({"object": "text_completion", "choices": [choice]}, len(self.asked))
            return json.dumps(whole).encode()

    def _wear(self, name: str) -> None:
        if name != self.loaded:
            if name == "base":
                self.policy.restart(seed=0)
            else:
                self.policy.load_adapter(self.adapters[name])
            self.loaded = name


class Handler(BaseHTTPRequestHandler):
    server: OwnGenerator

    def do_POST(self) -> None:
        data = self.server.answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[OwnGenerator]:
    server = OwnGenerator()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running: OwnGenerator) -> OwnGenerator:
    running.asked, running.adapters, running.spoil = [], {}, lambda answer, count: answer
    return running


def told_by(server: OwnGenerator, cast: Cast, folder: Path) -> Agents:
    endpoint = Endpoint([server.url], sleep=lambda seconds: None)
    remote = Remote(
        cast.policy, endpoint=endpoint, base="base", adapters=folder, max_batch_tokens=8192, max_cache_bytes=1 << 28
    )
    return replace(cast.team, generator=remote)


def test_dialogues_are_those_of_this_process(server: OwnGenerator, cast: Cast, tmp_path: Path) -> None:
    """Untrained by the base's name, then by a name for each state of the adapter, which is brought there once."""
    asked, agents = questions(cast.recipe.task, "train", 3, seed=0), told_by(server, cast, tmp_path)
    names = []
    for value in (0.0, 0.02, 0.02):
        with cast.policy.changing(), torch.no_grad():
            for weight in cast.policy.weights(cast.policy.worn):
                weight += value
        before = cast.meter.counts.sampled
        here = sample(cast.team, asked, rollouts=2, sampling=Sampling(1.0, 0.9, 16), seed=(0, 1))
        counted, between = cast.meter.counts.sampled - before, agents.generator.counts.sampled
        there = sample(agents, asked, rollouts=2, sampling=Sampling(1.0, 0.9, 16), seed=(0, 1))
        assert there == here
        assert agents.generator.counts.sampled - between == counted
        assert ranked(agents, there, settings=cast.recipe.reward) == ranked(
            cast.team, here, settings=cast.recipe.reward
        )
        names.append(server.asked[-1]["model"])
    assert names[0] == "base" and len({*names}) == 3
    assert len(server.adapters) == 2


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        ({}, "no token ids"),
        ({"token_ids": None, "text": "hello"}, "no token ids"),
        ({"token_ids": ["1"]}, "no numbers"),
        ({"token_ids": []}, "0 tokens"),
        ({"token_ids": [20] * 17}, "17 tokens"),
        ({"token_ids": [10**6]}, "does not have"),
        ({"token_ids": "end, more"}, "after the end"),
        ({"token_ids": "special"}, "never to sample"),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(
    spoiled: dict[str, Any], told: str, server: OwnGenerator, cast: Cast, tmp_path: Path
) -> None:
    agents = told_by(server, cast, tmp_path)
    ids = {"end, more": [cast.policy.end_ids[0], 20], "special": agents.generator.unsayable[:1]}
    named = spoiled.get("token_ids")
    choice = spoiled | ({"token_ids": ids[named]} if isinstance(named, str) else {})
    server.spoil = lambda answer, count: {"choices": [choice]} if count == 2 else answer
    prompts = [[20, 21], [22, 23], [24, 25]]
    with pytest.raises(RunError, match="the server answered with .*" + told):
        agents.generator.generate(prompts, sampling=Sampling(1.0, 1.0, 16), keys=[1, 2, 3])


@pytest.mark.slow
def test_a_whole_run_is_the_same_byte_for_byte(server: OwnGenerator, tmp_path: Path) -> None:
    small_chunks()
    recipe = SMALL.replace("min_reward: -9", "min_reward: -9, min_gap: 0")
    recipe += "schedule: isft-dpo\nsearch: {searches: 2, rollouts: 2}\ndpo: {questions: 2, epochs: 1, batch_size: 2}\n"
    (tmp_path / "small.yaml").write_text(recipe)
    told = f'[server]\nurls = ["{server.url}"]\nadapters = "{tmp_path}/adapters"\n'
    for name, more in (("here", ""), ("there", told)):
        (tmp_path / f"{name}.toml").write_text(MACHINE + f'run_folder = "{tmp_path}/{name}"\n{more}')
    fails = iter([False] * 40 + [True] + [False] * 10**6)

    def break_once(answer: Any, count: int) -> Any:
        return {"choices": []} if next(fails) else answer

    assert call("train", tmp_path / "small.yaml", "--config", tmp_path / "here.toml", "--quiet").code == 0
    server.spoil = break_once
    arguments = ("train", tmp_path / "small.yaml", "--config", tmp_path / "there.toml", "--quiet")
    first = call(*arguments)
    assert first.code == RunError.exit_code and "no token ids" in first.err
    assert call(*arguments).code == 0, "and the same command goes on"
    here, there = tmp_path / "here" / "small-seed0", tmp_path / "there" / "small-seed0"
    manifest = json.loads((there / "manifest.json").read_text())
    assert manifest.pop("sampler")["base"] == "base"
    (there / "manifest.json").write_bytes((here / "manifest.json").read_bytes())
    assert manifest == json.loads((here / "manifest.json").read_text())
    assert_same_run(there, here)
