"""Training: exactly the sampled ids, loss on own turns only, and a model that comes back as trainers found it."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import TrainingError  # noqa: E402
from optima_lite.learn import sft  # noqa: E402
from optima_lite.learn.sft import TrainingFacts, check, fine_tune, planned_steps, session  # noqa: E402
from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered, Renderer  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.records import Turn  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import ModelSettings, TrainingSettings  # noqa: E402
from optima_lite.settings.workflow import told  # noqa: E402
from optima_lite.tasks import world  # noqa: E402
from optima_lite.team.prompts import view  # noqa: E402
from optima_lite.team.talks import exchange  # noqa: E402

PAIR = told(exchange(("Alice", "Bob"), 4), "You are {name}, working with {partner}.")
SETTINGS = TrainingSettings(epochs=1, batch_size=4, learning_rate=2e-3, warmup_ratio=0)


@pytest.fixture
def rows(renderer: Renderer) -> list[Rendered]:
    """Both views of dialogues in which everybody says the same two things."""
    end = renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    turns = [Turn(0, (*renderer.encode(" over to you"), end), ""), Turn(1, (*renderer.encode(" thanks"), end), "")]
    return [
        renderer.conversation(view(question, turns, speaker, workflow=PAIR))
        for question in world.questions("train", 4, seed=0)
        for speaker in (0, 1)
    ]


def trained(
    policy: Policy, rows: list[Rendered], settings: TrainingSettings = SETTINGS, **changes: Any
) -> TrainingFacts:
    wanted: dict[str, Any] = {"micro_batch": 2, "seed": 3, "on_step": lambda steps: None} | changes
    return fine_tune(policy, rows, settings=settings, **wanted)


def adapter(policy: Policy) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" in n}


def own_loss(policy: Policy, row: Rendered) -> float:
    """Mean nats of the own turns' tokens, adapter on."""
    ids = torch.tensor([row.ids])
    own = torch.tensor(row.mask[1:], dtype=torch.bool)
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits[own], ids[0, 1:][own]))


# --- What is trained ------------------------------------------------------------------------------


