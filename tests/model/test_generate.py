"""The generator against the plainest one: a row at a time, the whole text through the model for every token."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AddedToken, LlamaConfig, LlamaForCausalLM

from optima_lite.errors import ModelError
from optima_lite.model import decoding
from optima_lite.model.decoding import Decoding
from optima_lite.model.generate import Generator
from optima_lite.model.policy import Policy
from optima_lite.model.prefix_cache import PrefixCache
from optima_lite.model.render import Rendered
from optima_lite.model.sampling import Sampling, row_key, uniforms

VOCABULARY, PAD = 48, 2
SPECIAL = {0: "<bos>", 1: "<end>", PAD: "<pad>"}
ENDS = (1, *range(3, 9))  # a seventh of the vocabulary: turns end early and raggedly
BYTES_PER_TOKEN = 2 * 2 * 1 * 16 * 8  # in float64
CACHES = {"none": 0, "some tokens": 24 * BYTES_PER_TOKEN, "a few rows": 150 * BYTES_PER_TOKEN, "roomy": 1 << 26}
SAMPLED, NUCLEUS, GREEDY = Sampling(1.0, 1.0, 20), Sampling(1.3, 0.8, 11), Sampling(0.0, 1.0, 9)


def make_policy(dtype: torch.dtype) -> Policy:
    """A random Llama with grouped keys and values, and an adapter that really changes it."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in a way that it is about to drop
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=PAD,
            initializer_range=0.15,  # distributions as peaked as a trained model's
        )
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(LlamaForCausalLM(config), lora).to(dtype).eval()
    added = {i: AddedToken(text, special=True) for i, text in SPECIAL.items()} | {20: AddedToken("<A>", special=False)}
    tokenizer = SimpleNamespace(pad_token_id=PAD, added_tokens_decoder=added)
    return Policy(model=model, tokenizer=tokenizer, max_length=512, end_ids=ENDS, base="random")


@pytest.fixture(scope="module")
def exact() -> Policy:
    return make_policy(torch.float64)


@pytest.fixture(scope="module")
def single() -> Policy:
    return make_policy(torch.float32)


@cache
def read_one(policy: Policy, ids: tuple[int, ...], *, adapter: bool) -> Tensor:
    """Logits at every position of one text, computed from scratch."""
    with torch.no_grad():
        if adapter:
            return policy.model(input_ids=torch.tensor([ids])).logits[0]
        with policy.model.disable_adapter():
            return policy.model(input_ids=torch.tensor([ids])).logits[0]


@cache
def say_one(policy: Policy, prompt: tuple[int, ...], sampling: Sampling, key: int) -> tuple[int, ...]:
    """What the generator must say, by definition: inverse-CDF sampling, a token at a time."""
    said: tuple[int, ...] = ()
    while len(said) < sampling.max_new_tokens and not (said and said[-1] in policy.end_ids):
        said = (*said, choose(next_logits(policy, prompt + said), sampling, key, len(said)))
    return said


def next_logits(policy: Policy, ids: tuple[int, ...]) -> Tensor:
    """What may follow: anything but special tokens that end nothing."""
    logits = read_one(policy, ids, adapter=True)[-1].clone()
    logits[[i for i in SPECIAL if i not in policy.end_ids]] = -torch.inf
    return logits


def choose(logits: Tensor, sampling: Sampling, key: int, step: int) -> int:
    if sampling.temperature == 0:
        return int(logits.argmax())
    chances = (logits.double() / sampling.temperature).softmax(-1).tolist()
    likeliest, allowed, mass = sorted(range(len(chances)), key=lambda i: -chances[i]), set(), 0.0
    while mass < sampling.top_p and len(allowed) < len(chances):
        allowed.add(likeliest[len(allowed)])
        mass = sum(chances[i] for i in allowed)
    point, below = float(uniforms(torch.tensor([key]), torch.tensor([step]))) * mass, 0.0
    for token in sorted(allowed):
        below += chances[token]
        if point < below:
            return token
    return max(allowed)


def texts(seed: int, count: int, *, longest: int = 40) -> list[tuple[int, ...]]:
    """Prompts of which many share their beginnings."""
    chance = random.Random(seed)
    made = [tuple(chance.randrange(9, VOCABULARY) for _ in range(chance.randrange(1, longest)))]
    while len(made) < count:
        start = chance.choice(made)[: chance.randrange(longest)]
        made.append((*start, *(chance.randrange(9, VOCABULARY) for _ in range(chance.randrange(1, 9)))))
    return made


