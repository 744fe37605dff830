"""The roles of a served team as a round-robin chat of AutoGen (pip install autogen-agentchat "autogen-ext[openai]")."""

import asyncio
import os

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

BASE = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
KEY = os.environ.get("OPENAI_API_KEY", "none")
FACTS = {"alice": ["Rolen teacher Tanel"], "bob": ["Tanel teacher Lovik"]}
UNKNOWN = dict(vision=False, function_calling=False, json_output=False, family="unknown", structured_output=False)


def agent(role: str) -> AssistantAgent:
    """A role: what it knows is its system message; how it was trained to see the talk is the server's business."""
    client = OpenAIChatCompletionClient(
        model=f"optima:{role}", base_url=BASE, api_key=KEY, temperature=0, model_info=UNKNOWN
    )
    facts = "\n".join(["Facts:", *(f"- {fact}" for fact in FACTS[role])])
    return AssistantAgent(role, client, system_message=facts)


async def main() -> None:
    """Three messages after the question."""
    team = RoundRobinGroupChat([agent("alice"), agent("bob")], termination_condition=MaxMessageTermination(4))
    found = await team.run(task="Question: What is the teacher of the teacher of Rolen?")
    for message in found.messages:
        print(f"{message.source}: {message.content}")


asyncio.run(main())
