"""Two processes train what one process trains: the same rows in the same order, and the same adapter."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import ConfigError  # noqa: E402
from optima_lite.learn import parallel  # noqa: E402
from optima_lite.learn.dpo import PairIds, optimise  # noqa: E402
from optima_lite.learn.episodes import Episode  # noqa: E402
from optima_lite.learn.parallel import Order, PeerLost, Place, at_once, filled, group, world  # noqa: E402
from optima_lite.learn.rl import reinforce  # noqa: E402
from optima_lite.learn.sft import fine_tune  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.reinforce import ReinforceSettings  # noqa: E402
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings  # noqa: E402

WAYS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sft 64": ("sft", 64, {}),
    "sft 61": ("sft", 61, {}),
    "dpo 45": ("dpo", 45, {"sft_weight": 0.0}),
    "dpo and sft 45": ("dpo", 45, {"sft_weight": 1.0}),
    "tokens 61": ("rl", 61, {"kl_weight": 0.2, "kl_to": "base", "epochs": 2}),
    "sequences 45": ("rl", 45, {"ratio": "sequence"}),
    "sft": ("sft", 16, {}),
    "dpo": ("dpo", 16, {"sft_weight": 0.5}),
    "rl": ("rl", 16, {}),
    "guarded 61": ("rl", 61, {"learning_rate": 3e-3, "max_kl": 0.3}),
}
Found = tuple[list[Any], dict[str, float]]


def test_a_batch_is_shared_evenly_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (world(), at_once(8, 16), at_once(8, 3), filled([{}], {"a": 1})) == (1, 8, 2, [{}])
    monkeypatch.setattr(parallel, "_place", Place(0, 4, "", 0))
    assert (world(), at_once(8, 16), at_once(12, 2), filled([{}], {"a": 1})) == (4, 2, 1, [{}, {"a": 1}])
    with pytest.raises(ConfigError, match="6 rows cannot be shared by 4"):
        at_once(6, 1)


def test_fillers_make_the_last_batch_whole_in_each_epoch() -> None:
    order = Order([1] * 10, 4, seed=0, fill=True)
    first = [*order]
    order.set_epoch(1)
    assert len(order) == len(first) == 12
    assert sorted(first) == [*range(10), 10, 10] and first[-2:] == [10, 10]
    assert [*order] != first and sorted(order) == sorted(first)


def test_rows_of_a_batch_stand_by_length_and_little_is_padding() -> None:
    """Each batch holds the rows that it would hold anyway. Two roles with one adapter: short prompts and long ones."""
    drawn = random.Random(0)
    lengths = [drawn.randint(300, 500) if n % 2 else drawn.randint(2_500, 6_500) for n in range(650)]
    by_length, as_drawn = Order(lengths, 64, 3, fill=False), Order([1] * 650, 64, 3, fill=False)
    assert len(by_length) == len([*by_length]) == 650
    for one, other in zip(batched(by_length, 64), batched(as_drawn, 64), strict=True):
        assert sorted(one) == sorted(other)
        assert [lengths[row] for row in one] == sorted((lengths[row] for row in one), reverse=True)

    def padded(order: Order) -> float:
        """Positions that are computed, four rows at a time, over those of the rows."""
        return sum(len(rows) * max(lengths[row] for row in rows) for rows in batched(order, 4)) / sum(lengths)

    assert padded(as_drawn) > 1.8 and padded(by_length) < 1.1


@pytest.mark.parametrize("kind", ["sft", "dpo", "rl"])
def test_on_a_card_the_same_is_learnt_from_fewer_positions(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for by_length in ((), ("cpu",)):
        monkeypatch.setattr(parallel, "_SORTED", by_length)
        positions: list[int] = []
        weights, facts = trained(kind, watch=positions.append)
        found.append((weights, facts, sum(positions)))
    (one, facts, as_drawn), (other, others, sorted_) = found
    assert sorted_ < 0.95 * as_drawn and others == pytest.approx(facts, abs=1e-4)
    assert max(abs(a - b).max() for a, b in zip(one, other, strict=True)) < 1e-4, "a tenth of a step"


def batched(order: Iterable[int], size: int) -> list[list[int]]:
    rows = [*order]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def trained(
    way: str, on_step: Callable[[int], None] = lambda done: None, watch: Callable[[int], None] = lambda positions: None
) -> Found:
    """The weights after a training step on made-up rows, and its facts. watch: told how many positions are computed."""
    kind, number, changes = WAYS[way]
    torch.set_num_threads(1)
    policy: Policy = load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
    embedding = policy.model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda module, given: watch(given[0].numel() if torch.is_grad_enabled() else 0))
    drawn, how = random.Random(0), {"micro_batch": 4, "seed": 3, "on_step": on_step}

    def ids(length: int) -> tuple[int, ...]:
        return (*drawn.choices(range(20, 300), k=length - 1), policy.end_ids[0])

    if kind == "sft":
        rows = [Rendered(ids(4) + ids(drawn.randint(2, 9)), ((4, 6),)) for _ in range(number)]
        rows = [Rendered(row.ids, ((4, len(row.ids)),)) for row in rows]
        facts: Any = fine_tune(
            policy, rows, settings=TrainingSettings(epochs=1, batch_size=8, learning_rate=1e-3), **how
        )
    elif kind == "dpo":
        pairs = [PairIds(ids(5), ids(drawn.randint(2, 9)), ids(drawn.randint(2, 9))) for _ in range(number)]
        facts = optimise(
            policy, pairs, settings=DpoSettings(epochs=1, batch_size=8, learning_rate=1e-4, **changes), **how
        )
    else:
        found = []
        for _ in range(number):
            (first, second), worth = (
                (ids(drawn.randint(2, 9)) for _ in range(2)),
                (drawn.gauss(0, 1), drawn.gauss(0, 1)),
            )
            spans = ((4, 4 + len(first)), (7 + len(first), 7 + len(first) + len(second)))
            found.append(Episode(Rendered(ids(4) + first + ids(3) + second, spans), worth, worth))
        facts = reinforce(
            policy,
            found,
            settings=ReinforceSettings(**{"batch_size": 8, "learning_rate": 1e-3, "epochs": 1} | changes),
            temperature=0.9,
            **how,
        )
    weights = [one.detach().numpy() for one in policy.weights(policy.worn)]
    told = ("loss", "steps", "kl", "entropy", "clipped", "stopped", "epochs")
    return weights, {name: getattr(facts, name) for name in told if hasattr(facts, name)}


def work(rank: int, port: int, folder: str) -> None:
    """One of two processes, which train all ways one after the other, and alone once more."""
    found = {}
    for number, way in enumerate(WAYS):
        with group(Place(rank, 2, "127.0.0.1", port + number)):
            found[way] = trained(way)
    found["alone"] = trained("sft 61")
    torch.save(found, f"{folder}/{rank}.pt")


def leave(rank: int, port: int, folder: str) -> None:
    """One of two processes, of which the second is gone after the third step; the first one begins anew, alone."""

    def stepped(done: int) -> None:
        steps.append(done)
        if rank == 1 and len(steps) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    steps: list[int] = []
    with pytest.raises(PeerLost, match="another of 2 processes"), group(Place(rank, 2, "127.0.0.1", port)):
        trained("sft 61", stepped)
    assert len(steps) < 8 and world() == 1
    torch.save(trained("sft 61"), f"{folder}/{rank}.pt")


def two(target: Callable[[int, int, str], None], folder: Path) -> list[int | None]:
    """How two processes end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(rank, port, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_who_is_left_says_so_and_can_train_alone(tmp_path: Path) -> None:
    assert two(leave, tmp_path) == [0, -signal.SIGKILL]
    weights, facts = trained("sft 61")
    again, others = torch.load(tmp_path / "0.pt", weights_only=False)
    assert max(abs(a - b).max() for a, b in zip(weights, again, strict=True)) == 0 and facts == others


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(tmp_path: Path) -> None:
    assert two(work, tmp_path) == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    for way in WAYS:
        weights, facts = trained(way)
        for found in (one[way], other[way]):
            furthest = max(abs(a - b).max() for a, b in zip(weights, found[0], strict=True))
            print(way, "furthest", furthest, facts, found[1])
            assert furthest <= 1e-5, way
            assert found[1] == pytest.approx(facts, abs=1e-4)
        moved = max(abs(a).max() for a in weights[1::2])
        assert moved > 1e-4, "the step has trained something"
    alone, facts = trained("sft 61")
    assert max(abs(a - b).max() for a, b in zip(alone, one["alone"][0], strict=True)) == 0, "nothing stays of the group"