def spoken(prompt: tuple[int, ...], ids: tuple[int, ...]) -> Rendered:
    return Rendered(prompt + ids, ((len(prompt), len(prompt + ids)),))


# --- Equality with one row at a time --------------------------------------------------------------


@pytest.mark.parametrize("sampling", [SAMPLED, NUCLEUS, GREEDY])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_every_batch_size_says_what_one_row_at_a_time_does(exact: Policy, rows: int, sampling: Sampling) -> None:
    prompts = texts(rows, rows)
    expected = [say_one(exact, prompt, sampling, key) for key, prompt in enumerate(prompts)]
    for budget, sizes in ((1 << 20, CACHES.values()), (300, (0, CACHES["a few rows"]))):
        for size in sizes:
            generator = Generator(exact, max_batch_tokens=budget, max_cache_bytes=size)
            assert generator.generate(prompts, sampling=sampling, keys=range(rows)) == expected


turn = st.tuples(st.integers(0, 10**6), st.lists(st.integers(9, VOCABULARY - 1), max_size=6))


@settings(max_examples=12)
@given(
    rounds=st.lists(st.lists(turn, min_size=1, max_size=8), min_size=1, max_size=5),
    cache_size=st.sampled_from(sorted(CACHES)),
    budget=st.sampled_from([1, 90, 400, 1 << 20]),
    sampling=st.sampled_from([SAMPLED, NUCLEUS, GREEDY]),
)
def test_random_traffic_with_forks_of_forks(
    exact: Policy, rounds: list[list[Any]], cache_size: str, budget: int, sampling: Sampling
) -> None:
    """Each round continues, forks or cuts texts of earlier rounds, while the cache throws out what does not fit."""
    generator = Generator(exact, max_batch_tokens=budget, max_cache_bytes=CACHES[cache_size])
    known: list[tuple[int, ...]] = [tuple(range(9, 29))]
    for number, asked in enumerate(rounds):
        prompts, keys = [], []
        for pick, added in asked:
            origin = known[pick % len(known)]
            kept = origin[: 1 + pick % len(origin)] if pick % 3 == 0 else origin
            prompts.append((*kept, *added)[-120:])
            keys.append(row_key(number, pick))
        said = generator.generate(prompts, sampling=sampling, keys=keys)
        for prompt, key, ids in zip(prompts, keys, said, strict=True):
            assert ids == say_one(exact, prompt, sampling, key)
        known += [prompt + ids for prompt, ids in zip(prompts, said, strict=True)]
        assert generator.states.cache.bytes <= CACHES[cache_size]
        rows = [spoken(prompt, ids) for prompt, ids in zip(prompts, said, strict=True)]
        assert generator.losses(rows) == [pytest.approx(losses_one(exact, row), abs=1e-9) for row in rows]


def test_long_and_short_rests_side_by_side(exact: Policy) -> None:
    """Rows that are almost known next to one that is not at all, which is computed apart."""
    known = texts(5, 12)
    generator = Generator(exact, max_batch_tokens=1 << 20)
    said = generator.generate(known, sampling=SAMPLED, keys=range(12))
    prompts = [prompt + ids + (9,) for prompt, ids in zip(known, said, strict=True)] + [tuple(range(9, 47)) * 3]
    keys = [row_key("again", k) for k in range(13)]
    expected = [say_one(exact, prompt, SAMPLED, key) for prompt, key in zip(prompts, keys, strict=True)]
    assert generator.generate(prompts, sampling=SAMPLED, keys=keys) == expected


@pytest.mark.parametrize("size", [0, CACHES["roomy"]])
def test_rows_that_nobody_leaves_go_on_in_their_batch(exact: Policy, size: int) -> None:
    endless = replace(exact, end_ids=(VOCABULARY,))
    prompts, sampling = texts(10, 4), Sampling(1.0, 1.0, 30)
    generator = Generator(endless, max_batch_tokens=1 << 20, max_cache_bytes=size)
    for number in range(2):
        keys = [row_key(number, k) for k in range(4)]
        said = generator.generate(prompts, sampling=sampling, keys=keys)
        assert [len(ids) for ids in said] == [30] * 4
        assert said == [say_one(endless, prompt, sampling, key) for prompt, key in zip(prompts, keys, strict=True)]
        prompts = [prompt + ids for prompt, ids in zip(prompts, said, strict=True)]


