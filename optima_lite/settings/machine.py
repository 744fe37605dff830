"""The machine file, `optima_lite.toml`: what differs from one machine to the next and leaves the science alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from .keys import Count, PathText, Section, TokenCount, key_tree, reference
from .layers import near_names

MACHINE_FILE = "optima_lite.toml"
SPEAKER = re.compile(r"[A-Za-z0-9_-]+")  # a name

Gib = Annotated[float, Field(ge=0, le=1_000_000)]


def _expand(path: str) -> str:
    return os.path.expanduser(path)


def _is_address(url: str) -> str:
    parts = urlsplit(url)
    plain = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    if not plain or parts.username or parts.password:
        raise ValueError("must be an address such as http://localhost:8000/v1, without password and query")
    return url


Address = Annotated[PathText, AfterValidator(_is_address)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Price = Annotated[float, Field(ge=0, le=1_000_000)]


class Cluster(Section):
    """Who does the work of a run, where one machine is not enough."""

    engine: Literal["none", "ray"] = Field("none", description="none: this process; ray: workers of a Ray cluster")
    address: PathText = Field(
        "local", description="local: workers on this machine; auto: the cluster that is running; or its address"
    )
    workers: Count | Literal["auto"] = Field("auto", description="Workers; auto: one for each GPU of the cluster")
    gpus_per_worker: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = Field(
        "auto", description="GPUs of a worker; auto: 1 where the cluster has any, else 0"
    )
    trainers: Count = Field(1, description="Workers that train together, each on a part of every batch")
    chunk: Count | Literal["auto"] = Field(
        "auto", description="Dialogues handed out at a time; auto: 64 with ray; kept by a run"
    )
    silence: Annotated[float, Field(gt=0, le=604_800)] = Field(
        3_600.0, description="Seconds without an answer after which a worker is lost, until it is known what is usual"
    )

    @property
    def dialogues(self) -> int | None:
        """Dialogues that are handed out at a time; None where the machine decides."""
        if self.chunk == "auto":
            return None if self.engine == "none" else 64
        return self.chunk


class Server(Section):
    """A server that samples messages, with token ids in and out."""

    urls: tuple[Address, ...] = Field(
        (), description="Its addresses, such as http://localhost:8000/v1; none: no server"
    )
    base: PathText = Field("base", description="Its name for the base model")
    adapters: Annotated[PathText, AfterValidator(_expand)] = Field(
        "adapters", description="A folder that this machine and the server both see, for adapters"
    )
    key_env: PathText | None = Field(None, description="The environment variable that holds its key, if it wants one")
    seconds: Seconds = Field(300.0, description="The longest that an answer may take")
    at_once: Count = Field(32, description="Requests under way at a time")


class Speaker(Section):
    """A model behind OpenAI's chat completions, hosted or local, which may speak for a role or teach."""

    url: Address = Field(description="Its address, such as https://api.example.com/v1")
    model: PathText = Field(description="Its name there")
    key_env: PathText | None = Field(None, description="The environment variable that holds its key, if it wants one")
    seconds: Seconds = Field(300.0, description="The longest that an answer may take")
    at_once: Count = Field(8, description="Requests under way at a time")
    limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What it calls the tokens that it may say"
    )
    thinking_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="Tokens that it may take besides, where those it thinks with count"
    )
    omit: tuple[Literal["temperature", "top_p", "seed"], ...] = Field(
        (), description="What it does not want to be sent"
    )
    prompt_price: Price = Field(0.0, description="What a million tokens cost that it reads")
    completion_price: Price = Field(0.0, description="What a million tokens cost that it says")
    max_total_tokens: TokenCount | None = Field(None, description="Tokens, read and said, that it may take in one run")
    max_cost: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="What it may cost in one run"
    )
    max_refused: Count = Field(
        8, description="Requests that it may refuse one after the other, such as by a filter; one more ends the run"
    )

    @field_validator("omit", mode="before")
    @classmethod
    def _is_a_list(cls, omit: object) -> object:
        return tuple(omit) if isinstance(omit, list) else omit

    @field_validator("max_cost")
    @classmethod
    def _has_a_price(cls, most: float | None, info: ValidationInfo) -> float | None:
        if most is not None and not (info.data.get("prompt_price") or info.data.get("completion_price")):
            raise ValueError("needs a price: prompt_price, completion_price")
        return most

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


