"""TRL's GRPOTrainer on episodes that our agents have had, on exactly the sampled token ids.

The loss is TRL's own, as everybody's GRPO computes it: the clipped ratio, the KL term, the mean over tokens. What that
trainer does around it is done elsewhere and passed over: it samples nothing, rewards nothing and groups nothing. The
log-probabilities that a ratio is taken to are computed by the trainer's own path before its first step, at the
temperature that was sampled with; so the ratio is 1 on the first batch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig, GRPOTrainer

from ..model.memory import is_out_of_memory
from ..model.policy import Policy
from ..settings.reinforce import ReinforceSettings
from .advantage import gae
from .episodes import Episode
from .halving import Halving
from .parallel import Sharing, filled, gathered, share, totals, world
from .value import ValueHead

Found = TypeVar("Found")

_NONE = -1  # number of the filler, which a group of trainers makes its last batch whole with
_FLOOR = 1e-4  # beside the standard deviation of all advantages, where a value head gave them


@dataclass
class _Tensors:
    """An episode, token by token. ids: of the whole row. own: where it is learnt; spans: of the messages, with their
    rewards. old, reference: log-probabilities, from the first learnt token on."""

    ids: Tensor
    own: Tensor
    spans: tuple[tuple[int, int], ...]
    rewards: tuple[float, ...]
    advantages: Tensor
    old: Tensor
    reference: Tensor

    @property
    def begin(self) -> int:
        """Where it is learnt first, so that a token at least stands before; 1 where nothing is learnt."""
        return self.spans[0][0] if self.spans else 1


def _tensors(episode: Episode) -> _Tensors:
    ids = torch.tensor(episode.row.ids)
    own, advantages, none = torch.zeros_like(ids), torch.zeros(len(ids)), torch.zeros(len(ids))
    for (start, end), advantage in zip(episode.row.spans, episode.advantages, strict=True):
        own[start:end], advantages[start:end] = 1, advantage
    return _Tensors(ids, own, episode.row.spans, episode.rewards, advantages, none, none)


def _unlearnt(episode: Episode) -> _Tensors:
    """The filler: two tokens that nobody learns."""
    ids, none = torch.tensor(episode.row.ids[:2]), torch.zeros(2)
    return _Tensors(ids, torch.zeros_like(ids), (), (), none, none, none)


class _LossAlone(GRPOTrainer):
    """TRL's trainer without what it does around its loss."""

    def get_train_dataloader(self) -> Any:
        """Batches of the data set as they come, where TRL's would be questions to sample answers to."""
        return super(GRPOTrainer, self).get_train_dataloader()

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return super(GRPOTrainer, self)._get_train_sampler(dataset)

    def _prepare_inputs(self, batch: Any) -> Any:
        return super(GRPOTrainer, self)._prepare_inputs(batch)