def test_only_special_tokens_that_end_a_turn_are_sampled() -> None:
    policy = make_policy(torch.float64)
    with torch.no_grad():
        policy.model.get_base_model().lm_head.weight[:] = 0.0  # every token is as likely as any other
    generator = Generator(policy, max_batch_tokens=1 << 20)
    said = generator.generate([[9]] * 64, sampling=Sampling(1.0, 1.0, 40), keys=range(64))
    assert {token for ids in said for token in ids} == set(range(VOCABULARY)) - {0, PAD}


@pytest.mark.parametrize("size", [0, CACHES["roomy"]])
def test_a_nucleus_that_goes_beyond_its_candidates_is_drawn_again(
    exact: Policy, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    prompts = texts(12, 9)
    expected = [say_one(exact, prompt, NUCLEUS, key) for key, prompt in enumerate(prompts)]
    voided = 0
    sample = Decoding._sample

    def watched(self: Decoding, *args: Any) -> list[list[int]]:
        nonlocal voided
        found = sample(self, *args)
        voided += any(beyond for *_, beyond in found)
        return found

    monkeypatch.setattr(decoding, "_CANDIDATES", 1)
    monkeypatch.setattr(Decoding, "_sample", watched)
    generator = Generator(exact, max_batch_tokens=300, max_cache_bytes=size)
    assert generator.generate(prompts, sampling=NUCLEUS, keys=range(9)) == expected
    assert voided == 2, "one candidate does not suffice, eight do not, and all later slices look among 64"


def test_no_prompts_no_results(exact: Policy) -> None:
    generator = Generator(exact, max_batch_tokens=100)
    assert generator.generate([], sampling=SAMPLED, keys=[]) == []
    assert generator.losses([]) == []


def border(logits: Tensor, sampling: Sampling, key: int, step: int, tokens: tuple[int, int]) -> float:
    """How far the decision between two tokens was from falling the other way."""
    if sampling.temperature == 0:
        return float((logits[tokens[0]] - logits[tokens[1]]).abs())
    upto = (logits.double() / sampling.temperature).softmax(-1).cumsum(-1)
    point = uniforms(torch.tensor([key]), torch.tensor([step]))
    return float((upto[min(tokens) : max(tokens)] - point).abs().min())


@pytest.mark.parametrize("sampling", [Sampling(1.0, 1.0, 40), Sampling(0.0, 1.0, 40)])
def test_in_single_precision_only_near_ties_may_differ(single: Policy, sampling: Sampling) -> None:
    prompts = texts(11, 64)
    differences = 0
    for size in (0, CACHES["a few rows"], CACHES["roomy"]):
        generator = Generator(single, max_batch_tokens=2000, max_cache_bytes=size)
        for key, ids in enumerate(generator.generate(prompts, sampling=sampling, keys=range(64))):
            expected = say_one(single, prompts[key], sampling, key)
            if ids == expected:
                continue
            differences += 1
            step = next(k for k, (one, two) in enumerate(zip(ids, expected, strict=False)) if one != two)
            logits = next_logits(single, prompts[key] + expected[:step])
            assert border(logits, sampling, key, step, (ids[step], expected[step])) < 1e-4
    assert differences <= 3, "near-ties are rare among 192 rows"


# --- The cache ------------------------------------------------------------------------------------


def test_what_is_shared_is_computed_once(exact: Policy) -> None:
    prompts = [(*range(9, 39), 40 + k) for k in range(6)] * 2
    generator = Generator(exact, max_batch_tokens=1 << 20)
    said = generator.generate(prompts, sampling=SAMPLED, keys=range(12))
    assert generator.counts.computed == 30 + 12  # the common beginning once, then the last id of every row
    assert generator.counts.reused == 12 * 30
    assert generator.counts.sampled == sum(map(len, said))


def test_a_second_turn_computes_only_what_is_new(exact: Policy) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20)
    prompts = texts(2, 20)
    said = generator.generate(prompts, sampling=SAMPLED, keys=range(20))
    before = generator.counts.computed
    longer = [prompt + ids + (10, 11, 12) for prompt, ids in zip(prompts, said, strict=True)]
    generator.generate(longer, sampling=SAMPLED, keys=range(20))
    assert generator.counts.computed - before <= 20 * 4  # three new ids and the last one said, which had no states yet