class Serve(Section):
    """How a run is served; the flags of the verb go before it. The key that clients show stands in no file."""

    host: PathText = Field("127.0.0.1", description="Who may ask: 127.0.0.1 this machine alone; others need a key")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(8000, description="0 takes any that is free")
    served_model_name: PathText = Field("optima", description="Of the models: NAME, NAME:role, NAME:solo")
    waiting: Annotated[int, Field(ge=1, le=4_096)] = Field(64, description="Answers owed at most; more get 429")
    seconds: Annotated[float, Field(ge=1, le=86_400)] = Field(
        120.0, description="For an answer, and for a request to arrive"
    )
    body: Annotated[int, Field(ge=1, le=1_000_000)] = Field(1024, description="KiB of a request")
    origin: tuple[PathText, ...] = Field((), description="Of web pages that may ask, such as http://localhost:3000")

    @field_validator("served_model_name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError(f"must be up to 100 letters, digits and .-_, not {name[:120]}")
        return name

    @field_validator("origin")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if (
                origin != f"{parts.scheme}://{parts.netloc}"
                or parts.scheme not in ("http", "https")
                or not parts.netloc
            ):
                raise ValueError(f"must be origins such as http://localhost:3000, without a path, not {origin}")
        return origins


class Machine(Section):
    """What differs from one machine to the next and leaves the science alone."""

    run_folder: Annotated[PathText, AfterValidator(_expand)] = Field("runs", description="Where runs are kept")
    models: dict[str, Annotated[PathText, AfterValidator(_expand)]] = Field(
        {}, description="Names for model folders, usable as model.name in a recipe"
    )
    threads: Annotated[int, Field(ge=1, le=1_024)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto: measured, or two processes where the model is small"
    )
    max_batch_tokens: TokenCount | Literal["auto"] = Field("auto", description="Tokens of one batch while sampling")
    micro_batch: Count = Field(16, description="Training examples held in memory at once")
    max_cache_gib: Gib | Literal["auto"] = Field(
        "auto", description="Memory for attention states that may be of use again; auto: what sampling leaves"
    )
    max_vram_gib: Annotated[float, Field(gt=0, le=1_000_000)] | Literal["auto"] = Field(
        "auto", description="GPU memory a run may take; auto: what the card has"
    )
    backend: Literal["auto", "transformers"] = Field(
        "auto", description="What loads and trains the model; auto: transformers (docs/gpu.md says why not Unsloth)"
    )
    offline: bool = Field(False, description="Never ask the network for a model")
    allow_code: bool = Field(
        False, description="Run the programs that a model writes, walled in, where a recipe asks for it (Linux only)"
    )
    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = Field(
        (), description="Where the curves of a run go, besides its folder: tensorboard, trackio, wandb, mlflow"
    )
    report_project: PathText = Field("optima-lite", description="The project that those put them under")
    cluster: Cluster = Cluster()
    server: Server = Server()
    serve: Serve = Serve()
    speakers: dict[str, Speaker] = Field(
        {}, description="Models elsewhere that roles may be spoken by (docs/speakers.md)"
    )
    colour: Literal["auto", "always", "never"] = Field("auto", description="Colours in the terminal")

    @field_validator("speakers", mode="before")
    @classmethod
    def _are_named(cls, speakers: object) -> object:
        for name, table in speakers.items() if isinstance(speakers, Mapping) else ():
            if not SPEAKER.fullmatch(name):
                raise ValueError(f"{name!r}: a name is made of letters, digits, _ and -")
            if not isinstance(table, Mapping):
                raise ValueError(f'holds tables, such as [speakers.{name}] with url = "..." and model = "..."')
            if wrong := [key for key in table if key not in Speaker.model_fields]:
                near = near_names(wrong[0], [*Speaker.model_fields])
                raise ValueError(f"{name}.{wrong[0]}: no such key; {near}")
        return speakers

    @field_validator("backend", mode="before")
    @classmethod
    def _reuses_states(cls, backend: object) -> object:
        if backend == "unsloth":
            raise ValueError("cannot be unsloth, which does not extend the attention states it is given; use auto")
        return backend


MACHINE_KEYS = key_tree(Machine)


_EXAMPLES = {
    "url": '"https://api.example.com/v1"',
    "model": '"some-model"',
    "key_env": '"EXAMPLE_KEY"',
    "prompt_price": "0.5",
    "completion_price": "2.0",
    "max_total_tokens": "2_000_000",
    "max_cost": "5.0",
}


def _example_toml() -> str:
    keys = {key.path: key for key in reference(Machine)}
    models, _ = keys.pop("models"), keys.pop("speakers")
    lines = [
        "# The machine that optima-lite runs on; what a run learns is in the recipe. Every line is optional and shows",
        "# the default, or an example where there is none.",
        f"# Read from --config, else ./{MACHINE_FILE}, else ~/.config/optima_lite/{MACHINE_FILE}.",
    ]
    tables = {
        "cluster": "Where one machine is not enough",
        "server": "Where a server samples the messages",
        "serve": "How a run is served",
    }
    tabled = {name: [keys.pop(path) for path in list(keys) if path.startswith(f"{name}.")] for name in tables}
    for key in keys.values():
        lines += ["", f"# {key.description}", f"# {key.path} = {key.default}"]
    lines += ["", f"# {models.description}", "# [models]", '# llama3 = "~/models/Meta-Llama-3-8B-Instruct"']
    for name, what in tables.items():
        lines += ["", f"# {what} (docs/{name}.md)", f"# [{name}]"]
        for key in tabled[name]:
            short = key.path.removeprefix(f"{name}.")
            value = _EXAMPLES.get(short) if key.default == "null" else key.default
            lines += [f"# {short} = {value}  # {key.description}"] if value else []
    lines += [
        "",
        "# Models elsewhere that roles may be spoken by, by names of yours (docs/speakers.md)",
        "# [speakers.gpt]",
    ]
    lines += [
        f"# {key.path} = {_EXAMPLES.get(key.path, key.default)}  # {key.description}" for key in reference(Speaker)
    ]
    return "\n".join(lines) + "\n"


EXAMPLE_TOML = _example_toml()