def test_exactly_the_rows_are_trained_and_only_own_turns_have_labels(
    policy: Policy, rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], list[int]]] = []

    class Spy(sft.RowTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
                assert (labels[mask == 0] == -100).all(), "padding has no loss"
                seen.append((ids[mask == 1].tolist(), labels[mask == 1].tolist()))
            return super().compute_loss(model, inputs, *arguments, **named)

    monkeypatch.setattr(sft, "RowTrainer", Spy)
    facts = trained(policy, rows, replace_settings(epochs=2))
    expected = [(list(r.ids), [i if own else -100 for i, own in zip(r.ids, r.mask, strict=True)]) for r in rows]
    assert sorted(seen) == sorted(expected * 2), "each row once an epoch"
    ends = {label for _, labels in seen for label in labels if label in policy.end_ids}
    assert ends, "turn ends are learnt"
    assert (facts.rows, facts.epochs, facts.trainer_tokens) == (8, 2, sum(len(row.ids) for row in rows))


def test_steps_are_counted_told_and_planned(policy: Policy, rows: list[Rendered]) -> None:
    told: list[int] = []
    settings = replace_settings(epochs=2)
    facts = trained(policy, rows[:5], settings, on_step=told.append)
    assert told == [1] * facts.steps
    assert facts.steps == planned_steps(5, settings) == 4, "five rows make two steps of at most four, twice"


@pytest.mark.parametrize(("batch", "micro", "at_once"), [(16, 16, 16), (16, 5, 4), (12, 8, 6), (4, 16, 4), (7, 2, 1)])
def test_the_recipe_s_batch_holds_whatever_fits_at_once(batch: int, micro: int, at_once: int) -> None:
    settings = TrainingSettings(batch_size=batch)
    found = sft.arguments("scratch", settings, rows=100, micro_batch=micro, seed=0)
    assert found["per_device_train_batch_size"] == at_once
    assert at_once * found["gradient_accumulation_steps"] == batch


@pytest.mark.parametrize("native", [True, False])
def test_a_card_is_trained_on_in_the_precision_it_computes_in(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards older than the RTX 30 series have bfloat16 by emulation only, which torch counts as support."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    found = sft.arguments("scratch", SETTINGS, rows=4, micro_batch=1, seed=0)
    assert (found["bf16"], found["fp16"]) == (native, not native)
    assert found["gradient_checkpointing"]


def test_the_split_into_micro_batches_does_not_change_what_is_learnt(rows: list[Rendered]) -> None:
    """Rows have different numbers of own tokens, so a mean of means would."""
    found = []
    for micro in (1, 4):
        policy = load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
        trained(policy, rows[:4], micro_batch=micro)
        found.append(adapter(policy))
    one, two = found
    moved = max(float((one[n] - start).abs().max()) for n, start in adapter(fresh()).items())
    apart = max(float((one[n] - two[n]).abs().max()) for n in one)
    assert apart < 0.05 * moved


def fresh() -> Policy:
    return load(ModelSettings(name="tiny"), machine=Machine(), seed=0)


def replace_settings(**changes: Any) -> TrainingSettings:
    return SETTINGS.model_copy(update=changes)


def test_it_learns_what_it_is_shown(policy: Policy, rows: list[Rendered]) -> None:
    shown, other = rows[:6], rows[6:]
    before = [sum(own_loss(policy, row) for row in some) / len(some) for some in (shown, other)]
    facts = trained(policy, shown, replace_settings(epochs=4, batch_size=2, learning_rate=5e-3))
    after = [sum(own_loss(policy, row) for row in some) / len(some) for some in (shown, other)]
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.7 * before[1], "the same messages about questions it has not seen"
    assert facts.loss is not None and facts.loss < before[0]


def test_training_repeats_itself_from_the_seed(rows: list[Rendered]) -> None:
    found = []
    for seed in (3, 3, 4):
        policy = load(ModelSettings(name="tiny", lora_dropout=0.1), machine=Machine(), seed=0)
        torch.manual_seed(len(found))  # whatever was random before does not count
        trained(policy, rows[:2], replace_settings(batch_size=1), seed=seed)
        found.append(adapter(policy))
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert not all(torch.equal(found[0][n], found[2][n]) for n in found[0])


def test_without_rows_nothing_happens(policy: Policy) -> None:
    version = policy.version
    assert trained(policy, []) == TrainingFacts(rows=0, trainer_tokens=0, epochs=0, steps=0, loss=None)
    assert policy.version == version


# --- The checklist --------------------------------------------------------------------------------

Spoil = Callable[[Policy, Rendered], Rendered]


def two_beginnings(policy: Policy, row: Rendered) -> Rendered:
    spans = tuple((start + 1, end + 1) for start, end in row.spans)
    return replace(row, ids=(policy.tokenizer.bos_token_id, *row.ids), spans=spans)


def padded(policy: Policy, row: Rendered) -> Rendered:
    return replace(row, ids=(*row.ids[:3], policy.pad_id, *row.ids[4:]))


def too_long(policy: Policy, row: Rendered) -> Rendered:
    return replace(row, ids=row.ids + row.ids[10:11] * (policy.max_length + 1 - len(row.ids)))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda policy, row: replace(row, spans=()), "no token to learn from"),
        (lambda policy, row: replace(row, spans=((5, 5),)), "no token to learn from"),
        (two_beginnings, "two beginning-of-text tokens"),
        (
            lambda policy, row: replace(row, spans=tuple((a, b - 1) for a, b in row.spans)),
            "an own turn whose end is not learnt",
        ),
        (padded, "padding inside the text"),
        (too_long, "{too_long} tokens, more than the model's {limit}"),
    ],
)
def test_a_row_that_would_be_trained_wrongly_stops_the_run(
    policy: Policy, rows: list[Rendered], spoil: Spoil, problem: str
) -> None:
    check(rows, policy)
    before, version = adapter(policy), policy.version
    rows[2] = spoil(policy, rows[2])
    with pytest.raises(TrainingError) as raised:
        trained(policy, rows)
    problem = problem.format(too_long=policy.max_length + 1, limit=policy.max_length)
    assert raised.value.what == f"training row 2 has {problem}"
    assert (raised.value.exit_code, raised.value.hint) == (1, "this is a defect; please report it")
    assert policy.version == version and all(torch.equal(before[n], w) for n, w in adapter(policy).items())


# --- What is left behind --------------------------------------------------------------------------


def traces(policy: Policy) -> dict[str, Any]:
    """All that a trainer is known to change on a model."""
    base = policy.model.get_base_model()
    modules = dict(policy.model.named_modules())
    return {
        "adapters": list(policy.model.peft_config),
        "active": list(policy.model.active_adapters),
        "forward": base.__dict__.get("forward"),
        "hooks": [n for n, m in modules.items() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks],
        "dropout": {name: m.p for name, m in modules.items() if isinstance(m, torch.nn.Dropout)},
        "training": [name for name, m in modules.items() if m.training],
        "checkpointing": [name for name, m in modules.items() if getattr(m, "gradient_checkpointing", False)],
        "prepared": hasattr(policy.model, "_is_accelerate_prepared"),
        "gradients": [name for name, p in policy.model.named_parameters() if p.grad is not None],
        "trainable": [name for name, p in policy.model.named_parameters() if p.requires_grad],
        "types": {p.dtype for p in policy.model.parameters()},
        "cache": base.config.use_cache,
        "padding": policy.tokenizer.padding_side,
        "logging": logging.getLogger("trl").level,
    }


def test_a_session_leaves_no_traces(rows: list[Rendered]) -> None:
    policy = load(ModelSettings(name="tiny", lora_dropout=0.1), machine=Machine(), seed=0)
    before = traces(policy)
    assert before["dropout"] and set(before["dropout"].values()) == {0.1}
    for _ in range(3):
        version = policy.version
        trained(policy, rows[:2])
        assert traces(policy) == before
        assert policy.version > version


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_session_that_breaks_off_leaves_no_traces(
    policy: Policy, rows: list[Rendered], error: type[BaseException]
) -> None:
    before, version = traces(policy), policy.version

    def interrupt(steps: int) -> None:
        raise error

    with pytest.raises(error):
        trained(policy, rows[:4], on_step=interrupt)
    assert traces(policy) == before
    assert policy.version > version


