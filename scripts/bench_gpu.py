"""Speed and memory of each phase on a GPU at a named shape, under ceilings of memory; random weights will do.

    python scripts/bench_gpu.py [--shape 8b] [--ceilings 24 16 12] [--model FOLDER] [--out bench_gpu.json]

Out: a table and a JSON file. For each ceiling, in a process of its own: the peak of each phase beside its forecast;
tokens per second of dialogues, of a search's forks, of a single turn, of reading, of SFT and DPO; and how many times
faster that is than plain `generate` on whole prompts, a plain forward pass and plain TRL, on the same rows in the same
process; and, as `adapter`, a single turn against our own loop with the adapter as PEFT computes it in float32. The
backend is plain transformers. Without a GPU, `--shape tiny` goes the same way on the CPU, once and without a ceiling;
peaks are then those of the whole process, and numbers mean little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import random_llama
import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from optima_lite.errors import OptimaError
from optima_lite.learn.dpo import PairIds, optimise
from optima_lite.learn.halving import free
from optima_lite.learn.sft import arguments, fine_tune, session
from optima_lite.model.generate import Generator
from optima_lite.model.loading import load
from optima_lite.model.memory import GIB, MOST_TOKENS, OVERHEAD, Limits, fit, forecast, is_out_of_memory, of_one_batch
from optima_lite.model.policy import Policy
from optima_lite.model.render import Rendered
from optima_lite.model.sampling import Sampling
from optima_lite.settings.machine import Machine
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings
from optima_lite.stage.doctor import versions
from optima_lite.stage.probe import MadeUp, measure

QUESTIONS, ROLLOUTS, TURNS = 8, 4, 4
EXAMPLES = 8  # trained on in each of the training runs
ON_A_CPU = ("tiny", "30m")  # shapes that take seconds or minutes there


@dataclass(frozen=True)
class Speed:
    """Tokens per second, ours and the plain way's; None where the plain way runs out of memory."""

    phase: str
    per_second: float
    plain: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the plain way."""
        return None if self.plain is None else self.per_second / self.plain


def bench(policy: Policy, limits: Limits) -> Iterator[Speed]:
    """The speed of every phase. Rows are as long as the limits say; both ways take the same rows."""
    ids = MadeUp(policy, seed=1)
    room = limits.row_tokens - TURNS * limits.turn_tokens
    prompts = [ids.text(room) for _ in range(QUESTIONS)]
    yield _speed("dialogues", lambda: _dialogues(policy, prompts, limits), lambda: _plain(policy, prompts, limits))
    yield _speed("search", lambda: _forks(policy, prompts, limits), lambda: _plain(policy, prompts, limits, forks=True))
    yield _speed("turn", lambda: _turn(policy, prompts, limits), lambda: _plain(policy, prompts, limits, turns=1))
    peft = PeftAdapter(**{field.name: getattr(policy, field.name) for field in fields(policy)})
    yield _speed("adapter", lambda: _turn(policy, prompts, limits), lambda: _turn(peft, prompts, limits))
    rows, pairs = [ids.row(limits) for _ in range(EXAMPLES)], [ids.pair(limits) for _ in range(EXAMPLES)]
    tokens = EXAMPLES * limits.row_tokens
    reader = Generator(policy, max_batch_tokens=limits.batch_tokens, max_cache_bytes=0)
    yield _speed(
        "reading",
        lambda: _count(reader.losses(rows), tokens),
        lambda: _count(_plain_reading(policy, rows, limits), tokens),
    )
    how: dict[str, Any] = {"micro_batch": limits.micro_batch, "seed": 0}
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


def _speed(phase: str, ours: Callable[[], int], plain: Callable[[], int]) -> Speed:
    """The better of two runs of each, taken in turns. The plain way has no halving, so it may not fit."""
    found: list[tuple[float, float | None]] = []
    for _ in range(2):
        own, other = _rate(ours), _rate(plain)
        if own is None:
            raise OptimaError(f"{phase} runs out of memory", hint="a smaller --row-tokens, or a higher ceiling")
        found.append((own, other))
    rates = [other for _, other in found if other is not None]
    return Speed(phase, max(own for own, _ in found), max(rates) if rates else None)


def _rate(work: Callable[[], int]) -> float | None:
    """Tokens per second; None when memory runs out."""
    started = time.perf_counter()
    try:
        done = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return done / (time.perf_counter() - started)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    free()  # outside the handler, because the exception keeps tensors alive
    return None


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


class PeftAdapter(Policy):
    """A policy that speaks as PEFT lets it: the adapter in float32, with casts there and back in every layer."""

    @contextmanager
    def speaking(self) -> Iterator[Any]:
        self.model.eval()
        yield self.model


def _turn(policy: Policy, prompts: Sequence[tuple[int, ...]], limits: Limits) -> int:
    """A single turn of several rows after each prompt, nothing known before; tokens sampled."""
    generator = Generator(policy, max_batch_tokens=limits.batch_tokens, max_cache_bytes=0)
    rows = [prompt for prompt in prompts for _ in range(ROLLOUTS)]
    generator.generate(rows, sampling=Sampling(1.0, 1.0, limits.turn_tokens), keys=range(len(rows)))
    return generator.counts.sampled


def _plain(
    policy: Policy, prompts: Sequence[tuple[int, ...]], limits: Limits, *, forks: bool = False, turns: int | None = None
) -> int:
    """The same traffic by `generate` on whole prompts, a batch at a time, nothing kept in between."""
    rows, sampled = [prompt for prompt in prompts for _ in range(ROLLOUTS)], 0
    at_once = max(1, limits.batch_tokens // limits.row_tokens)
    policy.model.eval()
    for _ in range(turns or TURNS):
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


def _plain_reading(policy: Policy, rows: Sequence[Rendered], limits: Limits) -> None:
    """One forward pass for each batch of whole rows, with all their logits."""
    at_once = max(1, limits.batch_tokens // limits.row_tokens)
    with policy.reading() as base:
        for first in range(0, len(rows), at_once):
            ids = torch.tensor([row.ids for row in rows[first : first + at_once]], device=policy.device)
            base(input_ids=ids, labels=ids, use_cache=False).loss.item()


def _plain_sft(policy: Policy, rows: Sequence[Rendered], settings: TrainingSettings, how: dict[str, Any]) -> None:
    examples = [{"input_ids": list(row.ids), "completion_mask": row.mask} for row in rows]
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(scratch, settings, rows=len(rows), **how)),
            train_dataset=Dataset.from_list(examples),
            processing_class=policy.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


class _PlainPairs(DPOTrainer):
    """TRL's trainer as it is, but for the dataset: made-up ids that become text would come back as more ids."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def _plain_dpo(policy: Policy, pairs: Sequence[PairIds], settings: DpoSettings, how: dict[str, Any]) -> None:
    examples = [
        {"prompt_ids": list(pair.prompt), "chosen_ids": list(pair.chosen), "rejected_ids": list(pair.rejected)}
        for pair in pairs
    ]
    with session(policy) as model, tempfile.TemporaryDirectory() as scratch:
        trainer = _PlainPairs(
            model=model,
            args=DPOConfig(**arguments(scratch, settings, rows=len(pairs), **how)),
            train_dataset=Dataset.from_list(examples),
            processing_class=policy.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def under_ceiling(folder: Path, gib: float | None, *, row_tokens: int, turn_tokens: int) -> dict[str, Any]:
    """Everything that is measured in one process. gib: the ceiling; None on a CPU."""
    machine = Machine(max_vram_gib=gib or "auto", micro_batch=EXAMPLES, backend="transformers")
    policy = load(ModelSettings(name=str(folder), max_length=row_tokens), machine=machine, seed=0)
    limits = Limits(MOST_TOKENS, turn_tokens, row_tokens, machine.micro_batch, 2 * GIB)
    if gib is None:  # enough to see that it works
        limits = replace(limits, batch_tokens=4 * row_tokens, micro_batch=2)
    else:
        room = int(gib * GIB) - OVERHEAD
        limits = fit(policy.shape, policy.setup, limits, batch_size=EXAMPLES, room=room)
    limits = of_one_batch(policy.shape, policy.setup, limits)
    expected = {phase.name: phase.total for phase in forecast(policy.shape, policy.setup, limits)}
    peaks = {
        name: {"peak_gib": peak / GIB, "forecast_gib": expected[name] / GIB} for name, peak in measure(policy, limits)
    }
    speeds = {speed.phase: {**asdict(speed), "ratio": speed.ratio} for speed in bench(policy, limits)}
    card = torch.cuda.get_device_name() if policy.device.type == "cuda" else "no GPU"
    return {"ceiling_gib": gib, "card": card, "limits": asdict(limits), "memory": peaks, "speed": speeds}


def apart(work: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What a function of this file returns in a process of its own, which takes its hold on the card with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **named).result()


def card_gib() -> float:
    """Memory of the card."""
    return float(torch.cuda.get_device_properties(0).total_memory) / GIB


def table(found: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = ["| ceiling | phase | peak GiB | forecast GiB | | phase | tokens/s | times plain |", "|" + " --- |" * 8]
    for one in found:
        memory, speed = list(one["memory"].items()), list(one["speed"].items())
        ceiling = f"{one['ceiling_gib']:g} GiB" if one["ceiling_gib"] else "none"
        for i in range(max(len(memory), len(speed))):
            left = [f"{n} | {m['peak_gib']:.2f} | {m['forecast_gib']:.2f}" for n, m in memory[i : i + 1]] or [" | | "]
            right = [f"{n} | {s['per_second']:,.0f} | {_times(s['ratio'])}" for n, s in speed[i : i + 1]]
            lines.append(f"| {ceiling} | {left[0]} | | {right[0]} |")
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "plain: out of memory" if ratio is None else f"{ratio:.2f}"


def _ceilings(wanted: Sequence[float]) -> list[float | None]:
    """Those that this card can hold, at most what it has; a single None without a GPU."""
    if not torch.cuda.is_available():
        return [None]
    total = apart(card_gib)
    for gib in wanted:
        if gib > total * 1.05:  # of 24 GiB, a card shows 23.6
            print(f"{gib:g} GiB: left out, the card has {total:.1f} GiB")
    return [min(gib, total) for gib in wanted if gib <= total * 1.05]


def main() -> None:
    """Builds the model if need be, and measures each ceiling in a process of its own."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=random_llama.SHAPES, default="8b")
    parser.add_argument("--ceilings", type=float, nargs="+", default=[24, 16, 12], metavar="GIB")
    parser.add_argument("--model", type=Path, help="a model folder, instead of random weights")
    parser.add_argument("--row-tokens", type=int, default=2048 if gpu else 128)
    parser.add_argument("--turn-tokens", type=int, default=128 if gpu else 8)
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"))
    given = parser.parse_args()
    if not gpu and given.shape not in ON_A_CPU:
        sys.exit(f"bench_gpu needs an NVIDIA GPU for this shape; --shape {' or '.join(ON_A_CPU)} runs on the CPU")
    results, failures = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or Path(scratch) / given.shape
        if not given.model:
            random_llama.write(given.shape, folder, nf4=True)
        for ceiling in _ceilings(given.ceilings):
            try:
                sizes = {"row_tokens": given.row_tokens, "turn_tokens": given.turn_tokens}
                results.append(apart(under_ceiling, folder, ceiling, **sizes))
            except (OptimaError, RuntimeError) as error:  # the other ceilings are still worth knowing
                print(f"{ceiling or 'no'} GiB: failed: {error}", file=sys.stderr)
                failures += 1
    report = {"shape": str(given.model or given.shape), "versions": versions(), "results": results}
    given.out.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(table(results))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
