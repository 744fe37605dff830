"""Messages sampled by a server that takes token ids and gives token ids, such as vLLM's; the base model's reading stays
here, where it shares prefixes and costs less.

What is asked of it is OpenAI's /completions with `prompt` as ids, and of vLLM's additions `return_token_ids`,
`stop_token_ids` and a `seed` for each request, which is the row's key; and /load_lora_adapter, so that every state of
an adapter has a name of its own, and no cache of the server's can be another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError
from .decoding import Row
from .endpoint import Answer, Endpoint, first_choice
from .generate import Generator
from .policy import Policy
from .sampling import Sampling

_NEVER = -100.0  # added to the logits of what may not be said


class Remote(Generator):
    """A generator whose tokens come from a server.

    endpoint: where it is. base: its name for the base model. adapters: a folder that this machine and the server both
    see, for adapters. See `Generator` for the others.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        endpoint: Endpoint,
        base: str,
        adapters: Path,
        max_batch_tokens: int,
        max_cache_bytes: int,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(policy, max_batch_tokens=max_batch_tokens, max_cache_bytes=max_cache_bytes, notify=notify)
        self._endpoint, self._base, self._adapters = endpoint, base, adapters
        self._names: dict[str, tuple[tuple[int, ...], str]] = {}  # of each adapter: how it was, what it is called

    def carry_on(self, rows: Sequence[Row], *, sampling: Sampling) -> None:
        """See `Generator.carry_on`. Raises RunError for a server that does not answer, or not with what was asked."""
        self._forget_old_weights()
        waiting = [row for row in rows if row.left > 0]
        with self.meter("generate"):
            model = self._spoken_by() if waiting else self._base
            bodies = [self._asked(model, row, sampling) for row in waiting]
            for row, answer in zip(waiting, self._endpoint.each("/completions", bodies), strict=True):
                said = self._said(answer, row)
                row.ids += said[: row.pause_in(said, len(row.said))] if row.watch else said
                row.finished = True
                self.hear(row.key)
                self.meter.count(sampled=len(said))

    def _asked(self, model: str, row: Row, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": list(row.ids),
            "max_tokens": row.left,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": row.key,
            "stop_token_ids": list(self.policy.end_ids),
            "logit_bias": {str(token): _NEVER for token in self.unsayable},
            "return_token_ids": True,
            "skip_special_tokens": False,
        }

    def _said(self, answer: Answer, row: Row) -> list[int]:
        """The ids of an answer, checked. Raises RunError for anything else than what may have been sampled."""
        said: Any = first_choice(answer).get("token_ids")
        problem = None
        if said is None:
            problem = "no token ids"
        elif not isinstance(said, list) or not all(type(token) is int for token in said):
            problem = "token ids that are no numbers"
        elif not 0 < len(said) <= row.left:
            problem = f"{len(said)} tokens, where 1 to {row.left} were asked for"
        elif not all(0 <= token < self._vocabulary for token in said):
            problem = "tokens that the model does not have"
        elif {*said} & {*self.unsayable}:
            problem = "special tokens that it was told never to sample"
        elif any(token in self.policy.end_ids for token in said[:-1]):
            problem = "tokens after the end of the turn"
        if problem is None:
            return list(said)
        hint = "a server of this very model that knows return_token_ids, such as vLLM's (docs/server.md)"
        raise RunError(f"the server answered with {problem}", where="server", hint=hint)

    @property
    def _vocabulary(self) -> int:
        return int(self.policy.model.get_base_model().config.vocab_size)

    def _spoken_by(self) -> str:
        """The server's name for the adapter that is worn, as it is now; it is brought there first if need be."""
        worn, now = self.policy.worn, self.fingerprint()
        if worn in self._names and self._names[worn][0] == now:
            return self._names[worn][1]
        weights = [weight.detach().cpu().numpy().tobytes() for weight in self.policy.weights(worn)]
        untrained = all(not weight.detach().any() for weight in self.policy.weights(worn)[1::2])
        name = self._base if untrained else f"optima-{hashlib.blake2b(b''.join(weights), digest_size=8).hexdigest()}"
        if name != self._base and all(known != name for _, known in self._names.values()):
            folder = self._adapters / name
            if not (folder / "adapter_model.safetensors").exists():
                self.policy.save_adapter(folder)
            for number in range(len(self._endpoint.urls)):
                self._load(name, folder, number)
        self._names[worn] = (now, name)
        return name

    def _load(self, name: str, folder: Path, number: int) -> None:
        one = Endpoint([self._endpoint.urls[number]], self._endpoint.key_env, self._endpoint.seconds)
        try:
            one.raw("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        except RunError as error:
            if "already" not in error.what:  # by a run that was interrupted; what has this name is the same
                raise
