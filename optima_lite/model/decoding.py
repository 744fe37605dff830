"""Rows that are sampled side by side, as many as the token budget allows.

A row's tokens depend on its prompt, the settings and its key alone, not on which rows share its batch. So rows may come
and go: decoding proceeds in slices of a few tokens, between which finished rows leave and waiting ones take their
places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .prefix_cache import Batch
from .sampling import Sampling, sampler_of
from .states import States

_SLICE = 8  # tokens between two looks at who has finished: a GPU waits at each, finished rows until the next
_CANDIDATES = 1024  # tokens of the vocabulary among which a nucleus is looked for first
_ENTERING = 4  # rows wait until they are a quarter of those that run: these are laid out anew with them


Stop = Callable[[Sequence[int]], int | None]
"""Told the tokens of a row as they are said, a few at a time: after how many of these it pauses, if it does."""


@dataclass(slots=True, eq=False)
class Row:
    """A row on its way. prompt: its prompt's length. ids: the prompt and what was sampled so far. most: tokens that it
    may say in all. watch: what was said so far in, what looks for the place to pause out; None: it goes on to its end.
    sampling: its own temperature and top-p; None: those of the others. known: how many of its ids have states, and
    these. ahead: how many were computed for it before it entered. reused: how many others had some by then."""

    key: int
    prompt: int
    ids: list[int]
    most: int
    watch: Callable[[Sequence[int]], Stop] | None = None
    sampling: Sampling | None = None
    known: tuple[int, list[Tensor]] = (0, [])
    ahead: int = 0
    reused: int = 0
    finished: bool = False
    _stop: Stop | None = None
    _seen: int = 0  # tokens that it was told of
    _pause: int = 0  # after so many the row pauses

    @property
    def said(self) -> list[int]:
        """What was sampled so far."""
        return self.ids[self.prompt :]

    @property
    def left(self) -> int:
        """Tokens that it may still say."""
        return self.prompt + self.most - len(self.ids)

    @property
    def paused(self) -> bool:
        """Whether it stands at a place to pause."""
        return 0 < self._pause == len(self.ids) - self.prompt

    def pause_in(self, tokens: Sequence[int], said: int) -> int | None:
        """After how many of these tokens the row pauses, which follow those that it has `said`; None if it does not."""
        if self.watch is None:
            return None
        if self._stop is None:
            self._stop, self._seen = self.watch(self.said), len(self.said)
        fresh = tokens[self._seen - said :]
        if fresh and not self._pause:
            after = self._stop(fresh)
            self._pause = 0 if after is None else self._seen + after
            self._seen += len(fresh)
        return self._pause - said if self._pause else None

    def forget_unsaid(self) -> None:
        """Tokens that it was asked about, and that were not said, do not count."""
        self._stop, self._pause = None, 0


class Decoding:
    """The rows of one call of `generate`, or of many who ask at any time. As many run side by side as the token budget
    allows.

    hear: is told a row's key whenever it has said something.
    """

    def __init__(
        self,
        states: States,
        model: Any,
        sampling: Sampling,
        *,
        unsayable: Sequence[int],
        waiting: Sequence[Row],
        hear: Callable[[int], None] = lambda key: None,
    ) -> None:
        self.states = states
        self.model = model
        self.sampling = sampling
        self._unsayable = torch.tensor(unsayable, dtype=torch.long, device=states.policy.device)
        self._candidates = _CANDIDATES
        self._hear = hear
        self.waiting = sorted(waiting, key=lambda row: row.prompt)  # the longest, which enter first, stand last
        self.running: list[Row] = []
        self._batch: Batch | None = None  # of the running rows, in their order
        self._ends = frozenset(states.policy.end_ids)

    @property
    def longest(self) -> int:
        """Positions of the running rows' batch: where the longest row ends now, and what any row may still say."""
        return max(len(row.ids) for row in self.running) + max(row.left for row in self.running)

    def fill(self) -> None:
        """Lets waiting rows enter: all that still wait, or enough to be worth a new layout of those that run."""
        entering = self._fitting()
        if entering == 0 or (entering < len(self.waiting) and _ENTERING * entering < len(self.running)):
            return
        self._dissolve()
        for _ in range(entering):
            row = self.waiting.pop()
            worn = self.states.policy.worn
            row.known = self.states.find(row.ids, len(row.ids) - 1, adapter=worn, ahead=row.ahead)
            row.reused = max(0, row.known[0] - row.ahead)
            self.running.append(row)

    def join(self, rows: Sequence[Row]) -> None:
        """More rows wait, behind all that do."""
        self.waiting[:0] = reversed(rows)

    def give_up(self, unwanted: Sequence[Row]) -> None:
        """These rows, wherever they are, leave as they are."""
        for row in unwanted:
            row.finished = True
        self.waiting = [row for row in self.waiting if not row.finished]
        if self._batch is not None:
            self._leave(self._batch)
        else:
            self.running = [row for row in self.running if not row.finished]

    def _fitting(self) -> int:
        """How many waiting rows fit into the token budget beside those that run; one at least where none runs."""
        rows = len(self.running)
        longest = max((len(row.ids) for row in self.running), default=0)
        left = max((row.left for row in self.running), default=0)
        for row in reversed(self.waiting):
            longest, left = max(longest, len(row.ids)), max(left, row.left)
            if rows and (rows + 1) * (longest + left) > self.states.max_batch_tokens:
                break
            rows += 1
        return rows - len(self.running)

    def advance(self) -> None:
        """Samples a slice for every running row; those that end in it leave, and their states are kept."""
        batch = self._batch = self._batch or self._lay_out()
        found = self._sample(batch)
        if any(beyond for *_, beyond in found):
            self._candidates *= 8
            for row in self.running:
                row.forget_unsaid()
            self._dissolve()  # the slice is void: the next one begins from the same tokens
            return
        for row, (*tokens, _) in zip(self.running, found, strict=True):
            self._take(row, tokens)
        self._leave(batch)

    def _sample(self, batch: Batch) -> list[list[int]]:
        """The next tokens of every row, as many of each; and, last, whether they are void (see `KeyedSampler`).

        All of it reaches Python in one piece: on a GPU the steps are queued one after the other without a wait.
        """
        done = [len(row.ids) - row.prompt for row in self.running]
        steps = min(_SLICE, max(row.left for row in self.running))
        device = batch.states.device
        keys = [row.key for row in self.running]
        sampler = sampler_of(
            keys,
            done,
            samplings=[row.sampling or self.sampling for row in self.running],
            steps=steps,
            candidates=self._candidates,
            device=device,
        )
        base, tokens, ended = self.model.get_base_model(), [], set[int]()
        for step in range(steps):
            logits = base.lm_head(self.states.forward(base, batch)[:, -1])
            tokens.append(sampler(logits.index_fill_(1, self._unsayable, -torch.inf), step))
            batch.go_on(tokens[-1][:, None])
            if device.type == "cpu":  # looking costs nothing here
                ended.update(
                    k
                    for k, (row, token) in enumerate(zip(self.running, tokens[-1].tolist(), strict=True))
                    if k not in ended and (token in self._ends or row.pause_in([token], done[k] + step))
                )
                if len(ended) == len(self.running):
                    break
        return torch.stack([*tokens, sampler.beyond], dim=1).tolist()

    def start_over(self) -> None:
        """Everything that has not finished waits again, with the tokens it has."""
        for row in self.running:
            row.known = (0, [])
            row.forget_unsaid()
        unfinished = [row for row in self.running if not row.finished]
        self.waiting = sorted([*self.waiting, *unfinished], key=lambda row: row.prompt)
        self.running, self._batch = [], None

    def _lay_out(self) -> Batch:
        self.running.sort(key=lambda row: (row.known[0] - len(row.ids), -row.known[0]))
        found = [row.known for row in self.running]
        for row in self.running:
            row.known = (0, [])  # it will be in the batch
        room = max(row.left for row in self.running)
        return self.states.prefill(self.model.get_base_model(), [row.ids for row in self.running], found, room=room)

    def _take(self, row: Row, tokens: Sequence[int]) -> None:
        """Adds sampled tokens up to the turn end, a pause, or the limit."""
        self._hear(row.key)
        tokens = tokens[: row.left]
        tokens = tokens[: next((k for k, token in enumerate(tokens, start=1) if token in self._ends), len(tokens))]
        pause = row.pause_in(tokens, len(row.ids) - row.prompt)
        row.ids += tokens[:pause]
        row.finished = row.ids[-1] in self._ends or pause is not None or not row.left

    def _leave(self, batch: Batch) -> None:
        for k, row in enumerate(self.running):
            if row.finished:
                # A token sampled last has not been through the model, so it has no states.
                length = min(len(row.ids), batch.computed(k))
                self.states.keep(row.ids[:length], batch.pieces(k, length), adapter=self.states.policy.worn)
        staying = [k for k, row in enumerate(self.running) if not row.finished]
        if not staying:
            self.running, self._batch = [], None
        elif len(staying) < len(self.running):
            self.running = [self.running[k] for k in batch.leave(staying)]

    def _dissolve(self) -> None:
        """Takes the rows out of their batch."""
        if self._batch is not None:
            for k, row in enumerate(self.running):
                row.known = (len(row.ids) - 1, self._batch.pieces(k, len(row.ids) - 1))
        self._batch = None
