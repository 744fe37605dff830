"""Speed and memory of each phase on a GPU at a named shape, under ceilings of memory; random weights will do.

    python scripts/bench_gpu.py [--shape 8b] [--ceilings 24 16 12] [--model FOLDER] [--out bench_gpu.json]

Out: a table and a JSON file. For each ceiling, in a process of its own: the peak of each phase beside its forecast;
tokens per second of dialogues, of a search's forks, of reading, of SFT and DPO; and how many times faster that is than
plain `generate` on whole prompts, and than plain TRL, on the same rows in the same process. Without a GPU,
`--shape tiny` runs the same code on the CPU, where ceilings do not hold and numbers mean little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import random_llama
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from optima_lite.config import DpoSettings, Machine, ModelSettings, TrainingSettings
from optima_lite.dpo import optimise
from optima_lite.generate import Generator
from optima_lite.memory import GIB, MOST_TOKENS, OVERHEAD, Limits, fit, forecast, of_one_batch
from optima_lite.model import Policy, load
from optima_lite.preflight import versions
from optima_lite.probe import MadeUp, measure
from optima_lite.sampling import Sampling
from optima_lite.sft import arguments, fine_tune, session

QUESTIONS, ROLLOUTS, TURNS = 8, 4, 4
EXAMPLES = 8  # trained on in each of the training runs


@dataclass(frozen=True)
class Speed:
    """Tokens per second, and how many times as fast as the plain way."""

    phase: str
    per_second: float
    ratio: float


def bench(policy: Policy, limits: Limits) -> Iterator[Speed]:
    """The speed of every phase. Rows are as long as the limits say; both ways take the same rows."""
    ids = MadeUp(policy, seed=1)
    room = limits.row_tokens - TURNS * limits.turn_tokens
    prompts = [ids.text(room) for _ in range(QUESTIONS)]
    yield _speed("dialogues", lambda: _dialogues(policy, prompts, limits), lambda: _plain(policy, prompts, limits))
    yield _speed("search", lambda: _forks(policy, prompts, limits), lambda: _plain(policy, prompts, limits, forks=True))
    rows = [ids.row(limits) for _ in range(QUESTIONS)]
    reader = Generator(policy, max_batch_tokens=limits.batch_tokens, max_cache_bytes=0)
    yield _speed("reading", lambda: _count(reader.losses(rows), QUESTIONS * limits.row_tokens), None)
    how: dict[str, Any] = {"micro_batch": limits.micro_batch, "seed": 0}
    rows, pairs = [ids.row(limits) for _ in range(EXAMPLES)], [ids.pair(limits) for _ in range(EXAMPLES)]
    tokens = EXAMPLES * limits.row_tokens
    sft = TrainingSettings(epochs=1, batch_size=EXAMPLES)
    dpo = DpoSettings(epochs=1, batch_size=EXAMPLES)
    yield _speed(
        "sft",
        lambda: _count(fine_tune(policy, rows, settings=sft, on_step=lambda n: None, **how), tokens),
        lambda: _count(_plain_sft(policy, rows, sft, how), tokens),
    )
    yield _speed(
        "dpo",
        lambda: _count(optimise(policy, pairs, settings=dpo, on_step=lambda n: None, **how), 2 * tokens),
        lambda: _count(_plain_dpo(policy, pairs, dpo, how), 2 * tokens),
    )


def _speed(phase: str, ours: Callable[[], int], plain: Callable[[], int] | None) -> Speed:
    """The better of two runs of each, taken in turns."""
    best = {"ours": 0.0, "plain": 0.0}
    for _ in range(2):
        for name, work in (("ours", ours), ("plain", plain)):
            if work:
                started = time.perf_counter()
                done = work()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                best[name] = max(best[name], done / (time.perf_counter() - started))
    return Speed(phase, best["ours"], best["ours"] / best["plain"] if best["plain"] else float("nan"))


def _count(_: object, tokens: int) -> int:
    return tokens


def _dialogues(policy: Policy, prompts: Sequence[tuple[int, ...]], limits: Limits) -> int:
    """Several dialogues about each prompt, turn by turn; tokens sampled."""
    generator = Generator(policy, max_batch_tokens=limits.batch_tokens, max_cache_bytes=limits.cache_bytes)
    rows = [prompt for prompt in prompts for _ in range(ROLLOUTS)]
    for turn in range(TURNS):
        keys = [turn * len(rows) + i for i in range(len(rows))]
        said = generator.generate(rows, sampling=Sampling(1.0, 1.0, limits.turn_tokens), keys=keys)
        rows = [row + turn_ids for row, turn_ids in zip(rows, said, strict=True)]
    return generator.counts.sampled


def _forks(policy: Policy, prompts: Sequence[tuple[int, ...]], limits: Limits) -> int:
    """A search's traffic: rollouts that begin anew at each depth of one dialogue; tokens sampled."""
    generator = Generator(policy, max_batch_tokens=limits.batch_tokens, max_cache_bytes=limits.cache_bytes)
    stems = list(prompts)
    for depth in range(TURNS):
        rows = [stem for stem in stems for _ in range(ROLLOUTS)]
        keys = [depth * len(rows) + i for i in range(len(rows))]
        said = generator.generate(rows, sampling=Sampling(1.0, 1.0, limits.turn_tokens), keys=keys)
        stems = [stem + said[i * ROLLOUTS] for i, stem in enumerate(stems)]
    return generator.counts.sampled


