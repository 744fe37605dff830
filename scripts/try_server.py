"""Asks a served run hard, and says what came of it: load, cancellation, and clients that behave badly.

    optima-lite serve RUN --port 8000 --waiting 64 &
    python scripts/try_server.py RUN --port 8000 [--pid PID] [--only load,cancelled,full,bodies,idle,slow,key,forgotten]

Every answer is compared with the run's own greedy evaluation, dialogue by dialogue. Load is told in slices, the times
that the batch went on by a few tokens, and with --pid in seconds of the server's processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from optima_lite.records import Question, Rollouts, decode


class Asked:
    """A server, and the dialogues that it is to hold."""

    def __init__(self, run: Path, port: int, pid: int | None, dialogues: int) -> None:
        (path,) = sorted(run.glob("evaluation/iteration_*_greedy.jsonl"))[-1:]
        self.groups = [decode(Rollouts, line) for line in path.read_bytes().splitlines()]
        self.port, self.pid, self.dialogues = port, pid, dialogues

    def body(self, question: Question, **more: Any) -> dict[str, Any]:
        facts = [list(share) for share in question.contexts]
        messages = [{"role": "user", "content": question.text}]
        return {"model": "optima", "temperature": 0, "messages": messages, "optima": {"facts": facts}} | more

    async def send(self, raw: bytes, *, path: str = "/v1/chat/completions", method: str = "POST") -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        try:
            writer.write(head.encode())
            try:
                for start in range(0, len(raw), 1 << 16):
                    writer.write(raw[start : start + (1 << 16)])
                    await writer.drain()
            except ConnectionError:
                pass  # it has heard enough; what it says about that is still to be read
            try:
                answer = await reader.read()
            except ConnectionResetError:
                return 0, b""
        finally:
            writer.close()
        top, _, body = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]) if top else 0, body

    async def ask(self, k: int, **more: Any) -> bool:
        """Whether a dialogue is the run's own, token for token as far as texts and counts show."""
        group = self.groups[k % len(self.groups)]
        status, raw = await self.send(json.dumps(self.body(group.question, **more)).encode())
        if status != 200:
            return False
        said = [(turn["content"], turn["tokens"]) for turn in json.loads(raw)["optima"]["dialogue"]]
        return said == [(turn.text, len(turn.ids)) for turn in group.dialogues[0].turns]

    async def metric(self, name: str) -> float:
        """A number of `/metrics`."""
        _, raw = await self.send(b"", path="/metrics", method="GET")
        found = re.search(rf"^{name} (\S+)$", raw.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def processor(self) -> float:
        """Seconds that the server has computed; 0 where its process is not named."""
        if self.pid is None:
            return 0.0
        times = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    async def rest(self) -> str:
        """What is left once nothing is under way, with memory and threads."""
        for _ in range(300):
            owed, running = [await self.metric(f"optima_lite_{one}") for one in ("choices_unanswered", "rows_running")]
            if not owed and not running:
                break
            await asyncio.sleep(0.1)
        left = f"owed {owed:.0f}, rows {running:.0f}, load {await self.metric('optima_lite_cache_load'):.2f}"
        if self.pid is None:
            return left
        status = Path(f"/proc/{self.pid}/status").read_text()
        memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
        files = len(os.listdir(f"/proc/{self.pid}/fd"))
        return f"{left}, {memory // 1024} MiB, {threads} threads, {files} open files"


async def at_most(count: int, works: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Works, so many at a time."""
    room = asyncio.Semaphore(count)

    async def one(work: Callable[[], Awaitable[Any]]) -> Any:
        async with room:
            return await work()

    return await asyncio.gather(*map(one, works))


async def load(asked: Asked) -> None:
    """Dialogues by 1, 8 and 32 clients."""
    count = asked.dialogues
    for round, clients in enumerate((1, 8, 32)):  # other questions each time, which the cache does not know
        before, worked, began = await asked.metric("optima_lite_slices_total"), asked.processor(), time.monotonic()
        same = await at_most(clients, [lambda k=k: asked.ask(k) for k in range(round * count, (round + 1) * count)])
        slices = await asked.metric("optima_lite_slices_total") - before
        print(
            f"load: {clients} at once: {sum(same)} of {count} the run's own, {slices:.0f} slices, "
            f"{asked.processor() - worked:.1f} s of the processor, {time.monotonic() - began:.1f} s by the clock",
            flush=True,
        )


async def cancelled(asked: Asked) -> None:
    """1,000 requests, every tenth of which goes away in the middle."""
    gone = 0

    async def one(k: int) -> bool:
        nonlocal gone
        if k % 10:
            return await asked.ask(k)
        try:
            async with asyncio.timeout(0.02 * (1 + k // 10 % 20)):
                await asked.ask(k, stream=bool(k % 20))
        except TimeoutError:
            gone += 1
        return True

    print("cancelled: before:", await asked.rest())
    same = await at_most(32, [lambda k=k: one(k) for k in range(1000)])
    print(
        f"cancelled: {gone} of 1000 went away, {sum(same) - 100} of the other 900 are the run's own;",
        await asked.rest(),
        flush=True,
    )


async def full(asked: Asked) -> None:
    """More at once than may wait."""
    raw = json.dumps(asked.body(asked.groups[0].question)).encode()
    found = await asyncio.gather(*(asked.send(raw) for _ in range(200)))
    statuses = [status for status, _ in found]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(f"full: 200 at once: {counts};", await asked.rest(), flush=True)


async def bodies(asked: Asked) -> None:
    """100 MB, in one piece."""
    began = await asked.rest()
    status, body = await asked.send(b" " * 100_000_000)
    print(f"bodies: 100 MB: {status} {body.decode()[:60]}; before: {began}; after: {await asked.rest()}")


async def idle(asked: Asked) -> None:
    """1,000 connections that say nothing, and one that asks."""
    lines = [await asyncio.open_connection("127.0.0.1", asked.port) for _ in range(1000)]
    began = time.monotonic()
    same = await asked.ask(0)
    print(f"idle: beside 1000 connections: {same} after {time.monotonic() - began:.2f} s;", await asked.rest())
    for _, writer in lines:
        writer.close()
    await asyncio.sleep(1)
    print("idle: afterwards:", await asked.rest(), flush=True)


async def slow(asked: Asked) -> None:
    """20 who send a byte a second and 20 who do not read what they get, and the others."""
    raw = json.dumps(asked.body(asked.groups[0].question, stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n".encode()
    head += b"Content-Type: application/json\r\n\r\n"
    writers = []
    for k in range(40):
        _, writer = await asyncio.open_connection("127.0.0.1", asked.port)
        writer.write(head + (raw if k % 2 else raw[:10]))
        writers.append(writer)
    same = []
    for second in range(5):
        same += await asyncio.gather(*(asked.ask(k) for k in range(8 * second, 8 * second + 8)))
        for writer in writers[::2]:
            writer.write(raw[10 + second : 11 + second])
    print(f"slow: beside 40 slow clients {sum(same)} of {len(same)} are the run's own", flush=True)
    for writer in writers:
        writer.close()
    print("slow: afterwards:", await asked.rest(), flush=True)


async def key(asked: Asked) -> None:
    """Without a key."""
    status, body = await asked.send(json.dumps(asked.body(asked.groups[0].question)).encode())
    print(f"key: {status} {body.decode()[:120]}")


async def forgotten(asked: Asked) -> None:
    """Messages that follow on what this server has not said itself, as after a restart: each dialogue backwards."""
    _, raw = await asked.send(b"", path="/v1/models", method="GET")
    roles = [one["id"] for one in json.loads(raw)["data"]][2:]

    async def one(k: int) -> list[bool]:
        group, same = asked.groups[k], []
        turns, question = group.dialogues[0].turns, {"role": "user", "content": f"Question: {group.question.text}"}
        for last in range(len(turns) - 1, 0, -1):
            speaker = turns[last].speaker
            facts = "\n".join(["Facts:", *(f"- {fact}" for fact in group.question.contexts[speaker])])
            names = [roles[turn.speaker].partition(":")[2] for turn in turns]
            said = [{"role": "assistant", "name": names[j], "content": turns[j].text} for j in range(last)]
            messages = [{"role": "system", "content": facts}, question, *said]
            body = {"model": roles[speaker], "temperature": 0, "messages": messages}
            _, raw = await asked.send(json.dumps(body).encode())
            same.append(json.loads(raw)["choices"][0]["message"]["content"] == turns[last].text)
        return same

    count = min(asked.dialogues, len(asked.groups))
    found = [same for dialogue in await at_most(8, [lambda k=k: one(k) for k in range(count)]) for same in dialogue]
    print(f"forgotten: {sum(found)} of {len(found)} messages of {count} dialogues are the run's own", flush=True)


async def main() -> None:
    """All checks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--only", default="load,cancelled,full,bodies,idle,slow")
    parser.add_argument("--dialogues", type=int, default=64, help="of each load")
    given = parser.parse_args()
    asked = Asked(given.run, given.port, given.pid, given.dialogues)
    for name in given.only.split(","):
        checks = (load, cancelled, full, bodies, idle, slow, key, forgotten)
        await {check.__name__: check for check in checks}[name](asked)


asyncio.run(main())
