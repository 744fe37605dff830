"""The roles of a served team as the nodes of a LangGraph (pip install langgraph langchain-openai)."""

import os
import re
from collections.abc import Callable
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

BASE = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
KEY = os.environ.get("OPENAI_API_KEY", "none")
FACTS = {"alice": ["Rolen teacher Tanel"], "bob": ["Tanel teacher Lovik"]}
MOST = 6  # messages


def node(role: str) -> Callable[[MessagesState], dict[str, Any]]:
    """A role: what it knows is a system message; how it was trained to see the talk is the server's business."""
    model = ChatOpenAI(base_url=BASE, api_key=KEY, model=f"optima:{role}", temperature=0)
    knows = SystemMessage("\n".join(["Facts:", *(f"- {fact}" for fact in FACTS[role])]))
    return lambda state: {"messages": [model.invoke([knows, *state["messages"]])]}


def next_or_end(other: str) -> Callable[[MessagesState], str]:
    """On to the other one, until both have stated the same answer."""

    def go(state: MessagesState) -> str:
        said = state["messages"][1:]
        answers = [found[1] for one in said if (found := re.search("<A>(.*?)</A>", one.content))]
        return END if len(said) >= MOST or (len(answers) > 1 and answers[-1] == answers[-2]) else other

    return go


graph = StateGraph(MessagesState)
graph.add_node("alice", node("alice"))
graph.add_node("bob", node("bob"))
graph.add_edge(START, "alice")
graph.add_conditional_edges("alice", next_or_end("bob"))
graph.add_conditional_edges("bob", next_or_end("alice"))

question = HumanMessage("Question: What is the teacher of the teacher of Rolen?")
for message in graph.compile().invoke({"messages": [question]})["messages"]:
    print(message.content)
