// Asks through the openai SDK for Node: sdk.mjs DIRECTORY
//
// DIRECTORY holds node_modules. Each line on the standard input is a request, {"url", "body"}; for each
// one a line comes out: what the SDK made of the answer. It judges nothing; policies.py does.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(join(resolve(process.argv[2]), "package.json"));
const { OpenAI } = require("openai");

async function ask({ url, body }) {
  const reply = { status: null, headers: {}, chunks: [], answer: null, final: null, error: null };
  const client = new OpenAI({
    baseURL: `${url}/v1`,
    apiKey: "none",
    maxRetries: 0,
    timeout: 300_000,
    fetch: async (...request) => {
      const response = await fetch(...request);
      reply.status = response.status;
      reply.headers = Object.fromEntries(response.headers);
      return response;
    },
  });
  try {
    if (body.stream) {
      const stream = client.chat.completions.stream(body);
      // A copy: the SDK goes on with what it hands out.
      stream.on("chunk", (chunk) => reply.chunks.push(structuredClone(chunk)));
      reply.final = await stream.finalChatCompletion();
    } else {
      reply.final = reply.answer = await client.chat.completions.create(body);
    }
  } catch (error) {
    reply.error = { kind: error.constructor.name, code: error.code ?? null, message: error.message };
  }
  return reply;
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await ask(JSON.parse(line)))}\n`);
}
