"""What handing steps on as they are said saves in time: a stream against the same team handing on whole messages.

    python scripts/bench_streaming.py [--model tiny|30m] [--teams chain,tree,graph] [--steps 1,2,4,8] [--dialogues 1]

Every message has the same number of tokens, because the model has random weights and no token that ends anything; in a
stream it falls into steps of equal length. So both ways do the same work in another order, but where a stream's agents
answer more often than there are steps (the graph). The two, and with --uncached the stream without a cache, take turns,
so that a passing load hits all of them. Each repetition adds its seconds, by the clock and of the processor (one
thread), to --out, so that a long table can be made in pieces; what is printed are the medians, over all repetitions in
that file, of the ratios within one. Ratios over 1 mean that the stream is quicker.

--room measures no time: it counts the tokens that a chain of four sends through the model, ten dialogues about each
question with 1,600 tokens of facts, when the cache has the room that 2 GiB are for an 8B (see room.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import room
import torch
from random_llama import write

from optima_lite.learn.rollout import Agents, sample
from optima_lite.model.generate import Generator
from optima_lite.model.loading import load
from optima_lite.model.memory import MOST_TOKENS
from optima_lite.model.policy import Policy
from optima_lite.model.render import Renderer
from optima_lite.model.sampling import Sampling, row_key
from optima_lite.records import Question
from optima_lite.settings.machine import Machine
from optima_lite.settings.sections import ModelSettings
from optima_lite.settings.teams import shipped
from optima_lite.settings.workflow import Streaming, Workflow
from optima_lite.tasks.answers import Scoring
from optima_lite.tasks.world import questions
from optima_lite.team.dialogue import stand
from optima_lite.team.timeline import ticks, timeline

WAYS = ("stream", "serial", "uncached")  # the last is the stream without a cache, which --uncached asks for
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
    parser.add_argument("--uncached", action="store_true", help="the stream without a cache, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--room", type=int, help="count tokens only, of so many questions with the cache of an 8B")
    parser.add_argument("--out", type=Path, default=Path("bench_streaming.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.room:
        print(room_of_an_8b(given.room))
        return
    policy = make_policy(given.model)
    for _ in range(given.repetitions):
        for dialogues in map(int, given.dialogues.split(",")):
            for team in given.teams.split(","):
                for steps in map(int, given.steps.split(",")):
                    found = measure(
                        policy, Case(team, steps, given.tokens, dialogues), WAYS if given.uncached else WAYS[:2]
                    )
                    with given.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"model": given.model, "threads": given.threads, **found}) + "\n")
    print_table([json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()])


def make_policy(shape: str) -> Policy:
    """A random model of that shape, with the bundled words, none of which ends a message."""
    with tempfile.TemporaryDirectory() as folder:
        write(shape, Path(folder))
        policy = load(ModelSettings(name=folder), machine=Machine(), seed=0)
    return replace(policy, end_ids=(1 << 30,), max_length=1 << 14)


def measure(policy: Policy, case: Case, ways: Sequence[str]) -> dict[str, Any]:
    """One repetition of a case: seconds of each way, and what was counted."""
    return {**asdict(case), **{way: once(policy, case, way) for way in ways}}


def once(policy: Policy, case: Case, way: str) -> dict[str, float]:
    """Seconds by the clock, of the processor, and until the answer of the last dialogue begins; and the counts."""
    room = 0 if way == "uncached" else 1 << 31
    generator = Generator(policy, max_batch_tokens=1 << 20, max_cache_bytes=room)
    team = case.workflow(way)
    agents = Agents(generator, Renderer(policy.tokenizer, end_ids=policy.end_ids), team, Scoring("f1", None, None))
    words, sayable = len(policy.tokenizer), policy.model.get_base_model().config.vocab_size
    generator.unsayable = sorted({*generator.unsayable, *range(words, sayable)})  # they are no text, so no step
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
    return {"clock": clock, "cpu": cpu, "first": first, "ticks": ticks(timeline(talks[0], team)), **counted}


def room_of_an_8b(count: int) -> str:
    """Tokens computed for each dialogue, with an 8B's room for the cache, with all that it can use, and with none."""
    policy, asked = room.make_policy(), room.make_questions(count)
    layers, heads, width = policy.cache_shape
    token = 2 * layers * heads * width * policy.model.dtype.itemsize
    how = Streaming(steps=4, marker=NEVER, step_tokens=room.LONGEST // 4)
    team = replace(shipped("chain"), transfer="stream", stream=how)
    found = {}
    for name, tokens in (("8B's room", room.ROOM), ("unlimited", 1 << 26), ("no cache", 0)):
        generator = Generator(policy, max_batch_tokens=MOST_TOKENS, max_cache_bytes=tokens * token)
        agents = Agents(generator, Renderer(policy.tokenizer, end_ids=policy.end_ids), team, Scoring("f1", None, None))
        sample(agents, asked[: 1 if not tokens else None], rollouts=room.ROLLOUTS, sampling=room.SAMPLING, seed=(0,))
        dialogues = room.ROLLOUTS * (count if tokens else 1)
        found[name] = (generator.counts.computed / dialogues, generator.counts.sampled / dialogues)
    return "\n".join(
        f"{name:<10} {read:9.1f} tokens computed, {said:6.1f} sampled" for name, (read, said) in found.items()
    )


def about(count: int) -> Iterator[Question]:
    """So many different questions of the bundled task, without their facts: what is read costs both ways the same."""
    for question in questions("train", count, seed=0):
        yield replace(question, contexts=((), ()))


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """A line for each case that has been measured."""
    columns = ("clock", "cpu", "first", "reused", "no cache", "tokens", "repeated")
    print(f"{'case':<34} {'ticks':>9} " + " ".join(f"{name:>8}" for name in columns))
    keys = ("model", "team", "dialogues", "tokens", "steps")
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in lines:
        cases.setdefault(tuple(one[key] for key in keys), []).append(one)
    for (model, team, dialogues, tokens, steps), found in sorted(cases.items()):
        name = f"{model} {team}, {dialogues} at once, {tokens}/{steps}"
        stream, serial = found[0]["stream"], found[0]["serial"]
        ratios = [
            _median([one[over][kind] / one["stream"][kind] for one in found if over in one])
            for over, kind in (("serial", "clock"), ("serial", "cpu"), ("serial", "first"), ("uncached", "cpu"))
        ]
        reused = stream["reused"] / (stream["reused"] + stream["computed"])
        tokens = stream["sampled"] / serial["sampled"]
        shown = [*ratios[:3], f"{reused:8.0%}", ratios[3], f"{tokens:8.2f}"]
        print(f"{name:<34} {stream['ticks']:>4}/{serial['ticks']:<4} {' '.join(shown)} {len(found):>8}")


def _median(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):8.2f}" if ratios else f"{'-':>8}"


if __name__ == "__main__":
    main()
