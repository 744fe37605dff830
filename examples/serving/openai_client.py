"""Ask a served team with the openai package, in one piece and as a stream; then several at once."""

import asyncio
import os

from openai import AsyncOpenAI, OpenAI

BASE = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
KEY = os.environ.get("OPENAI_API_KEY", "none")
ASKED = [{"role": "user", "content": "What is the teacher of the teacher of Rolen?"}]
FACTS = {"optima": {"facts": {"Alice": ["Rolen teacher Tanel"], "Bob": ["Tanel teacher Lovik"]}}}

with OpenAI(base_url=BASE, api_key=KEY) as client:
    found = client.chat.completions.create(model="optima", messages=ASKED, temperature=0, extra_body=FACTS)
    print("answer:", found.choices[0].message.content, f"({found.usage.completion_tokens} tokens)")

    stream = client.chat.completions.create(
        model="optima", messages=ASKED, temperature=0, extra_body=FACTS, stream=True
    )
    for chunk in stream:
        delta = chunk.choices[0].delta
        print(getattr(delta, "reasoning_content", None) or delta.content or "", end="")
    print()


async def several() -> None:
    """The same seed is the same dialogue, whoever else is asking."""
    async with AsyncOpenAI(base_url=BASE, api_key=KEY) as client:
        seeds = (0, 1, 0)
        asked = [
            client.chat.completions.create(model="optima", messages=ASKED, seed=k, extra_body=FACTS) for k in seeds
        ]
        talks = [[turn["content"] for turn in one.optima["dialogue"]] for one in await asyncio.gather(*asked)]
        print("the same seed, the same dialogue:", talks[0] == talks[2])


asyncio.run(several())
