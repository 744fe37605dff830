"""Hooks for schemathesis, which asks a served run what a specification allows.

    optima-lite serve RUN --port 8000 &
    SCHEMATHESIS_HOOKS=scripts/fuzz_hooks.py schemathesis run http://127.0.0.1:8000/openapi.json \
        --phases coverage,fuzzing --mode positive --max-examples 400 --generation-deterministic

What a specification allows is seldom a question, and what is refused says little. So of ten generated bodies nine are
mended until they can be answered: they ask one of the models, briefly, and without what no team can do. The others go
out as they were generated. At its end it says how often which status came back.
"""

import atexit
import json
import random
from collections import Counter
from typing import Any

import schemathesis

REFUSED = (
    *("audio", "function_call", "functions", "logit_bias", "logprobs", "modalities", "prediction", "presence_penalty"),
    *("frequency_penalty", "reasoning_effort", "response_format", "tool_choice", "tools", "top_logprobs"),
    *("web_search_options", "optima"),
)
MODELS = ("optima", "optima:alice", "optima:bob", "optima:solo")
SPEAKERS = ("system", "developer", "user", "assistant")
QUESTIONS = ("What is the teacher of Rolen?", "Кто? 日本", "x")
COUNTS: Counter[str] = Counter()


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Most bodies, so that they can be answered; the same body always becomes the same."""
    chance = random.Random(json.dumps(body, default=str, sort_keys=True))
    if not isinstance(body, dict) or chance.random() < 0.1:
        return body
    mended = {name: value for name, value in body.items() if name not in REFUSED}
    if not context.operation.path.startswith("/v1"):  # OpenAI's schema of an answer is that of one in one piece
        mended = {name: value for name, value in mended.items() if not name.startswith("stream")}
    mended["model"] = chance.choice(MODELS)
    said = [_as_text(one) for one in body.get("messages") or () if isinstance(one, dict)]
    asked = {"role": "user", "content": f"Question: {chance.choice(QUESTIONS)}"}
    mended["messages"] = [one for one in said[:6] if one.get("role") in SPEAKERS] + [asked]
    mended["max_completion_tokens"] = chance.randint(1, 12)
    mended |= {"n": chance.randint(1, 2)} if body.get("n") else {}
    if not body.get("stop") or "" in body["stop"]:
        mended.pop("stop", None)
    return mended


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Every second name of a model is one."""
    chance = random.Random(json.dumps(path_parameters, default=str, sort_keys=True))
    known = chance.random() < 0.5
    return {name: chance.choice(MODELS) if known else value for name, value in (path_parameters or {}).items()}


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """A message, its parts as text."""
    kept = {name: value for name, value in message.items() if name in ("role", "content", "name")}
    if isinstance(kept.get("content"), list):
        texts = [str(part.get("text") or "") for part in kept["content"] if isinstance(part, dict)]
        kept["content"] = [{"type": "text", "text": text} for text in texts]
    return kept


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Counts an answer."""
    COUNTS[f"{case.operation.label}: {response.status_code}"] += 1


@atexit.register
def tell() -> None:
    """What came back how often."""
    for what, times in sorted(COUNTS.items()):
        print(f"{what}, {times} times")
