// What Vercel's AI SDK says of a proxy by its default OpenAI provider, as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { URL, TINY, TOOLS, THINKER } = process.env;
const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: "-" });
const told = {};
const settings = { maxRetries: 0, maxOutputTokens: 6 };

const streaming = streamText({ ...settings, model: openai(TINY), prompt: "hello", onError: fail });
let text = "";
for await (const delta of streaming.textStream) text += delta;
told.text = {
  streamed: text,
  whole: await streaming.text,
  finish: await streaming.finishReason,
  usage: (await streaming.usage).outputTokens,
  model: (await streaming.response).modelId,
};

// The second turn refers to items of the first by their ids.
const first = await generateText({ ...settings, model: openai(TINY), prompt: "hello" });
const turns = [
  { role: "user", content: "hello" },
  ...first.response.messages,
  { role: "user", content: "more" },
];
const second = await generateText({ ...settings, model: openai(TINY), messages: turns });
told.turns = { references: JSON.stringify(second.request.body).includes("item_reference"), text: second.text };

const schema = z.object({ city: z.enum(["Rome", "Oslo"]), by_train: z.boolean() });
const object = await generateText({
  ...settings,
  maxOutputTokens: 200,
  model: openai(TINY),
  prompt: "hello",
  output: Output.object({ schema }),
});
told.object = object.output;
const partial = streamText({
  ...settings,
  maxOutputTokens: 200,
  model: openai(TINY),
  prompt: "hello",
  output: Output.object({ schema }),
  onError: fail,
});
for await (const piece of partial.partialOutputStream) told.partial = piece;

const cities = [];
const weather = tool({
  description: "of a city",
  inputSchema: z.object({ city: z.enum(["Rome", "Oslo"]) }),
  execute: async ({ city }) => {
    cities.push(city);
    return "sunny";
  },
});
const steps = streamText({
  ...settings,
  maxOutputTokens: 200,
  model: openai(TOOLS),
  prompt: "hello",
  tools: { weather },
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
  providerOptions: { openai: { parallelToolCalls: false } },
  onError: fail,
});
await steps.consumeStream();
told.tool = { cities, steps: (await steps.steps).map((step) => step.finishReason) };

const thinking = streamText({
  ...settings,
  maxOutputTokens: 60,
  model: openai(THINKER),
  prompt: "hello",
  providerOptions: { openai: { reasoningSummary: "auto", forceReasoning: true } },
  onError: fail,
});
await thinking.consumeStream();
told.thinking = { reasoning: await thinking.reasoningText, text: await thinking.text };

try {
  await generateText({ ...settings, model: openai(TINY), prompt: "word ".repeat(2000) });
} catch (error) {
  told.refused = [error.statusCode, error.data.error.code];
}

console.log(JSON.stringify(told));

function fail({ error }) {
  throw error;
}