def _plain(policy: Policy, prompts: Sequence[tuple[int, ...]], limits: Limits, *, forks: bool = False) -> int:
    """The same traffic by `generate` on whole prompts, a batch at a time, nothing kept in between."""
    rows, sampled = [prompt for prompt in prompts for _ in range(ROLLOUTS)], 0
    at_once = max(1, limits.batch_tokens // limits.row_tokens)
    policy.model.eval()
    for _ in range(TURNS):
        longer: list[tuple[int, ...]] = []
        for first in range(0, len(rows), at_once):
            batch = rows[first : first + at_once]
            padded = policy.tokenizer.pad({"input_ids": [list(row) for row in batch]}, return_tensors="pt").to(
                policy.device
            )
            with torch.no_grad():
                out = policy.model.generate(
                    **padded,
                    max_new_tokens=limits.turn_tokens,
                    do_sample=True,
                    eos_token_id=list(policy.end_ids),
                    pad_token_id=policy.pad_id,
                )[:, padded["input_ids"].shape[1] :]
            said = [tuple(i for i in row if i != policy.pad_id) for row in out.tolist()]
            sampled += sum(map(len, said))
            longer += [row + turn for row, turn in zip(batch, said, strict=True)]
        rows = [longer[i // ROLLOUTS * ROLLOUTS] for i in range(len(longer))] if forks else longer
    return sampled


def _plain_sft(policy: Policy, rows: Sequence[Any], settings: TrainingSettings, how: dict[str, Any]) -> None:
    examples = [{"input_ids": list(row.ids), "completion_mask": row.mask} for row in rows]
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(scratch, settings, rows=len(rows), **how)),
            train_dataset=Dataset.from_list(examples),
            processing_class=policy.tokenizer,
        ).train()


def _plain_dpo(policy: Policy, pairs: Sequence[Any], settings: DpoSettings, how: dict[str, Any]) -> None:
    text = policy.tokenizer.decode
    examples = [
        {"prompt": text(pair.prompt[1:]), "chosen": text(pair.chosen), "rejected": text(pair.rejected)}
        for pair in pairs
    ]
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        DPOTrainer(
            model=model,
            args=DPOConfig(**arguments(scratch, settings, rows=len(pairs), **how)),
            train_dataset=Dataset.from_list(examples),
            processing_class=policy.tokenizer,
        ).train()


def under_ceiling(folder: Path, gib: float, *, row_tokens: int, turn_tokens: int) -> dict[str, Any]:
    """Everything that is measured in one process."""
    machine = Machine(max_vram_gib=gib, micro_batch=EXAMPLES)
    policy = load(ModelSettings(name=str(folder), max_length=row_tokens), machine=machine, seed=0)
    wanted = Limits(MOST_TOKENS, turn_tokens, row_tokens, machine.micro_batch, int(machine.max_cache_gib * GIB))
    gpu = policy.device.type == "cuda"
    room = int(gib * GIB) - OVERHEAD
    limits = fit(policy.shape, policy.setup, wanted, batch_size=EXAMPLES, room=room)
    if not gpu:  # enough to see that it works
        limits = replace(limits, batch_tokens=4 * row_tokens, micro_batch=2)
    limits = of_one_batch(policy.shape, policy.setup, limits)
    expected = {phase.name: phase.total for phase in forecast(policy.shape, policy.setup, limits)}
    peaks = {
        name: {"peak_gib": peak / GIB, "forecast_gib": expected[name] / GIB} for name, peak in measure(policy, limits)
    }
    speeds = {speed.phase: {"per_second": speed.per_second, "ratio": speed.ratio} for speed in bench(policy, limits)}
    card = torch.cuda.get_device_name() if gpu else "no GPU"
    sizes = {"batch_tokens": limits.batch_tokens, "micro_batch": limits.micro_batch, "row_tokens": row_tokens}
    return {"ceiling_gib": gib, "card": card, "notes": policy.notes, "limits": sizes, "memory": peaks, "speed": speeds}


def table(found: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = ["| ceiling | phase | peak GiB | forecast GiB | | phase | tokens/s | times plain |", "|" + " --- |" * 8]
    for one in found:
        memory, speed = list(one["memory"].items()), list(one["speed"].items())
        for i in range(max(len(memory), len(speed))):
            peak, rate = memory[i : i + 1], speed[i : i + 1]
            left = [f"{n} | {m['peak_gib']:.2f} | {m['forecast_gib']:.2f}" for n, m in peak] or [" | | "]
            right = [f"{n} | {s['per_second']:,.0f} | {s['ratio']:.2f}" for n, s in rate]
            lines.append(f"| {one['ceiling_gib']:g} GiB | {left[0]} | | {right[0]} |")
    return "\n".join(lines)


def main() -> None:
    """Builds the model if need be, and measures each ceiling in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=random_llama.SHAPES, default="8b")
    parser.add_argument("--ceilings", type=float, nargs="+", default=[24, 16, 12], metavar="GIB")
    parser.add_argument("--model", type=Path, help="a model folder, instead of random weights")
    parser.add_argument("--row-tokens", type=int, default=2048)
    parser.add_argument("--turn-tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"))
    given = parser.parse_args()
    if not torch.cuda.is_available() and given.shape != "tiny":
        sys.exit("bench_gpu needs an NVIDIA GPU; `--shape tiny --row-tokens 256 --turn-tokens 16` runs on the CPU")
    if given.model and len(given.ceilings) == 1:  # what the calls below ask for
        found = under_ceiling(
            given.model, given.ceilings[0], row_tokens=given.row_tokens, turn_tokens=given.turn_tokens
        )
        given.out.write_text(json.dumps(found), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, part = given.model or Path(scratch) / given.shape, Path(scratch) / "part.json"
        if not given.model:
            random_llama.write(given.shape, folder, nf4=True)
        results = []
        for ceiling in given.ceilings:
            sizes = ["--row-tokens", str(given.row_tokens), "--turn-tokens", str(given.turn_tokens)]
            command = [sys.executable, __file__, "--shape", given.shape, "--model", str(folder), "--out", str(part)]
            done = subprocess.run([*command, *sizes, "--ceilings", str(ceiling)])
            if done.returncode:
                print(f"{ceiling:g} GiB: failed, see above")
                continue
            results.append(json.loads(part.read_text(encoding="utf-8")))
    report = {"shape": given.shape, "versions": versions(), "results": results}
    given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
