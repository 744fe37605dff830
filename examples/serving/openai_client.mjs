// Ask a served team with the openai package of npm (npm install openai), in one piece and as a stream.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const asked = {
  model: "optima",
  temperature: 0,
  messages: [{ role: "user", content: "What is the teacher of the teacher of Rolen?" }],
  optima: { facts: { Alice: ["Rolen teacher Tanel"], Bob: ["Tanel teacher Lovik"] } },
};

const found = await client.chat.completions.create(asked);
console.log("answer:", found.choices[0].message.content, `(${found.usage.completion_tokens} tokens)`);

for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  const delta = chunk.choices[0].delta;
  process.stdout.write(delta.reasoning_content ?? delta.content ?? "");
}
console.log();
