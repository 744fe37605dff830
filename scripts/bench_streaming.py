"""What handing steps on as they are said saves in time: a stream against the same team handing on whole messages.

    python scripts/bench_streaming.py [--model tiny|30m] [--teams chain,tree,graph] [--steps 1,2,4,8] [--dialogues 1]

Every message has the same number of tokens, because the model has random weights and no token that ends anything; in a
stream it falls into steps of equal length. So both ways do the same work in another order, but where a stream's agents
answer more often than there are steps (the graph). The two, and the stream without a cache, take turns, so that a
passing load hits all of them; medians over the repetitions, of the clock and of the processor (one thread). Ratios over
1 mean that the stream is quicker. A line of JSON a case is added to --out, so that a long table can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from random_llama import write

from optima_lite.learn.rollout import Agents, sample
from optima_lite.model.generate import Generator
from optima_lite.model.loading import load
from optima_lite.model.policy import Policy
from optima_lite.model.render import Renderer
from optima_lite.model.sampling import Sampling, row_key
from optima_lite.records import Question
from optima_lite.settings.machine import Machine
from optima_lite.settings.recipe import ModelSettings
from optima_lite.settings.teams import shipped
from optima_lite.settings.workflow import Streaming, Workflow
from optima_lite.tasks.answers import Scoring
from optima_lite.tasks.world import questions
from optima_lite.team.dialogue import stand
from optima_lite.team.timeline import ticks, timeline

WAYS = ("stream", "serial", "uncached")  # the last is the stream without a cache
NEVER = "a text that no model says"


@dataclass(frozen=True)
class Case:
    """A team, how many steps its messages have, how many tokens they have, and how many dialogues there are at once."""

    team: str
    steps: int
    tokens: int
    dialogues: int

    def workflow(self, way: str) -> Workflow:
        """The team, its messages cut by length alone."""
        how = Streaming(steps=self.steps, marker=NEVER, step_tokens=self.tokens // self.steps, at_most=64)
        return replace(shipped(self.team), transfer="serial" if way == "serial" else "stream", stream=how)


def main() -> None:
    """Measures every case and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "30m"), default="tiny", help="shape of the random model")
    parser.add_argument("--teams", default="chain,tree,graph")
    parser.add_argument("--steps", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=64, help="of a message")
    parser.add_argument("--dialogues", default="1", help="at once; several with commas between")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench_streaming.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    policy = make_policy(given.model)
    print(f"{'case':<26} {'ticks':>9} {'clock':>6} {'cpu':>6} {'first':>6} {'reused':>7} {'cache':>6} {'tokens':>7}")
    for dialogues in map(int, given.dialogues.split(",")):
        for team in given.teams.split(","):
            for steps in map(int, given.steps.split(",")):
                found = measure(policy, Case(team, steps, given.tokens, dialogues), given.repetitions)
                found |= {"model": given.model, "threads": given.threads}
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
                print(line(found), flush=True)


def make_policy(shape: str) -> Policy:
    """A random model of that shape, with the bundled words, none of which ends a message."""
    with tempfile.TemporaryDirectory() as folder:
        write(shape, Path(folder))
        policy = load(ModelSettings(name=folder), machine=Machine(), seed=0)
    return replace(policy, end_ids=(1 << 30,), max_length=1 << 14)


def measure(policy: Policy, case: Case, repetitions: int) -> dict[str, Any]:
    """The medians of one case, and what does not change from one repetition to the next."""
    seconds: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    facts: dict[str, Any] = {}
    for _ in range(repetitions):
        for way in WAYS:
            times, counted = once(policy, case, way)
            seconds[way].append(times)
            facts[way] = counted
    clock, cpu, first = ({way: statistics.median(times[k] for times in seconds[way]) for way in WAYS} for k in range(3))
    return {
        "team": case.team,
        "steps": case.steps,
        "message": case.tokens,
        "dialogues": case.dialogues,
        "repetitions": repetitions,
        "ticks": [facts["stream"]["ticks"], facts["serial"]["ticks"]],
        "seconds": {way: round(clock[way], 3) for way in WAYS},
        "clock": round(clock["serial"] / clock["stream"], 3),
        "cpu": round(cpu["serial"] / cpu["stream"], 3),
        "first": round(first["serial"] / first["stream"], 3),
        "cache": round(clock["uncached"] / clock["stream"], 3),
        "sampled": [facts["stream"]["sampled"], facts["serial"]["sampled"]],
        "computed": [facts["stream"]["computed"], facts["serial"]["computed"]],
        "reused": round(facts["stream"]["reused"] / (facts["stream"]["reused"] + facts["stream"]["computed"]), 3),
    }


def once(policy: Policy, case: Case, way: str) -> tuple[tuple[float, float, float], dict[str, int]]:
    """Seconds by the clock, of the processor, and until the answer of the last dialogue begins; and the counts."""
    room = 0 if way == "uncached" else 1 << 31
    generator = Generator(policy, max_batch_tokens=1 << 20, max_cache_bytes=room)
    team = case.workflow(way)
    agents = Agents(generator, Renderer(policy.tokenizer, end_ids=policy.end_ids), team, Scoring("f1", None, None))
    spoke: dict[int, float] = {}
    generator.hear = lambda key: spoke.setdefault(key, time.perf_counter()) and None
    asked = list(about(case.dialogues))
    began, worked = time.perf_counter(), time.process_time()
    groups = sample(agents, asked, rollouts=1, sampling=Sampling(1.0, 1.0, 4 * case.tokens), seed=("bench",))
    clock, cpu = time.perf_counter() - began, time.process_time() - worked
    talks = [group.dialogues[0] for group in groups]
    answer = len(talks[0].turns) - 1
    if team.streams:
        answer = [beat.name for beat in stand(talks[0].turns, team).stream.beats].index(team.answer[0])
    first = max(spoke[row_key("bench", question.id, 0, answer)] for question in asked) - began
    counts = generator.counts
    counted = {"sampled": counts.sampled, "computed": counts.computed, "reused": counts.reused}
    return (clock, cpu, first), {"ticks": ticks(timeline(talks[0], team)), **counted}


def about(count: int) -> Iterator[Question]:
    """So many different questions of the bundled task."""
    yield from questions("train", count, seed=0)


def line(found: dict[str, Any]) -> str:
    """A case for the eye."""
    name = f"{found['team']} S={found['steps']}, {found['dialogues']} at once"
    stream, serial = found["ticks"]
    tokens = found["sampled"][0] / found["sampled"][1]
    ratios = " ".join(f"{found[key]:>6.2f}" for key in ("clock", "cpu", "first"))
    return f"{name:<26} {stream:>4}/{serial:<4} {ratios} {found['reused']:>7.0%} {found['cache']:>6.2f} {tokens:>7.2f}"


if __name__ == "__main__":
    main()