def test_without_a_cache_nothing_is_reused_or_kept(exact: Policy) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20, max_cache_bytes=0)
    prompts = texts(3, 10)
    for _ in range(2):
        generator.generate(prompts, sampling=SAMPLED, keys=range(10))
    assert generator.counts.reused == generator.states.cache.bytes == 0
    assert generator.counts.computed == 2 * sum(map(len, prompts))


def train_a_little(policy: Policy) -> None:
    with policy.changing(), torch.no_grad():
        nudge(policy)


def nudge(policy: Policy) -> None:
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3)


@pytest.mark.parametrize("change", [train_a_little, nudge], ids=["announced", "behind the policy's back"])
def test_nothing_is_kept_after_a_change_of_the_weights(change: Callable[[Policy], None]) -> None:
    policy = make_policy(torch.float64)
    prompts = texts(4, 10)
    generator = Generator(policy, max_batch_tokens=1 << 20)
    generator.generate(prompts, sampling=SAMPLED, keys=range(10))
    assert generator.states.cache.bytes > 0
    change(policy)
    fresh = Generator(policy, max_batch_tokens=1 << 20)
    again = generator.generate(prompts, sampling=SAMPLED, keys=range(10))
    assert again == fresh.generate(prompts, sampling=SAMPLED, keys=range(10))
    assert generator.states.cache.bytes == fresh.states.cache.bytes


def test_reading_does_not_take_the_adapters_states_for_its_own(exact: Policy) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20)
    prompts = texts(6, 8)
    said = generator.generate(prompts, sampling=SAMPLED, keys=range(8))
    rows = [spoken(prompt, ids) for prompt, ids in zip(prompts, said, strict=True)]
    assert generator.losses(rows) == [pytest.approx(losses_one(exact, row), abs=1e-9) for row in rows]
    assert generator.generate(prompts, sampling=SAMPLED, keys=range(8)) == said


# --- Losses ---------------------------------------------------------------------------------------


def losses_one(policy: Policy, row: Rendered) -> tuple[float, ...]:
    nats = -read_one(policy, row.ids, adapter=False).log_softmax(-1)
    return tuple(
        float(torch.stack([nats[k - 1, row.ids[k]] for k in range(start, end)]).mean()) for start, end in row.spans
    )


@pytest.mark.parametrize("size", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("budget", [1, 250, 1 << 20])
def test_losses_are_those_of_each_text_alone(exact: Policy, size: int, budget: int) -> None:
    chance = random.Random(7)
    rows = []
    for ids in texts(7, 30):
        cuts = sorted(chance.sample(range(1, len(ids) + 1), min(len(ids), 4)))
        spans = tuple(zip(cuts[::2], cuts[1::2], strict=False)) or ((1, len(ids)),)
        if len(ids) > 1:
            rows.append(Rendered(ids, spans))
    rows += rows[:5]
    generator = Generator(exact, max_batch_tokens=budget, max_cache_bytes=size)
    expected = [pytest.approx(losses_one(exact, row), abs=1e-9) for row in rows]
    assert generator.losses(rows) == expected
    assert generator.losses(rows[::-1]) == expected[::-1]


def test_a_loss_known_from_before_is_not_computed_again(exact: Policy) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20)
    ids = tuple(range(9, 39))
    generator.losses([Rendered(ids, ((10, 20),))])
    before = generator.counts.computed
    assert generator.losses([Rendered(ids, ((10, 20),))]) == [
        pytest.approx(losses_one(exact, Rendered(ids, ((10, 20),))))
    ]
    assert generator.counts.computed == before
    grown = Rendered((*ids, 9, 10, 11), ((10, 20), (30, 33)))  # the dialogue went on
    assert generator.losses([grown]) == [pytest.approx(losses_one(exact, grown))]
    assert generator.counts.computed - before == 4  # the new ids and the one that predicts the first of them


# --- Memory ---------------------------------------------------------------------------------------


