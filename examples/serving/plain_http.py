"""Ask a served team with nothing but Python: optima-lite serve runs/quickstart-seed0, then this script."""

import json
import os
import urllib.request

BASE = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}

body = {
    "model": "optima",
    "temperature": 0,
    "messages": [{"role": "user", "content": "What is the teacher of the teacher of Rolen?"}],
    "optima": {"facts": {"Alice": ["Rolen teacher Tanel"], "Bob": ["Tanel teacher Lovik"]}},
}
request = urllib.request.Request(f"{BASE}/chat/completions", json.dumps(body).encode(), HEADERS)
with urllib.request.urlopen(request) as response:
    answer = json.load(response)

for turn in answer["optima"]["dialogue"]:
    print(f"{turn['name']}: {turn['content']}  ({turn['tokens']} tokens)")
print("answer:", answer["choices"][0]["message"]["content"])
