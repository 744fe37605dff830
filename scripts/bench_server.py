"""A served run beside `transformers serve` on its merged export: messages of its roles, greedy, by 1, 8 and 32 clients.

    optima-lite export RUN MERGED --as merged
    python scripts/bench_server.py RUN --merged MERGED --transformers ENVIRONMENT/bin/transformers

The messages are those of the run's own greedy evaluation, each asked for with all that was said before it, dialogue by
dialogue; others for each number of clients, the same for every server. The served run is asked as a framework asks it;
the other server gets the messages in the very layout of training, which it does not know. Told are answers that are the
evaluation's, seconds of the server's processor and by the clock; without --merged only the served run is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from optima_lite.records import Rollouts, Turn, decode
from optima_lite.settings.recipe import Recipe
from optima_lite.team.prompts import Message, view
from optima_lite.team.talks import team_of

Chat = list[dict[str, str]]
Asked = tuple[str, Chat, Chat, Turn]
"""A message: who says it, what a framework sends, what was trained on, and what was said."""


def dialogues(run: Path) -> Iterator[list[Asked]]:
    """Those of the run's evaluation."""
    recipe = Recipe.from_dict(json.loads((run / "manifest.json").read_text())["recipe"], where=run)
    workflow = team_of(recipe)
    (path,) = sorted(run.glob("evaluation/iteration_*_greedy.jsonl"))[-1:]
    for line in path.read_bytes().splitlines():
        group = decode(Rollouts, line)
        question, turns = group.question, group.dialogues[0].turns
        messages = []
        for k, turn in enumerate(turns):
            facts = "\n".join(["Facts:", *(f"- {fact}" for fact in question.contexts[turn.speaker])])
            plain = [{"role": "system", "content": facts}, {"role": "user", "content": f"Question: {question.text}"}]
            plain += [as_said(workflow.names[one.speaker].lower(), one) for one in turns[:k]]
            trained = [as_text(one) for one in view(question, turns[:k], turn.speaker, workflow=workflow)]
            messages.append((workflow.names[turn.speaker].lower(), plain, trained, turn))
        yield messages


def as_said(name: str, turn: Turn) -> dict[str, str]:
    """A turn as frameworks send it."""
    return {"role": "assistant", "name": name, "content": turn.text}


def as_text(message: Message) -> dict[str, str]:
    """A message of the layout of training."""
    return {"role": message.role, "content": message.text + "".join(turn.text for turn in message.turns)}


class Server:
    """A server that runs. folder: the model that its clients name; empty: the roles of a run."""

    def __init__(self, command: Sequence[str], port: int, folder: str) -> None:
        self.port, self.folder = port, folder
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 600
        while not self._healthy():
            if time.monotonic() > until or self._process.poll() is not None:
                sys.exit(f"it does not begin to answer: {' '.join(command)}")
            time.sleep(0.5)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def seconds(self) -> float:
        """Of the processor, so far."""
        times = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def ask(self, one: Asked) -> str:
        """The next message."""
        role, plain, trained, _ = one
        body = {"model": self.folder or f"optima:{role}", "messages": trained if self.folder else plain}
        raw = json.dumps(body | {"temperature": 0, "max_tokens": 128}).encode()
        where, kind = f"http://127.0.0.1:{self.port}/v1/chat/completions", {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(where, raw, kind)) as answer:
                found: Any = json.load(answer)
        except urllib.error.HTTPError as error:
            return f"{error.code}"
        return str(found["choices"][0]["message"]["content"]).strip()

    def end(self) -> None:
        """Stops it."""
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def greedy(merged: Path) -> Iterator[str]:
    """An export that takes the likeliest tokens: `transformers serve` does not read a request's temperature."""
    with tempfile.TemporaryDirectory() as between:
        folder = Path(shutil.copytree(merged, Path(between) / "merged"))
        settings = json.loads((folder / "generation_config.json").read_text())
        plain = {name: value for name, value in settings.items() if name.endswith("_id")}
        (folder / "generation_config.json").write_text(json.dumps(plain | {"do_sample": False}))
        yield str(folder)


def main() -> None:
    """A line for each server and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--merged", type=Path)
    parser.add_argument("--transformers", default="transformers", help="the program of an environment with [serving]")
    parser.add_argument("--dialogues", type=int, default=32, help="for each number of clients")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--port", type=int, default=8900)
    given = parser.parse_args()
    wanted, counts = list(dialogues(given.run)), [*map(int, given.clients.split(","))]
    port = str(given.port)
    own = ["optima-lite", "serve", str(given.run), "--port", port, "--waiting", "64", "--seconds", "600"]
    own = [str(Path(sys.executable).with_name(own[0])), *own[1:]]
    with tempfile.TemporaryDirectory() if given.merged is None else greedy(given.merged) as folder:
        other = [*given.transformers.split(), "serve", folder, "--port", port, "--dtype", "float32", "--device", "cpu"]
        servers = {"optima-lite serve": (own, "")}
        if given.merged is not None:
            servers["transformers serve"] = (other, folder)
            servers["transformers serve --continuous-batching"] = ([*other, "--continuous-batching"], folder)
        for name, (command, model) in servers.items():
            server = Server(command, given.port, model)
            server.ask(wanted[-1][0])  # what happens once is not part of the measure
            for k, clients in enumerate(counts):
                part = wanted[k * given.dialogues : (k + 1) * given.dialogues]
                print(f"{name}, {clients} at once: {measured(server, part, clients)}", flush=True)
            server.end()


def measured(server: Server, wanted: Sequence[Sequence[Asked]], clients: int) -> str:
    """What so many clients are answered, each of whom goes through one dialogue after the other, and what it costs."""
    worked, began = server.seconds(), time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        said = list(pool.map(lambda dialogue: [server.ask(one) for one in dialogue], wanted))
    worked, took = server.seconds() - worked, time.monotonic() - began
    turns = [turn for dialogue in wanted for *_, turn in dialogue]
    same = sum(text == turn.text for text, turn in zip(chain(*said), turns, strict=True))
    told = f"{same} of {len(turns)} messages ({sum(len(turn.ids) for turn in turns)} tokens) are the evaluation's"
    return f"{told}, {worked:.1f} s of the processor, {took:.1f} s by the clock"


main()
