"""What a run will need of the card: a forecast of memory, phase by phase, from the model's shape alone. No torch.

Every formula counts the tensors that are alive at a phase's peak, as the code of transformers, PEFT and TRL makes them.
It counts what torch allocates; a card also holds the CUDA context, which `OVERHEAD` stands for. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..settings.machine import Machine
from ..settings.recipe import Recipe
from .shapes import Shape

GIB = 2**30
OVERHEAD = int(0.75 * GIB)  # CUDA context, kernels and what the allocator cannot reuse; an estimate
MOST_TOKENS, FEWEST_TOKENS = (
    32_768,
    2_048,
)  # of a batch while sampling: more gains no speed, fewer cannot hold a dialogue

_ADAPTER_BYTES = 4  # the adapter is float32, because a small learning rate moves nothing in bf16
_NF4_BYTES = 0.5 + (1 + 4 / 256) / 64  # four bits, and a byte for each 64 of them, with a float for each 256 of those
_DRAWN_AT_ONCE, _LOSSES_AT_ONCE = 1 << 22, 1 << 24  # logits that become probabilities, or losses, at a time ...
_DRAWN_BYTES, _LOSS_BYTES = 80, 12  # ... and the bytes each takes then: a nucleus as wide as the vocabulary; float32
_HEAD_TOKENS, _HEAD_COLUMNS = 4_096, 32_768  # TRL's loss: the tile of logits that exists at a time
_CACHE_GIB = 2  # what `auto` tries to keep for the prefix cache even at the cost of smaller batches
_CACHED_ROWS = 800  # more are never of use: two views of the dialogues that are held side by side
_SPARE = 0.05  # of the room, that `auto` leaves to what the forecast does not know


@dataclass(frozen=True, slots=True)
class Setup:
    """How the model is held. gpu: it computes in half precision and trains with gradient checkpointing; on the CPU an
    unquantised model speaks with its adapter merged. adapters: how many are held, of which one speaks or is trained."""

    quantised: bool
    gpu: bool
    lora_rank: int
    adapters: int = 1

    @property
    def number_bytes(self) -> int:
        """Bytes of a number while computing."""
        return 2 if self.gpu else 4


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes a run works with. batch_tokens: rows times their padded length while sampling. turn_tokens: a message.
    row_tokens: the longest row. micro_batch: rows, or pairs, trained on at once. cache_bytes: the prefix cache's bound.
    """

    batch_tokens: int
    turn_tokens: int
    row_tokens: int
    micro_batch: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase's peak: bytes by what they are for, in the order in which they come."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())


def planned(
    recipe: Recipe, machine: Machine, shape: Shape, setup: Setup, *, row_tokens: int, room: int
) -> tuple[Limits, tuple[Phase, ...]]:
    """The sizes that a run of the recipe will work with in `room` bytes, and the forecast for them.

    row_tokens: the longest row the model takes. A batch size that the machine file sets is kept.
    """
    given = None if machine.max_batch_tokens == "auto" else machine.max_batch_tokens
    wanted = Limits(
        batch_tokens=max(given or MOST_TOKENS, row_tokens),
        turn_tokens=recipe.sampling.max_turn_tokens,
        row_tokens=row_tokens,
        micro_batch=machine.micro_batch,
        cache_bytes=int((_CACHE_GIB if machine.max_cache_gib == "auto" else machine.max_cache_gib) * GIB),
    )
    sizes = trained(recipe)
    limits = fit(shape, setup, wanted, batch_size=min(sizes.values()), room=room, preference="dpo" in sizes)
    if given:
        limits = replace(limits, batch_tokens=given)
    if machine.max_cache_gib == "auto":
        limits = replace(limits, cache_bytes=_cache_that_fits(shape, setup, limits, room))
    phases = forecast(shape, setup, limits)
    return limits, tuple(phase for phase in phases if phase.name in ("sample", "read", *sizes))


def trained(recipe: Recipe) -> dict[str, int]:
    """The trainers that a recipe needs, each with the examples of its optimiser step."""
    imitating, preferring = {"sft": recipe.training.batch_size}, {"dpo": recipe.dpo.batch_size}
    if recipe.method == "reinforce":
        reinforcing = {"rl": recipe.reinforce.batch_size}
        return imitating | reinforcing if recipe.reinforce.imitations else reinforcing
    # idpo imitates once, with rows that are half as long as its pairs
    return {"isft": imitating, "idpo": preferring, "isft-dpo": imitating | preferring}[recipe.schedule]


def forecast(shape: Shape, setup: Setup, limits: Limits) -> tuple[Phase, ...]:
    """The peak of each phase: sampling dialogues, reading them for the reward, SFT, DPO, reinforcement."""
    return tuple(
        phase(shape, setup, limits) for phase in (_sampling, _reading, _fine_tuning, _preference, _reinforcement)
    )