def starve(monkeypatch: pytest.MonkeyPatch, policy: Policy, error: Exception, *, above: int) -> None:
    """Forward passes of more than so many rows fail for want of memory, in the middle of the model."""
    layer = policy.model.get_base_model().model.layers[1]
    forward = layer.forward

    def limited(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden.shape[0] > above:
            raise error
        return forward(hidden, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", limited)


OUT_OF_MEMORY = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
@pytest.mark.parametrize("size", CACHES.values(), ids=CACHES)
def test_too_little_memory_halves_the_batches_and_loses_nothing(
    exact: Policy, monkeypatch: pytest.MonkeyPatch, error: Exception, size: int
) -> None:
    prompts = texts(8, 24)
    expected = [say_one(exact, prompt, SAMPLED, key) for key, prompt in enumerate(prompts)]
    rows = [spoken(prompt, ids) for prompt, ids in zip(prompts, expected, strict=True)]
    notes: list[str] = []
    generator = Generator(exact, max_batch_tokens=1 << 20, max_cache_bytes=size, notify=notes.append)
    starve(monkeypatch, exact, error, above=9)
    assert generator.generate(prompts, sampling=SAMPLED, keys=range(24)) == expected
    generator.states.max_batch_tokens = 1 << 20
    losses = generator.losses(rows)
    monkeypatch.undo()
    assert losses == [pytest.approx(losses_one(exact, row), abs=1e-9) for row in rows]
    assert len(notes) == 1, "said once, however often it happens"
    assert "memory did not suffice for a batch of" in notes[0]
    assert "going on with half as many at a time" in notes[0]
    assert generator.states.max_batch_tokens < 10 * 60


@pytest.mark.parametrize(("where", "call"), [("sample", 2), ("keep", 3)])
def test_memory_that_runs_out_in_the_middle_keeps_what_was_sampled(
    exact: Policy, monkeypatch: pytest.MonkeyPatch, where: str, call: int
) -> None:
    """While sampling a slice, or while the states of rows that have just finished are being kept."""
    prompts = [(9 + k, *range(9, 20)) for k in range(30)]  # nothing is shared, so only finished rows are kept
    sampling = Sampling(1.0, 1.0, 40)
    expected = [say_one(exact, prompt, sampling, key) for key, prompt in enumerate(prompts)]
    generator = Generator(exact, max_batch_tokens=1 << 20)
    owner, name = (Decoding, "_sample") if where == "sample" else (PrefixCache, "add")
    work, calls = getattr(owner, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = work(*args, **kwargs)
        calls += 1
        if calls == call:  # after the work, when the cache has grown already
            raise OUT_OF_MEMORY["GPU"]
        return result

    monkeypatch.setattr(owner, name, failing)
    assert generator.generate(prompts, sampling=sampling, keys=range(30)) == expected
    assert calls > call


def test_the_cache_gives_way_before_a_single_row_does(exact: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20)
    prompts = [tuple(range(9, 29))]
    expected = generator.generate(prompts, sampling=SAMPLED, keys=[0])
    sample = Decoding._sample

    def crowded(*args: Any) -> Any:
        if generator.states.cache.bytes:
            raise OUT_OF_MEMORY["GPU"]
        return sample(*args)

    monkeypatch.setattr(Decoding, "_sample", crowded)
    assert generator.generate(prompts, sampling=SAMPLED, keys=[0]) == expected


def test_memory_for_not_even_one_row_is_the_users_to_mend(exact: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20, max_cache_bytes=0)
    starve(monkeypatch, exact, OUT_OF_MEMORY["GPU"], above=0)
    with pytest.raises(ModelError) as caught:
        generator.generate([[9, 10], [9, 11]], sampling=SAMPLED, keys=[0, 1])
    assert str(caught.value) == (
        "not enough memory for one sequence of 22 tokens\n"
        "  try: shorter prompts and turns (sampling.max_turn_tokens), or a smaller model"
    )


def test_other_errors_are_not_taken_for_a_lack_of_memory(exact: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(exact, max_batch_tokens=1 << 20)
    starve(monkeypatch, exact, RuntimeError("a bug"), above=0)
    with pytest.raises(RuntimeError, match="a bug"):
        generator.generate([[9, 10]], sampling=SAMPLED, keys=[0])
