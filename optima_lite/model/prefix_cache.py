"""Keys and values of token sequences that were computed before, found again by their longest common prefix.

A radix tree: every node holds some token ids and the attention states of just these, so sequences share what they
have in common and a fork costs nothing. States carry their rotary positions, which count from the start of the
sequence; that is why they can be stored without padding and laid into any later batch.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _Node:
    """states: (layers, 2, heads, len(ids), head width), keys first. used: the clock when it was last of use."""

    __slots__ = ("children", "ids", "parent", "states", "used")

    def __init__(self, ids: tuple[int, ...], states: Tensor | None, parent: _Node | None, used: int) -> None:
        self.ids = ids
        self.states = states
        self.parent = parent
        self.used = used
        self.children: dict[int, _Node] = {}


class PrefixCache:
    """Least recently used sequences leave first, so that never more than `max_bytes` of states are held.

    The same ids have other states under other weights: `adapter` names the adapter whose states are meant, None the
    bare base model.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget everything: the weights have changed, or work begins that must not depend on what came before."""
        self.bytes = 0
        self._clock = 0
        self._roots: dict[str | None, _Node] = defaultdict(lambda: _Node((), None, None, 0))

    def find(self, ids: Sequence[int], *, limit: int, adapter: str | None) -> tuple[int, list[Tensor]]:
        """The length of the longest known prefix of ids[:limit], and its states in pieces, in order."""
        self._clock += 1
        length, pieces = 0, []
        for node, common in self._walk(ids, limit, adapter):
            node.used = self._clock
            length += common
            assert node.states is not None
            pieces.append(node.states[..., :common, :])
        return length, pieces

    def add(self, ids: Sequence[int], pieces: Sequence[Tensor], *, adapter: str | None) -> None:
        """Keep the states of ids, given in pieces from the first id on; only what is not known yet is copied."""
        self._clock += 1
        node, length = self._roots[adapter], 0
        for child, common in self._walk(ids, len(ids), adapter):
            child.used = self._clock
            length += common
            node = child if common == len(child.ids) else self._split(child, common)
        if length == len(ids):
            return
        fresh = _after(pieces, length)
        size = sum(piece.nbytes for piece in fresh)
        if not self._make_room(size) or (node.parent and node.parent.children.get(node.ids[0]) is not node):
            return  # too large, or what it would go on from had to leave for it
        node.children[ids[length]] = _Node(tuple(ids[length:]), torch.cat(fresh, dim=-2), node, self._clock)
        self.bytes += size

    def _walk(self, ids: Sequence[int], limit: int, adapter: str | None) -> Iterator[tuple[_Node, int]]:
        """Every node on the path of ids[:limit] with the number of its ids that match; the last may match in part."""
        node, length = self._roots[adapter], 0
        while length < limit and (child := node.children.get(ids[length])) is not None:
            common = _common(child.ids, ids, length, limit)
            in_part = common < len(child.ids)  # asked first: the receiver may split the node
            yield child, common
            length += common
            if in_part:
                return
            node = child

    def _split(self, node: _Node, length: int) -> _Node:
        """The new parent that holds the first `length` ids of `node`, which keeps the rest. Copies, not views: a view
        would hold on to the memory of both halves when one of them leaves."""
        assert node.parent is not None and node.states is not None
        upper = _Node(node.ids[:length], node.states[..., :length, :].clone(), node.parent, node.used)
        node.parent.children[upper.ids[0]] = upper
        node.ids, node.states, node.parent = node.ids[length:], node.states[..., length:, :].clone(), upper
        upper.children[node.ids[0]] = node
        return upper

    def _make_room(self, size: int) -> bool:
        """Drops leaves, oldest first, until `size` bytes fit; then a tenth more, so that this is not every step's work.
        False when they never will."""
        if size > self.max_bytes or self.bytes + size <= self.max_bytes:
            return size <= self.max_bytes
        leaves = [(node.used, id(node), node) for node in self._nodes() if not node.children]
        heapq.heapify(leaves)
        while leaves and self.bytes + size > 0.9 * self.max_bytes:
            node = heapq.heappop(leaves)[2]
            assert node.parent is not None and node.states is not None
            del node.parent.children[node.ids[0]]
            self.bytes -= node.states.nbytes
            if not node.parent.children and node.parent.parent is not None:
                heapq.heappush(leaves, (node.parent.used, id(node.parent), node.parent))
        return True

    def _nodes(self) -> Iterator[_Node]:
        waiting = [child for root in self._roots.values() for child in root.children.values()]
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            yield node


def _common(known: tuple[int, ...], ids: Sequence[int], offset: int, limit: int) -> int:
    """How many ids of `known` equal those of ids[offset:limit], from the first on."""
    longest = min(len(known), limit - offset)
    if tuple(ids[offset : offset + longest]) == known[:longest]:
        return longest
    return next(k for k in range(longest) if known[k] != ids[offset + k])


def _after(pieces: Sequence[Tensor], length: int) -> list[Tensor]:
    """The pieces without their first `length` positions."""
    rest = []
    for piece in pieces:
        if length < piece.shape[-2]:
            rest.append(piece[..., length:, :])
        length = max(0, length - piece.shape[-2])
    return rest


class Workspace:
    """Memory for batches, two in turn, because each is laid out from the one before it.

    On the CPU memory that is fresh from the system costs several times what filling it does. A GPU's allocator keeps
    what it once had by itself.
    """

    def __init__(self, like: Tensor) -> None:
        """like: an empty tensor of the dtype and device wanted."""
        self._like = like
        self.clear()

    def clear(self) -> None:
        """Gives everything back."""
        self._tensors = [self._like, self._like]

    def take(self, shape: Sequence[int]) -> Tensor:
        """A tensor with anything in it; it may lie where that of the call before the last one was."""
        numbers = prod(shape)
        if self._like.is_cuda:
            return self._like.new_empty(shape)
        self._tensors.reverse()
        if self._tensors[0].numel() < numbers:
            self._tensors[0] = self._like  # gone before its successor comes
            self._tensors[0] = self._like.new_empty(numbers)
        return self._tensors[0][:numbers].view(shape)


class Batch:
    """Sequences side by side: states that are known, on the left, and ids still to be computed, on the right.

    Both parts are padded on the left, so a row may have a gap between them. transformers' own dynamic layers join the
    whole history to each new token; the states of this cache lie in one tensor with room behind them and grow in place.

    known: how many of a row's ids have states. ids: (rows, longest rest) what remains to be computed. positions: where
    these stand in their rows. states: (layers, 2, rows, heads, capacity, head width).
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        found: Sequence[tuple[int, list[Tensor]]],
        *,
        shape: tuple[int, int, int],
        room: int,
        pad: int,
        take: Callable[[Sequence[int]], Tensor],
    ) -> None:
        """rows: all ids of each. found: how many states are known of each, in pieces, as `PrefixCache.find` returns
        them. shape: layers, heads, head width. room: positions to add after `rows`. take: gives memory of a shape."""
        layers, heads, head_width = shape
        self.known = [known for known, _ in found]
        self._width = max(self.known)
        rest = [row[known:] for row, known in zip(rows, self.known, strict=True)]
        longest = max(map(len, rest))
        self._starts = [self._width + longest - len(ids) for ids in rest]  # where the rest begins
        self.states = take((layers, 2, len(rows), heads, self._width + longest + room, head_width))
        self.ids, mask = left_pad(rest, pad=pad, device=self.states.device)
        known_mask = _right_aligned(self.known, self._width).to(mask.device)
        self._mask = torch.cat([known_mask, mask, mask.new_ones((len(rows), room))], dim=1)  # as wide as the states
        self._end = self._width + longest
        self._padded = min(self.known) < self._width or min(map(len, rest)) < longest
        self._bias: Tensor | None = None
        self.positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, self._width : self._end]
        for row, (known, pieces) in enumerate(found):
            at = self._width - known
            self.states[:, :, row, :, :at] = 0  # masked, but attention multiplies it by nought: it must be a number
            for piece in pieces:
                place = self.states[:, :, row, :, at : at + piece.shape[-2]]
                if place.data_ptr() != piece.data_ptr():  # else it was computed in its place
                    place.copy_(piece)
                at += piece.shape[-2]
        self.cache: Any = Cache(layers=[_InPlaceLayer(states, self._width) for states in self.states])

    def pieces(self, row: int, length: int) -> list[Tensor]:
        """The states of a row's first `length` ids, which must have been computed; views into the batch."""
        known, start, states = self.known[row], self._starts[row], self.states[:, :, row]
        return [states[:, :, :, self._width - known : self._width], states[:, :, :, start : start + length - known]]

    def computed(self, row: int) -> int:
        """How many ids of a row have states by now."""
        return self.known[row] + self.cache.get_seq_length() - self._starts[row]

    def leave(self, staying: Sequence[int]) -> list[int]:
        """Lets all other rows go. The last rows move into their places, so that no more is copied than what leaves;
        which row stands where now is returned."""
        rows = list(range(len(staying)))
        free = sorted(set(rows) - set(staying))
        for place, row in zip(free, (row for row in staying if row >= len(staying)), strict=True):
            begin, end = self._width - self.known[row], self.cache.get_seq_length()
            self.states[:, :, place, :, begin:end] = self.states[:, :, row, :, begin:end]
            rows[place] = row
        self.ids, self.positions, self._mask = self.ids[rows], self.positions[rows], self._mask[rows]
        self._bias = None if self._bias is None else self._bias[rows]
        self.states = self.states[:, :, : len(rows)]
        self.known, self._starts = [self.known[row] for row in rows], [self._starts[row] for row in rows]
        length = self.cache.get_seq_length()
        self.cache = Cache(layers=[_InPlaceLayer(states, length) for states in self.states])
        return rows

    def go_on(self, ids: Tensor) -> None:
        """One more id for each row, (rows, 1), follows everything that the cache has taken up."""
        self.ids, self._end = ids, self.cache.get_seq_length() + 1
        self.positions = self.positions[:, -1:] + 1

    @property
    def mask(self) -> Tensor:
        """(rows, cache and ids) with 1 for every token."""
        return self._mask[:, : self._end]

    def attention_mask(self, *, additive: bool) -> Tensor | None:
        """What transformers is told of padding: nothing where there is none, else the mask.

        additive: a single id's mask may be (rows, 1, 1, cache and ids) numbers to add to the scores, made once for all
        steps: attention uses them as they are, and nobody has to look into them to know what they mean.
        """
        if not self._padded:
            return None
        if not additive or self.ids.shape[1] > 1:
            return self.mask
        if self._bias is None:
            self._bias = _additive(self._mask, self.states.dtype)
        return self._bias[..., : self._end]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, 1, 1, columns): 0 where the mask is 1, else minus infinity. Rows begin at multiples of eight numbers, or
    attention on a GPU would copy the whole to such places in every layer."""
    rows, columns = mask.shape
    aligned = mask.new_zeros((rows, 1, 1, -(-columns // 8) * 8), dtype=dtype)
    aligned[:, 0, 0, :columns].masked_fill_(mask == 0, -torch.inf)
    return aligned


def left_pad(rows: Sequence[Sequence[int]], *, pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids as one (rows, longest) tensor filled up on the left, and its attention mask."""
    lengths = list(map(len, rows))
    width = max(lengths)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    return ids.to(device), _right_aligned(lengths, width).to(device)


def _right_aligned(lengths: Sequence[int], width: int) -> Tensor:
    """(rows, width) with 1 in the last `length` columns of each row, else 0."""
    return (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()


class _InPlaceLayer(DynamicLayer):
    """One layer of a Batch. states: (2, rows, heads, capacity, head width)."""

    def __init__(self, states: Tensor, length: int) -> None:
        super().__init__()
        self.states = states
        self.length = length
        self.dtype, self.device = states.dtype, states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        self.states[0, :, :, self.length : end] = key_states
        self.states[1, :, :, self.length : end] = value_states
        self.length = end
        return self.states[0, :, :, :end], self.states[1, :, :, :end]

    def get_seq_length(self) -> int:
        return self.length