def fit(shape: Shape, setup: Setup, limits: Limits, *, batch_size: int, room: int, preference: bool = True) -> Limits:
    """The limits, lowered where their phase would not fit into `room` bytes; `forecast` tells whether the result does.

    limits holds what is wanted at most. Sampling halves its batch or the prefix cache, whichever takes more; training
    takes a micro-batch that divides batch_size, so that the effective batch stays. preference: whether DPO must fit.
    """
    while not _fits((_sampling, _reading), shape, setup, limits, room):
        a_token = shape.cached_values * setup.number_bytes + _passing(shape, setup, limits.row_tokens)
        fewer = max(min(FEWEST_TOKENS, limits.batch_tokens), limits.batch_tokens // 2)
        if fewer < limits.batch_tokens and limits.batch_tokens * a_token >= limits.cache_bytes:
            limits = replace(limits, batch_tokens=fewer)
        elif limits.cache_bytes:
            limits = replace(limits, cache_bytes=limits.cache_bytes // 2 if limits.cache_bytes > GIB // 16 else 0)
        elif fewer < limits.batch_tokens:
            limits = replace(limits, batch_tokens=fewer)
        else:
            break
    divisors = [n for n in range(min(limits.micro_batch, batch_size), 0, -1) if batch_size % n == 0]
    for rows in divisors:
        limits = replace(limits, micro_batch=rows)
        if _fits((_fine_tuning, *((_preference,) if preference else ())), shape, setup, limits, room):
            break
    return limits


def _cache_that_fits(shape: Shape, setup: Setup, limits: Limits, room: int) -> int:
    """Bytes for the prefix cache as far as it can be of use: on a GPU what sampling and reading leave of the room. On
    the CPU what `fit` has kept, because results depend on it there, and free memory differs from start to start."""
    useful = _CACHED_ROWS * limits.row_tokens * shape.cached_values * setup.number_bytes
    if not setup.gpu:
        return min(limits.cache_bytes, useful)
    peak = max(phase(shape, setup, limits).total for phase in (_sampling, _reading))
    return min(limits.cache_bytes + max(0, int((1 - _SPARE) * room) - peak), useful)


def of_one_batch(shape: Shape, setup: Setup, limits: Limits) -> Limits:
    """The limits with a prefix cache no larger than two batches fill it: what `probe.measure` does."""
    filled = 2 * limits.batch_tokens * shape.cached_values * setup.number_bytes
    return replace(limits, cache_bytes=min(limits.cache_bytes, filled))


def weight_bytes(shape: Shape, setup: Setup) -> int:
    """The frozen base as it lies in memory."""
    linear = _NF4_BYTES if setup.quantised else setup.number_bytes
    return int(shape.linear_parameters * linear) + shape.other_parameters * setup.number_bytes


def adapter_bytes(shape: Shape, setup: Setup) -> int:
    """One LoRA adapter on all linear maps of the layers."""
    return _ADAPTER_BYTES * shape.layers * setup.lora_rank * sum(i + o for i, o in shape.linears.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up, on a GPU or on the CPU; torch tells the latter only by its message."""
    text = str(error).lower()
    said = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(s in text for s in said))


def _sampling(shape: Shape, setup: Setup, limits: Limits) -> Phase:
    """Prompts are read in one go, so all of a batch's tokens may pass the layers at once. On a GPU nothing passes them
    while a batch is laid out from the one before; on the CPU the memory of both is kept (`Workspace`)."""
    rows = max(1, limits.batch_tokens // limits.row_tokens)
    cache = _batch_cache(shape, setup, limits)
    activations = limits.batch_tokens * _passing(shape, setup, limits.row_tokens)
    merged = not (setup.gpu or setup.quantised)
    return Phase(
        "sample",
        {
            **_held(shape, setup, merged=merged),
            "adapter to speak with": 0
            if merged
            else adapter_bytes(shape, setup) // _ADAPTER_BYTES * setup.number_bytes,
            "cache": cache,
            "prefix cache": limits.cache_bytes,
            "activations": max(activations, cache) if setup.gpu else activations,
            "logits": rows * shape.vocabulary * setup.number_bytes
            + _at_once(rows, shape, _DRAWN_AT_ONCE) * _DRAWN_BYTES,
        },
    )


def _reading(shape: Shape, setup: Setup, limits: Limits) -> Phase:
    """The base reads whole rows, adapter off."""
    rows = max(1, limits.batch_tokens // limits.row_tokens)
    return Phase(
        "read",
        {
            **_held(shape, setup),
            "cache": _batch_cache(shape, setup, limits),
            "prefix cache": limits.cache_bytes,
            "activations": limits.batch_tokens * _passing(shape, setup, limits.row_tokens),
            "logits": _at_once(rows * limits.turn_tokens, shape, _LOSSES_AT_ONCE) * _LOSS_BYTES,
        },
    )


def _batch_cache(shape: Shape, setup: Setup, limits: Limits) -> int:
    """Keys and values of a batch; on the CPU of two."""
    return limits.batch_tokens * shape.cached_values * setup.number_bytes * (1 if setup.gpu else 2)


def _fine_tuning(shape: Shape, setup: Setup, limits: Limits) -> Phase:
    return _training("sft", shape, setup, tokens=limits.micro_batch * limits.row_tokens, limits=limits)


def _preference(shape: Shape, setup: Setup, limits: Limits) -> Phase:
    """A pair is two rows; the reference is a second adapter on the same weights."""
    phase = _training("dpo", shape, setup, tokens=2 * limits.micro_batch * limits.row_tokens, limits=limits)
    return Phase(phase.name, {**phase.parts, "reference": adapter_bytes(shape, setup)})


def _reinforcement(shape: Shape, setup: Setup, limits: Limits) -> Phase:
    """What an agent says in a dialogue is one row; its log-probabilities before the step lie in main memory."""
    return _training("rl", shape, setup, tokens=limits.micro_batch * limits.row_tokens, limits=limits)


def _training(name: str, shape: Shape, setup: Setup, *, tokens: int, limits: Limits) -> Phase:
    """Activations are all layers' or, with checkpointing, all layers' inputs and one layer's; the loss adds its own."""
    adapter = adapter_bytes(shape, setup)
    one_layer = tokens * _kept(shape, setup, limits.row_tokens)
    if setup.gpu:
        activations = tokens * shape.layers * shape.hidden * setup.number_bytes
        activations += max(one_layer + tokens * _backward(shape, setup), _head(shape, setup, tokens))
    else:
        activations = shape.layers * one_layer
        activations += max(tokens * _backward(shape, setup), _head(shape, setup, tokens))
    return Phase(
        name,
        {
            **_held(shape, setup),
            "gradients": 2 * adapter,  # the second: a copy that takes back half a step when memory runs out
            "optimiser": 2 * adapter,
            "activations": activations,
        },
    )


def _held(shape: Shape, setup: Setup, *, merged: bool = False) -> dict[str, int]:
    weights = weight_bytes(shape, setup)
    if merged:  # the weights as they were, to be put back exactly
        weights += shape.linear_parameters * setup.number_bytes
    if setup.quantised:  # the largest matrix, unpacked while it is in use
        weights += max(i * o for i, o in shape.linears.values()) * setup.number_bytes
    name = "adapter" if setup.adapters == 1 else f"{setup.adapters} adapters"
    return {"weights": weights, name: setup.adapters * adapter_bytes(shape, setup)}


def _passing(shape: Shape, setup: Setup, row_tokens: int) -> int:
    """Bytes a token needs while it passes a layer without gradient; the larger of the two halves of a layer.

    Feed-forward: gate, up and their product; the adapter adds to them in place. Attention: queries, keys and values
    before and after rotation, repeated for every head, and the mask.
    """
    number = setup.number_bytes
    feed_forward = 3 * (shape.intermediate + shape.hidden) * number
    width = shape.heads * shape.head_width
    attention = (2 * shape.hidden + 6 * width) * number + row_tokens * number
    return max(feed_forward, attention)


def _kept(shape: Shape, setup: Setup, row_tokens: int) -> int:
    """Bytes a token leaves behind in one layer for the backward pass.

    Residual and norm, twice; queries, repeated keys and values and what attention gives; the mask; gate, its
    activation, up and their product; the narrow sides of the adapters. In half precision, also float32 residuals and
    the adapters' own copies of their inputs.
    """
    width = shape.heads * shape.head_width
    values = 4 * shape.hidden + 4 * width + 4 * shape.intermediate + row_tokens
    if setup.gpu:
        values += 7 * shape.hidden + width + shape.intermediate
    return values * setup.number_bytes + len(shape.linears) * setup.lora_rank * _ADAPTER_BYTES


def _backward(shape: Shape, setup: Setup) -> int:
    """Bytes of gradients a token has while a layer's feed-forward part is gone through backwards."""
    return shape.intermediate * (3 * setup.number_bytes + _ADAPTER_BYTES) + 2 * shape.hidden * setup.number_bytes


def _head(shape: Shape, setup: Setup, tokens: int) -> int:
    """TRL's loss: tiles of logits, one with Triton, about five in torch; the last states and their gradient.

    The output layer's columns are multiplied as they are: on a GPU the sum is kept in float32 without a cast of them
    (since PyTorch 2.8), on the CPU they are float32 already.
    """
    columns = min(shape.vocabulary, _HEAD_COLUMNS)
    tiles = setup.number_bytes if setup.gpu else 5 * setup.number_bytes
    states = tokens * shape.hidden * (setup.number_bytes + 4)
    return min(tokens, _HEAD_TOKENS) * columns * tiles + states


def _at_once(rows: int, shape: Shape, most: int) -> int:
    return min(rows * shape.vocabulary, max(most, shape.vocabulary))


def _fits(phases: Sequence[Callable[..., Phase]], shape: Shape, setup: Setup, limits: Limits, room: int) -> bool:
    return all(phase(shape, setup, limits).total <= room for phase in phases)
