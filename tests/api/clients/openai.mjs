// What openai-node says of a proxy, as JSON.
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { URL, TINY, TOOLS } = process.env;
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "-", maxRetries: 0 });
const told = {};

const stream = client.responses.stream({ model: TINY, input: "hello", max_output_tokens: 6 });
const deltas = [];
const numbers = [];
stream.on("response.output_text.delta", (event) => deltas.push(event.delta));
stream.on("event", (event) => numbers.push(event.sequence_number));
const final = await stream.finalResponse();
told.text = { streamed: deltas.join(""), whole: final.output_text, numbers };

const Trip = z.object({ city: z.enum(["Rome", "Oslo"]), by_train: z.boolean() });
const parsed = await client.responses.parse({
  model: TINY,
  input: "hello",
  max_output_tokens: 200,
  text: { format: zodTextFormat(Trip, "trip") },
});
told.parsed = parsed.output_parsed;

const weather = zodResponsesFunction({
  name: "get_weather",
  parameters: z.object({ city: z.enum(["Rome", "Oslo"]) }),
});
const asking = {
  model: TOOLS,
  input: "hello",
  max_output_tokens: 200,
  tools: [weather],
  tool_choice: "required",
  parallel_tool_calls: false,
  chat_template_kwargs: { enable_thinking: false },
};
const calling = client.responses.stream(asking);
let snapshot = "";
calling.on("response.function_call_arguments.delta", (event) => (snapshot = event.snapshot));
const called = await calling.finalResponse();
const call = called.output.find((item) => item.type === "function_call");
told.call = { name: call.name, parsed: call.parsed_arguments, snapshot, arguments: call.arguments };

try {
  await client.chat.completions.create({
    model: TINY,
    messages: [{ role: "user", content: "word ".repeat(2000) }],
  });
} catch (error) {
  told.refused = [error.constructor.name, error.status, error.code, error.type];
}

const chat = client.chat.completions.stream({
  model: TINY,
  messages: [{ role: "user", content: "hello" }],
  max_tokens: 6,
});
let said = "";
chat.on("content", (delta) => (said += delta));
told.chat = { streamed: said, whole: await chat.finalContent() };
told.chat.streamed = said;

console.log(JSON.stringify(told));
