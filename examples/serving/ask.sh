#!/bin/sh
# Ask a served team with curl: optima-lite serve runs/quickstart-seed0, then sh examples/serving/ask.sh
curl --silent --fail-with-body "${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}/chat/completions" \
  -H "Authorization: Bearer ${OPENAI_API_KEY:-none}" -H "Content-Type: application/json" -d '{
    "model": "optima",
    "temperature": 0,
    "messages": [{"role": "user", "content": "What is the teacher of the teacher of Rolen?"}],
    "optima": {"facts": {
      "Alice": ["Rolen home Portby", "Rolen teacher Tanel"],
      "Bob": ["Rosa teacher Donel", "Tanel teacher Lovik"]
    }}
  }'
