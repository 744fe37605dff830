"""Preference training: the reference is the adapter's start, exactly the sampled ids are learnt, nothing is left."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from test_sft import PAIR, adapter, fresh, traces  # noqa: E402

from optima_lite.errors import TrainingError  # noqa: E402
from optima_lite.learn import dpo  # noqa: E402
from optima_lite.learn.dpo import PairIds, PreferenceFacts, check, optimise  # noqa: E402
from optima_lite.learn.sft import fine_tune  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered, Renderer  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings  # noqa: E402
from optima_lite.tasks import world  # noqa: E402
from optima_lite.team.prompts import view  # noqa: E402

SETTINGS = DpoSettings(epochs=3, batch_size=4, learning_rate=5e-4, warmup_ratio=0)
SAID = ((" I do not know", " over to you my friend"), (" yes", " no"), (" the answer is here", " hm"), (" so", " but"))


@pytest.fixture
def pairs(renderer: Renderer) -> list[PairIds]:
    """Four pairs of messages of different lengths, after prompts of different lengths."""
    found, end = [], renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    for question, texts in zip(world.questions("train", 4, seed=0), SAID, strict=True):
        prompt = renderer.prompt(view(question, [], 0, workflow=PAIR))
        chosen, rejected = ((*renderer.encode(text), end) for text in texts)
        found.append(PairIds(prompt, chosen, rejected))
    return found


def rows(pairs: list[PairIds]) -> list[Rendered]:
    """The chosen messages, to be imitated."""
    return [Rendered(p.prompt + p.chosen, ((len(p.prompt), len(p.prompt) + len(p.chosen)),)) for p in pairs]


def preferred(policy: Policy, pairs: list[PairIds], **changes: Any) -> PreferenceFacts:
    update = {key: changes.pop(key) for key in [*changes] if key in DpoSettings.model_fields}
    settings = SETTINGS.model_copy(update=update)
    wanted: dict[str, Any] = {"micro_batch": 4, "seed": 3, "on_step": lambda steps: None} | changes
    return optimise(policy, pairs, settings=settings, **wanted)


def imitated(policy: Policy, pairs: list[PairIds], *, epochs: int = 4) -> None:
    settings = TrainingSettings(epochs=epochs, batch_size=4, learning_rate=5e-3, warmup_ratio=0)
    fine_tune(policy, rows(pairs), settings=settings, micro_batch=4, seed=0, on_step=lambda steps: None)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What the trainer logs of every step."""
    entries: list[dict[str, float]] = []
    on_log = dpo._Guard.on_log

    def spy(self: Any, args: Any, state: Any, control: Any, logs: dict[str, float], **named: Any) -> None:
        entries.extend([dict(logs)] if "rewards/chosen" in logs else [])
        on_log(self, args, state, control, logs, **named)

    monkeypatch.setattr(dpo._Guard, "on_log", spy)
    return entries


def logp(model: Any, prompt: tuple[int, ...], message: tuple[int, ...]) -> float:
    """Nats of a message after its prompt, by the model as it stands."""
    ids = torch.tensor([prompt + message])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return -float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))


def mean_logps(model: Any, pairs: list[PairIds]) -> tuple[float, float]:
    """Of the chosen and of the rejected messages."""
    return (
        sum(logp(model, p.prompt, p.chosen) for p in pairs) / len(pairs),
        sum(logp(model, p.prompt, p.rejected) for p in pairs) / len(pairs),
    )


# --- The reference --------------------------------------------------------------------------------