def test_a_session_undoes_what_trainers_are_known_for(policy: Policy) -> None:
    before = traces(policy)
    with session(policy) as model:
        base = model.get_base_model()
        model.add_adapter("ref", model.peft_config["default"])
        model.set_adapter("ref")
        base.forward = lambda *arguments, **named: None
        base.model.register_forward_hook(lambda *arguments: None)
        base.model.embed_tokens.register_forward_pre_hook(lambda *arguments: None)
        base.gradient_checkpointing_enable()
        model.train()
        policy.tokenizer.padding_side = "right"
        next(p for p in model.parameters() if p.requires_grad).grad = torch.zeros(1)[0:0].new_zeros(
            next(p for p in model.parameters() if p.requires_grad).shape
        )
    assert traces(policy) == before


def test_generation_after_training_is_that_of_the_saved_adapter(
    policy: Policy, rows: list[Rendered], tmp_path: Path
) -> None:
    prompts, sampling = [row.ids[: row.spans[0][0]] for row in rows], Sampling(0.8, 1.0, 8)

    def spoken(by: Policy) -> list[tuple[int, ...]]:
        return Generator(by, max_batch_tokens=4096).generate(prompts, sampling=sampling, keys=range(len(prompts)))

    untrained = spoken(policy)
    trained(policy, rows[:4], replace_settings(batch_size=2, learning_rate=1e-2))
    now = spoken(policy)
    assert now != untrained
    policy.save_adapter(tmp_path)
    other = load(ModelSettings(name="tiny"), machine=Machine(), seed=9)
    other.load_adapter(tmp_path)
    assert spoken(other) == now


def test_trainers_do_not_outlive_their_session(
    policy: Policy, rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []

    class Watched(sft.RowTrainer):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(weakref.ref(self))

    monkeypatch.setattr(sft, "RowTrainer", Watched)
    for _ in range(2):
        trained(policy, rows[:2])
    gc.collect()
    assert [reference() for reference in made] == [None, None]


@pytest.mark.slow
def test_memory_stays_flat_over_many_sessions(policy: Policy, rows: list[Rendered]) -> None:
    import psutil

    process, sizes = psutil.Process(), []
    generator = Generator(policy, max_batch_tokens=4096)
    for _ in range(10):
        trained(policy, rows)
        generator.generate([row.ids for row in rows], sampling=Sampling(0.8, 1.0, 16), keys=range(len(rows)))
        sizes.append(process.memory_info().rss)
    assert max(sizes[2:]) < 1.1 * sizes[1]


# --- Four bits ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:bitsandbytes")
def test_a_four_bit_base_speaks_and_learns_with_exact_gradients(rows: list[Rendered]) -> None:
    """Against the same weights in float32: packed layers of some CPUs would pass wrong gradients (relative error .87)
    after they have generated once."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    policy = load(ModelSettings(name="tiny", quantization="nf4"), machine=Machine(), seed=0)
    plain = fresh()
    quantised = {n: m for n, m in policy.model.named_modules() if isinstance(m, Linear4bit)}
    assert len(quantised) == 7 * plain.model.get_base_model().config.num_hidden_layers
    dense = dict(plain.model.named_modules())
    with torch.no_grad():
        for name, layer in quantised.items():
            dense[name].weight.copy_(dequantize_4bit(layer.weight.data, layer.weight.quant_state))
        for (_, here), (_, there) in zip(policy.model.named_parameters(), plain.model.named_parameters(), strict=True):
            if here.shape == there.shape and here.dtype == there.dtype:
                there.copy_(here)

    generator = Generator(policy, max_batch_tokens=4096)
    prompts = [row.ids[: row.spans[0][0]] for row in rows]
    for ids in generator.generate(prompts, sampling=Sampling(0.8, 1.0, 8), keys=range(len(prompts))):
        assert 1 <= len(ids) <= 8

    found, exact = gradient(policy, rows[0]), gradient(plain, rows[0])
    assert found.keys() == exact.keys()
    for name in exact:
        assert float((found[name] - exact[name]).norm()) <= 1e-3 * float(exact[name].norm()) + 1e-7, name

    before = own_loss(policy, rows[0])
    facts = trained(policy, rows[:2], replace_settings(epochs=6, batch_size=2, learning_rate=5e-3))
    assert facts.steps == 6
    assert {p.dtype for n, p in policy.model.named_parameters() if "lora_" in n} == {torch.float32}
    assert own_loss(policy, rows[0]) < 0.7 * before


def gradient(policy: Policy, row: Rendered) -> dict[str, Any]:
    """Of the row's loss, by the adapter's weights."""
    ids = torch.tensor([row.ids])
    policy.model(input_ids=ids, labels=ids).loss.backward()
    found = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return found
