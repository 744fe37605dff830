"""A step of reinforcement against a plain step of TRL's GRPO trainer on the same rows, and whether memory stays flat.

    python scripts/bench_reinforce.py [--questions 16] [--repeat 3]
    python scripts/bench_reinforce.py --iterations 10

The plain trainer is given the rows where it would generate, the rewards where it would compute them, and the same
batches; so both take log-probabilities as they were, then the same number of optimiser steps. Time is CPU seconds at
one thread, interleaved, medians; positions are those that go through the model, padding included. With `--iterations`
a whole run of `reinforce_quickstart` in small tells, after each iteration, the process's resident memory and
all tensors that are alive, with the bytes that they hold or look at.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

import optima_lite
from optima_lite.learn.advantage import grouped
from optima_lite.learn.episodes import Episode
from optima_lite.learn.rl import reinforce
from optima_lite.learn.sft import arguments, session
from optima_lite.model.loading import load
from optima_lite.model.policy import Policy
from optima_lite.model.render import Rendered
from optima_lite.runs.progress import Event, Ranked
from optima_lite.settings.machine import Machine
from optima_lite.settings.reinforce import ReinforceSettings
from optima_lite.settings.sections import ModelSettings
from optima_lite.stage.probe import resident

ROLLOUTS, BATCH, TEMPERATURE = 8, 16, 0.8
SETTINGS = ReinforceSettings(batch_size=BATCH, learning_rate=1e-4, max_kl=9)
MIB = 2**20
SMALL = (
    "training.questions=8",
    "training.on_worse=keep",
    "evaluation.questions=8",
    "evaluation.validation_questions=4",
)


def main() -> None:
    """Prints a line for each way and their ratio, or one for each iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=0, help="watch the memory of so many instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.iterations:
        watch_memory(given.iterations)
    else:
        compare(made_up(given.questions), given.repeat)


def made_up(questions: int) -> list[Episode]:
    """Rows of one message: its prompt is as long as the bundled world's, its reward is drawn."""
    draw, found = random.Random(0), list[Episode]()
    for _ in range(questions):
        prompt = [draw.randrange(100, 500) for _ in range(draw.randint(80, 160))]
        said = [[draw.randrange(100, 500) for _ in range(draw.randint(8, 40))] for _ in range(ROLLOUTS)]
        worth = [(draw.random(),) for _ in said]
        better = grouped([[("Alice", "say", 0)]] * ROLLOUTS, worth).advantages
        for ids, reward, advantage in zip(said, worth, better, strict=True):
            row = Rendered((*prompt, *ids), ((len(prompt), len(prompt) + len(ids)),))
            found.append(Episode(row, reward, tuple(one or 0.0 for one in advantage)))
    return found


def compare(episodes: Sequence[Episode], repeat: int) -> None:
    """CPU seconds and positions of both ways, a first round of each not counted."""
    policy = load(ModelSettings(name="tiny"), machine=Machine(threads=1), seed=0)
    ways: dict[str, Callable[[Policy, Sequence[Episode]], int]] = {"ours": ours, "plain TRL": plain}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counted: dict[str, tuple[int, int]] = {}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            policy.restart(seed=0)
            with positions(policy) as passed:
                begun = time.process_time()
                steps = way(policy, episodes)
                spent = time.process_time() - begun
            counted[name] = (steps, sum(passed))
            seconds[name] += [spent] if turn else []
    for name, (steps, passed_through) in counted.items():
        each = median(seconds[name]) / steps
        print(f"{name:<10} {steps} steps of {BATCH} rows, {each * 1000:.0f} ms each, {passed_through:,} positions")
    print(f"ratio      {median(seconds['ours']) / median(seconds['plain TRL']):.2f}")


def ours(policy: Policy, episodes: Sequence[Episode]) -> int:
    """A step of an iteration, as a run takes it; how many of the optimiser's that is."""
    return reinforce(
        policy,
        episodes,
        settings=SETTINGS,
        temperature=TEMPERATURE,
        micro_batch=BATCH,
        seed=0,
        on_step=lambda steps: None,
    ).steps


def plain(policy: Policy, episodes: Sequence[Episode]) -> int:
    """TRL's trainer as it comes, with a function that hands out the rows instead of generating them."""
    steps = len(episodes) // BATCH

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        asked = [int(prompt) for prompt in prompts]
        mine = [episodes[number * ROLLOUTS + k % ROLLOUTS] for k, number in enumerate(asked)]
        begins = [one.row.spans[0][0] for one in mine]
        return {
            "prompt_ids": [[*one.row.ids[:begin]] for one, begin in zip(mine, begins, strict=True)],
            "completion_ids": [[*one.row.ids[begin:]] for one, begin in zip(mine, begins, strict=True)],
            "logprobs": None,
            "worth": [one.rewards[0] for one in mine],
        }

    def paid(worth: list[float], **_: Any) -> list[float]:
        return worth

    with session(policy) as model, tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = arguments(scratch, SETTINGS, rows=len(episodes), micro_batch=BATCH, seed=0)
        how = {key: value for key, value in how.items() if key != "max_length"}
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=paid,
            args=GRPOConfig(
                **how | {"lr_scheduler_type": "constant_with_warmup"},
                num_generations=ROLLOUTS,
                steps_per_generation=steps,
                temperature=TEMPERATURE,
                beta=0.0,
                loss_type="dapo",
                disable_dropout=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": [str(k) for k in range(len(episodes) // ROLLOUTS)]}),
            processing_class=policy.tokenizer,
            rollout_func=rollout,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return int(trainer.state.global_step)


@contextmanager
def positions(policy: Policy) -> Iterator[list[int]]:
    """How many positions each forward pass has."""
    found: list[int] = []
    embedding = policy.model.get_base_model().get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, given, out: found.append(given[0].numel()))
    try:
        yield found
    finally:
        handle.remove()


def watch_memory(iterations: int) -> None:
    """A line for each iteration, told when its dialogues have their rewards."""

    def told(event: Event) -> None:
        if isinstance(event, Ranked):
            gc.collect()
            alive = {id(one): one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)}.values()
            held = sum(one.untyped_storage().nbytes() for one in alive) / MIB
            print(
                f"iteration {event.iteration}: resident {resident() / MIB:,.0f} MiB, "
                f"{len(alive)} tensors of {held:,.1f} MiB",
                flush=True,
            )

    with tempfile.TemporaryDirectory() as scratch:
        one_process = Path(scratch) / "optima_lite.toml"
        one_process.write_text("threads = 1\n")
        optima_lite.train(
            "reinforce_quickstart",
            overrides=(*SMALL, f"training.iterations={iterations}"),
            run=Path(scratch) / "run",
            config=one_process,
            observe=told,
        )


if __name__ == "__main__":
    main()
