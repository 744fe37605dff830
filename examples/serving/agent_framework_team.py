"""The roles of a served team as a group chat of Microsoft's Agent Framework (pip install agent-framework-core
agent-framework-openai agent-framework-orchestrations)."""

import asyncio
import os
from typing import Any

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework_orchestrations import GroupChatBuilder

BASE = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
KEY = os.environ.get("OPENAI_API_KEY", "none")
FACTS = {"alice": ["Rolen teacher Tanel"], "bob": ["Tanel teacher Lovik"]}
ROLES = ("alice", "bob")


def agent(role: str) -> Agent:
    """A role: what it knows are its instructions. Not OpenAIChatClient, which speaks the Responses API."""
    client = OpenAIChatCompletionClient(model=f"optima:{role}", base_url=BASE, api_key=KEY)
    facts = "\n".join(["Facts:", *(f"- {fact}" for fact in FACTS[role])])
    return Agent(client, instructions=facts, name=role, default_options={"temperature": 0})


async def main() -> None:
    """Three messages after the question."""
    said: dict[int, str] = {}

    def enough(messages: Any) -> bool:
        said.update(enumerate(f"{one.author_name}: {one.text}" for one in messages if one.author_name in ROLES))
        return len(said) >= 3

    chat = GroupChatBuilder(
        participants=[agent(role) for role in ROLES],
        selection_func=lambda state: ROLES[state.current_round % 2],
        termination_condition=enough,
    ).build()
    await chat.run("Question: What is the teacher of the teacher of Rolen?")
    print("\n".join(said.values()))


asyncio.run(main())