class EpisodeTrainer(Sharing, Halving, _LossAlone):
    """TRL's loss on episodes, not depending on how a batch is split. Call `recall` before `train`.

    arguments: of every trainer. temperature: that was sampled with.
    """

    def __init__(
        self,
        policy: Policy,
        episodes: Sequence[Episode],
        *,
        settings: ReinforceSettings,
        temperature: float,
        arguments: dict[str, Any],
        callbacks: list[Any],
    ) -> None:
        own = {key: value for key, value in arguments.items() if key != "max_length"}
        super().__init__(
            model=policy.model,
            reward_funcs=_paid_elsewhere,
            args=GRPOConfig(
                **own | {"lr_scheduler_type": "constant_with_warmup"},
                epsilon=settings.clip,
                importance_sampling_level=settings.ratio,
                loss_type="grpo" if settings.ratio == "sequence" else "dapo",
                temperature=temperature,
                disable_dropout=True,  # else the first ratio, to log-probabilities with other units dropped, is not 1
                num_generations=2,  # of nothing: it only has to divide the batch that the trainer would sample
                steps_per_generation=2,
            ),
            train_dataset=Dataset.from_list(filled([{"episode": n} for n in range(len(episodes))], {"episode": _NONE})),
            processing_class=policy.tokenizer,
            callbacks=callbacks,
        )
        self.rows, self.pad_id, self.settings = [_tensors(one) for one in episodes], policy.pad_id, settings
        self._filler = _unlearnt(episodes[0])
        self.data_collator = self._batch
        self.beta = settings.kl_weight  # only now: the reference is found by `recall`, without a copy of the adapter

    def recall(self, *, head: ValueHead | None, seed: int) -> float | None:
        """What each token's log-probability was when the step began; with a head also the advantages, and its mean
        squared error. Rows of like length go together. A head takes a step for as many rows as the adapter does."""
        order = sorted(range(len(self.rows)), key=lambda number: len(self.rows[number].ids))
        size = self.args.per_device_train_batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        random.Random(seed).shuffle(batches)  # a head should not meet all short rows first
        self.model.train()
        if head is None:
            mine = share(batches)
            for batch in mine:
                self._in_parts(batch, partial(self._recall, head=None, among=0))
            self._exchange([number for batch in mine for number in batch])
            return None
        errors, each = 0.0, max(1, self.settings.batch_size // size)
        for group in (batches[start : start + each] for start in range(0, len(batches), each)):
            among = sum(int(self.rows[number].own.sum()) for batch in group for number in batch)
            recalled = partial(self._recall, head=head, among=among)
            errors += sum(error for batch in group for error in self._in_parts(batch, recalled))
            head.step()
        _standardise(self.rows)
        return errors / sum(int(row.own.sum()) for row in self.rows)

    def _exchange(self, numbers: Sequence[int]) -> None:
        """Tells the other trainers what was recalled of these rows, and takes what they recalled of theirs."""
        found = {number: (self.rows[number].old, self.rows[number].reference) for number in numbers}
        for number, (old, reference) in gathered(found).items():
            self.rows[number].old, self.rows[number].reference = old, reference

    def _in_parts(self, numbers: Sequence[int], look: Callable[[Sequence[int]], Found]) -> list[Found]:
        """What is found in each part of a batch; the parts are as large as memory allows."""
        found: list[Found] = []
        while numbers:
            part, failure = numbers[: int(min(len(numbers), self.fits))], None
            try:
                found.append(look(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = str(error)
            # Outside the handler, because the exception keeps the failed attempt's tensors alive.
            if failure is None:
                numbers = numbers[len(part) :]
            else:
                self.take_fewer(len(part), failure)
        return found

    @torch.no_grad()
    def _recall(self, numbers: Sequence[int], *, head: ValueHead | None, among: int) -> float:
        """Of these rows; the head's squared errors, added up. among: learnt tokens of the head's step."""
        rows, batch = [self.rows[number] for number in numbers], self._on_device(numbers)
        with self._states(wanted=head is not None) as states:
            old = reference = self._logps(batch)
        if self.settings.kl_weight and self.settings.kl_to == "base":
            with self.model.disable_adapter():
                reference = self._logps(batch)
        begin = batch["prompt_ids"].size(1)
        for row, one, other in zip(rows, old.float().cpu(), reference.float().cpu(), strict=True):
            row.old, row.reference = (_from(begin, found, len(row.ids)) for found in (one, other))
        return _foretell(rows, states[0], head, among, self.settings) if head else 0.0

    @contextmanager
    def _states(self, *, wanted: bool) -> Iterator[list[Tensor]]:
        """The last hidden states of every forward pass inside, if they are wanted."""
        found: list[Tensor] = []
        if not wanted:
            yield found
            return
        backbone = self.model.get_base_model().base_model
        handle = backbone.register_forward_hook(lambda module, given, out: found.append(out.last_hidden_state))
        try:
            yield found
        finally:
            handle.remove()

    def measure(self) -> dict[str, float]:
        """KL and entropy of the adapter as it stands, on as many episodes as a step has."""
        numbers = share(range(min(len(self.rows), self.settings.batch_size)))
        size = self.args.per_device_train_batch_size
        self.model.train()
        batches = (numbers[start : start + size] for start in range(0, len(numbers), size))
        sums = [found for batch in batches for found in self._in_parts(batch, self._measured)]
        tokens, kl, entropy = totals([sum(found[name] for found in sums) for name in ("tokens", "kl", "entropy")])
        return {"kl": kl / tokens, "entropy": entropy / tokens}

    @torch.no_grad()
    def _measured(self, numbers: Sequence[int]) -> dict[str, float]:
        batch = self._on_device(numbers)
        return _sums(self._logps(batch), self._entropies, batch)

    def _logps(self, batch: dict[str, Tensor]) -> Tensor:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        width = batch["completion_ids"].size(1)
        with self.accelerator.autocast():
            logps, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, width, compute_entropy=True)
        return logps

    def _on_device(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = self._prepare_inputs(self._batch([{"episode": number} for number in numbers]))
        return batch

    def _batch(self, examples: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """All rows are cut where the first of them is learnt: what is before is the trainer's prompt, the rest its
        completion. So only their ends are padded, and a batch is no wider than its longest row."""
        numbers = [example["episode"] for example in examples]
        rows = [self._filler if number == _NONE else self.rows[number] for number in numbers]
        cut = min(row.begin for row in rows)

        def padded(tensors: Iterable[Tensor], fill: int = 0) -> Tensor:
            return pad_sequence([*tensors], batch_first=True, padding_value=fill)

        ids = padded((row.ids for row in rows), self.pad_id)
        mask = padded(torch.ones_like(row.ids) for row in rows)
        return {
            "prompt_ids": ids[:, :cut],
            "prompt_mask": mask[:, :cut],
            "completion_ids": ids[:, cut:],
            "completion_mask": mask[:, cut:],
            "tool_mask": padded(row.own for row in rows)[:, cut:],  # TRL's name for what was not said by the model
            "advantages": padded(row.advantages for row in rows)[:, cut:],
            "old_per_token_logps": padded(row.old for row in rows)[:, cut:],
            "ref_per_token_logps": padded(row.reference for row in rows)[:, cut:],
        }

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """Counts what the whole batch holds, see `compute_loss`."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        tokens = sum(int(sample["tool_mask"].sum()) for sample in samples)
        episodes = sum(int(sample["tool_mask"].any(1).sum()) for sample in samples)  # fillers have nothing to learn
        (self._tokens, self._episodes), self._batches = totals([tokens, episodes]), len(samples) * world()
        return samples, items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's, a mean over the whole batch's tokens (or episodes, for a ratio of sequences), however it is split."""
        # TRL scales this number from the batch it would have sampled to the one of a step, `Halving` to its parts.
        whole = self._tokens / self.parts * self.args.steps_per_generation / self.current_gradient_accumulation_steps
        own = inputs["tool_mask"]
        told = inputs | {"num_items_in_batch": torch.tensor(whole, device=own.device)}
        loss = super().compute_loss(model, told, *args, **kwargs)
        if self.settings.ratio == "sequence":
            loss = loss * (len(own) * self.parts * self._batches / self._episodes)
        sums = _sums(self._seen.detach(), self._entropies.detach(), inputs)
        metrics = self._metrics["train"]
        sums["clipped"] = metrics["clip_ratio/region_mean"][-1] * sums["tokens"]
        sums["broken"] = float(not math.isfinite(loss.item()))
        for name, value in sums.items():
            metrics[f"sum/{name}"].append(value)
        del self._seen, self._entropies  # which hold what the backward pass is done with
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; remembers what it found, which its loss does not tell."""
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._seen, self._entropies = found[:2]
        return found

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds what was summed over the step's tokens, which means of micro-batches hide."""
        metrics = self._metrics["train"]
        sums = {name: metrics.pop(name) for name in [*metrics] if name.startswith("sum/")}
        if sums:
            of_step = [
                sum(sums[f"sum/{name}"]) for name in ("tokens", "kl", "entropy", "ratio_off", "clipped", "broken")
            ]
            tokens, kl, entropy, off, clipped, broken = totals(of_step)
            logs |= {
                "approximate_kl": math.nan if broken else kl / tokens,
                "token_entropy": entropy / tokens,
                "ratio_off": off / tokens,
                "clipped": clipped / tokens,
                "episodes": self._episodes,
            }
        super().log(logs, *args, **kwargs)


def _sums(logps: Tensor, entropies: Tensor, batch: dict[str, Tensor]) -> dict[str, float]:
    """Over the learnt tokens: their number, the KL divergence from the adapter as the step began (Schulman's estimator
    k3) and the entropy, in nats; and by how much the ratios are off 1."""
    own = batch["tool_mask"] == 1
    ratio = (logps - batch["old_per_token_logps"])[own].double()
    return {
        "tokens": float(own.sum()),
        "kl": float((ratio.exp() - 1 - ratio).sum()),
        "entropy": float(entropies[own].double().sum()),
        "ratio_off": float((ratio.exp() - 1).abs().sum()),
    }


def _from(begin: int, found: Tensor, length: int) -> Tensor:
    """What was found of a row of so many tokens from one of them on; 0 before."""
    whole = torch.zeros(length)
    whole[begin:] = found[: length - begin]
    return whole


def _foretell(
    rows: Sequence[_Tensors], states: Tensor, head: ValueHead, among: int, settings: ReinforceSettings
) -> float:
    """The advantages of a batch's messages by what the head expects before each token, of which it then learns; its
    squared errors, added up. states: the last hidden ones at each token. among: learnt tokens of the head's step."""
    seen, wanted = [], []
    for row, own in zip(rows, states, strict=True):
        for (start, end), reward in zip(row.spans, row.rewards, strict=True):
            before = own[start - 1 : end - 1]
            values = head(before).tolist()
            advantages = gae(reward, values, discount=settings.discount, gae_lambda=settings.gae_lambda)
            row.advantages[start:end] = torch.tensor(advantages)
            seen.append(before)
            wanted += [gained + value for gained, value in zip(advantages, values, strict=True)]
    return head.learn(torch.cat(seen), torch.tensor(wanted, device=states.device), among=among)


def _standardise(rows: Sequence[_Tensors]) -> None:
    """Advantages of all learnt tokens with mean 0 and deviation 1, as PPO takes them."""
    everything = torch.cat([row.advantages[row.own == 1] for row in rows])
    mean, spread = everything.mean(), everything.std() if len(everything) > 1 else torch.tensor(0.0)
    for row in rows:
        row.advantages = torch.where(row.own == 1, (row.advantages - mean) / (spread + _FLOOR), 0.0)


def _paid_elsewhere(**_: Any) -> list[float]:
    """The trainer wants a function of rewards, and never calls it."""
    raise AssertionError("the rewards were given before")
