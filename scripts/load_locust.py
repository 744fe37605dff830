"""Clients of a served run for locust, which counts what fails: held-out questions, answers held to the evaluation's.

    EVALUATION=RUN/evaluation/iteration_02_greedy.jsonl locust -f scripts/load_locust.py --headless -u 32 -r 32 -t 60s \
        --host http://127.0.0.1:8000
"""

import itertools
import json
import os

from locust import HttpUser, task

with open(os.environ["EVALUATION"]) as rows:
    ROWS = [json.loads(line) for line in rows]
NEXT = itertools.cycle(ROWS)


class Client(HttpUser):
    """Somebody who asks one question after the other."""

    @task
    def ask(self) -> None:
        """One question."""
        row = next(NEXT)
        asked = {
            "model": "optima",
            "temperature": 0,
            "messages": [{"role": "user", "content": row["question"]["text"]}],
        }
        asked["optima"] = {"facts": row["question"]["contexts"]}
        with self.client.post("/v1/chat/completions", json=asked, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}")
                return
            said = [(turn["content"], turn["tokens"]) for turn in reply.json()["optima"]["dialogue"]]
            wanted = [(turn["text"], len(turn["ids"])) for turn in row["dialogues"][0]["turns"]]
            if said != wanted:
                reply.failure("another dialogue")