def test_on_the_first_batch_adapter_and_reference_agree(
    policy: Policy, pairs: list[PairIds], logged: list[dict[str, float]]
) -> None:
    tokens = sum(len(p.chosen) for p in pairs)
    imitation = -sum(logp(policy.model, p.prompt, p.chosen) for p in pairs) / tokens
    preferred(policy, pairs, epochs=2)
    preferred(fresh(), pairs, sft_weight=0.5, epochs=2)
    alone, mixed = logged[0], logged[len(logged) // 2]
    for first in (alone, mixed):
        assert [first[f"rewards/{name}"] for name in ("chosen", "rejected", "margins")] == [0, 0, 0]
    assert alone["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert mixed["loss"] - 0.5 * imitation == pytest.approx(math.log(2), abs=1e-4)
    assert logged[len(logged) // 2 - 1]["rewards/margins"] > 0, "it learns after that"


def test_another_reference_stops_the_run_before_it_has_learnt(
    policy: Policy, pairs: list[PairIds], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a trainer's cast moves the adapter away from the copy that was made of it."""
    restore, before, seen = dpo.restore_adapter, traces(policy), []

    def moved(model: Any, exact: dict[str, Any]) -> None:
        restore(model, {name: weight + 0.05 for name, weight in exact.items()})

    monkeypatch.setattr(dpo, "restore_adapter", moved)
    with pytest.raises(TrainingError) as raised:
        preferred(policy, pairs, on_step=seen.append)
    assert raised.value.what.endswith("on the first batch, where adapter and reference must agree")
    assert raised.value.what.startswith("the reward of the chosen messages is ")
    assert raised.value.exit_code == 1 and len(seen) <= 1
    assert traces(policy) == before


def test_the_reference_is_the_adapter_as_the_step_began_not_the_base(
    policy: Policy, pairs: list[PairIds], logged: list[dict[str, float]]
) -> None:
    imitated(policy, pairs)
    preferred(policy, pairs, epochs=1)
    logged.clear()  # so far this was iteration 0; the next step begins where it ended
    start = mean_logps(policy.model, pairs)
    with policy.reading() as base:
        untrained = mean_logps(base, pairs)
    preferred(policy, pairs, beta=0.2)
    assert len(logged) == 3
    for entry in logged:  # a reward is beta times what the adapter has gained over the reference
        reference = tuple(entry[f"logps/{name}"] - entry[f"rewards/{name}"] / 0.2 for name in ("chosen", "rejected"))
        assert reference == pytest.approx(start, abs=1e-3)
        assert abs(reference[0] - untrained[0]) > 1
    assert abs(logged[-1]["rewards/chosen"]) > 1e-3, "while the adapter has moved on"


# --- What is trained ------------------------------------------------------------------------------


def test_exactly_the_sampled_ids_are_trained(
    policy: Policy, pairs: list[PairIds], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pairs[0]  # ids that no tokenizer would give: a word in single letters
    pairs[0] = PairIds(first.prompt, (*first.chosen[:1], *first.chosen[:1], *first.chosen), first.rejected)
    compute, seen = dpo._PairTrainer.compute_loss, []

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        half = len(inputs["input_ids"]) // 2
        keys = ("input_ids", "attention_mask", "completion_mask")
        lines = list(zip(*(inputs[key] for key in keys), strict=True))
        for chosen, rejected in zip(lines[:half], lines[half:], strict=True):
            two = [(ids[mask == 1].tolist(), ids[own == 1].tolist()) for ids, mask, own in (chosen, rejected)]
            seen.append(tuple(two))
        return compute(self, model, inputs, *args, **named)

    monkeypatch.setattr(dpo._PairTrainer, "compute_loss", spy)
    facts = preferred(policy, pairs, epochs=2, micro_batch=2)
    expected = [tuple(([*p.prompt, *message], [*message]) for message in (p.chosen, p.rejected)) for p in pairs]
    assert sorted(seen) == sorted(expected * 2), "each pair once an epoch; the loss falls on the messages alone"
    tokens = sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)
    assert (facts.rows, facts.trainer_tokens, facts.epochs, facts.steps) == (4, tokens, 2, 2)


@pytest.mark.parametrize("sft_weight", [0.0, 1.0])
def test_the_loss_does_not_depend_on_how_a_batch_is_split(pairs: list[PairIds], sft_weight: float) -> None:
    """Chosen messages differ in length, so a mean of means would."""
    found = []
    for micro in (1, 4):
        policy = fresh()
        facts = preferred(policy, pairs, sft_weight=sft_weight, micro_batch=micro, epochs=2)
        found.append((facts, torch.cat([weight.flatten() for weight in adapter(policy).values()])))
    (split, one), (whole, other) = found
    assert split.loss == pytest.approx(whole.loss, abs=1e-5)
    assert (split.chosen_shift, split.rejected_shift) == pytest.approx(
        (whole.chosen_shift, whole.rejected_shift), abs=1e-3
    )
    start = torch.cat([weight.flatten() for weight in adapter(fresh()).values()])
    assert float((one - other).norm()) < 0.05 * float((other - start).norm())


def test_it_learns_to_prefer(policy: Policy, pairs: list[PairIds]) -> None:
    before = mean_logps(policy.model, pairs)
    facts = preferred(policy, pairs, epochs=5)
    after = mean_logps(policy.model, pairs)
    assert (after[0] - after[1]) - (before[0] - before[1]) > 1
    assert facts.loss is not None and facts.loss < math.log(2)
    assert facts.chosen_shift is not None and facts.rejected_shift is not None
    assert facts.chosen_shift > facts.rejected_shift and not facts.stopped


def test_without_pairs_nothing_happens(policy: Policy) -> None:
    version = policy.version
    assert preferred(policy, []) == PreferenceFacts(0, 0, 0, 0, None, None, None, stopped=False)
    assert policy.version == version


# --- The guard ------------------------------------------------------------------------------------


def test_the_guard_stops_and_keeps_the_last_adapter_that_was_good(
    policy: Policy, pairs: list[PairIds], logged: list[dict[str, float]]
) -> None:
    """Chosen messages that are like their rivals become unlikely with them."""
    limit = 2.0
    alike = [PairIds(p.prompt, p.chosen, (*p.chosen[:-1], *p.chosen[-2:])) for p in pairs]
    before = mean_logps(policy.model, alike)[0]
    states: list[dict[str, Any]] = []
    facts = preferred(
        policy,
        alike,
        epochs=30,
        learning_rate=5e-3,
        max_chosen_drop=limit,
        on_step=lambda steps: states.append(adapter(policy)),
    )
    assert facts.stopped and facts.steps < 30
    assert facts.epochs == facts.steps, "only what was trained counts as trained tokens; an epoch is one step here"
    kept = adapter(policy)
    shifts = [entry["rewards/chosen"] / SETTINGS.beta for entry in logged]
    recent = [sum(shifts[max(0, end - 5) : end]) / min(5, end) for end in range(1, len(shifts) + 1)]
    assert [mean < -limit for mean in recent] == [False] * (len(shifts) - 1) + [True]
    assert mean_logps(policy.model, alike)[0] - before == pytest.approx(shifts[-2], abs=1e-3)
    same = [all(torch.equal(kept[name], state[name]) for name in kept) for state in states]
    assert same.index(True) == len(states) - 3, "the last adapter that was measured and found good"


def test_without_a_fall_the_guard_keeps_out_of_it(policy: Policy, pairs: list[PairIds]) -> None:
    states: list[dict[str, Any]] = []
    facts = preferred(policy, pairs, on_step=lambda steps: states.append(adapter(policy)))
    assert not facts.stopped and facts.steps == len(states) == 3
    assert all(torch.equal(weight, states[-1][name]) for name, weight in adapter(policy).items())


# --- The checklist --------------------------------------------------------------------------------

Spoil = Callable[[Policy, PairIds], PairIds]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda policy, p: PairIds(p.prompt[:1] + p.prompt, p.chosen, p.rejected), "two beginning-of-text tokens"),
        (lambda policy, p: PairIds(p.prompt, p.chosen[:-1], p.rejected), "a chosen message whose end is not learnt"),
        (lambda policy, p: PairIds(p.prompt, (), p.rejected), "a chosen message whose end is not learnt"),
        (lambda policy, p: PairIds(p.prompt, p.chosen, ()), "no difference between chosen and rejected"),
        (lambda policy, p: PairIds(p.prompt, p.chosen, p.chosen), "no difference between chosen and rejected"),
        (
            lambda policy, p: PairIds(p.prompt, p.chosen, p.rejected * policy.max_length),
            "{long} tokens, more than the model's {limit}",
        ),
    ],
)
def test_a_pair_that_would_be_learnt_wrongly_stops_the_run(
    policy: Policy, pairs: list[PairIds], spoil: Spoil, problem: str
) -> None:
    check(pairs, policy)
    version = policy.version
    pairs[2] = spoil(policy, pairs[2])
    with pytest.raises(TrainingError) as raised:
        preferred(policy, pairs)
    long = len(pairs[2].prompt) + len(pairs[2].rejected)
    assert raised.value.what == f"preference pair 2 has {problem.format(long=long, limit=policy.max_length)}"
    assert (raised.value.exit_code, policy.version) == (1, version)


def test_a_rejected_message_may_be_cut(policy: Policy, pairs: list[PairIds]) -> None:
    check([PairIds(p.prompt, p.chosen, p.rejected[:-1]) for p in pairs], policy)


# --- What is left behind --------------------------------------------------------------------------


@pytest.mark.slow
def test_six_rounds_of_both_trainers_leave_nothing_but_the_adapter(
    policy: Policy, pairs: list[PairIds], tmp_path: Path
) -> None:
    before, alive = traces(policy), []
    for _ in range(6):
        imitated(policy, pairs[:2], epochs=1)
        preferred(policy, pairs[:2], epochs=1, sft_weight=1.0)
        assert traces(policy) == before
        gc.collect()
        alive.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
    assert max(alive[1:]) <= alive[1], f"tensors alive after each round: {alive}"

    def spoken(by: Policy) -> list[tuple[int, ...]]:
        generator = Generator(by, max_batch_tokens=4096)
        prompts = [p.prompt for p in pairs]
        return generator.generate(prompts, sampling=Sampling(0.8, 1.0, 12), keys=range(len(prompts)))

    now = spoken(policy)
    assert now != spoken(fresh())
    policy.save_adapter(tmp_path)
    other = load(ModelSettings(name="tiny"), machine=Machine(), seed=9)
    other.load_adapter(tmp_path)
    assert spoken(other) == now


def test_a_step_that_breaks_off_leaves_no_traces(policy: Policy, pairs: list[PairIds]) -> None:
    before, version = traces(policy), policy.version

    def interrupt(steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preferred(policy, pairs, on_step=interrupt)
    assert traces(policy) == before
    assert policy.version > version
