// Uses the client as its users do, and prints what came of it.
import { Ollama } from 'ollama'

const { URL: host, TINY: model, EMBEDDER: embedder } = process.env
const client = new Ollama({ host })
const options = { num_predict: 6, temperature: 0 }
const messages = [{ role: 'user', content: 'hello' }]
const seen = {}

async function joined(stream, piece) {
  let text = ''
  for await (const part of stream) text += piece(part)
  return text
}

async function failure(promise) {
  try {
    await promise
  } catch (error) {
    return error.name === 'AbortError' ? error.name : [error.status_code, error.message]
  }
}

const prompt = { model, prompt: 'hello', options }
seen.generate = {
  whole: (await client.generate(prompt)).response,
  streamed: await joined(await client.generate({ ...prompt, stream: true }), (p) => p.response),
}
seen.chat = {
  whole: (await client.chat({ model, messages, options })).message.content,
  streamed: await joined(
    await client.chat({ model, messages, options, stream: true }),
    (p) => p.message.content,
  ),
}

const harmony =
  'I ask.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather ' +
  '<|constrain|>json<|message|>{"city": "'
const city = { type: 'string', enum: ['Rome', 'Oslo'] }
const tool = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather of a city',
    parameters: { type: 'object', properties: { city }, required: ['city'] },
  },
}
const called = await client.chat({
  model: 'gpt-oss-forced',
  messages: [...messages, { role: 'assistant', content: '', thinking: harmony }],
  tools: [tool],
  options: { num_predict: 60 },
})
seen.thinking = called.message.thinking
seen.tool = called.message.tool_calls.map((call) => ({
  name: call.function.name,
  arguments: call.function.arguments,
}))
seen.city = seen.tool[0].arguments.city

const schema = { type: 'object', properties: { sure: { type: 'boolean' } }, required: ['sure'] }
const structured = await client.chat({
  model,
  messages,
  format: schema,
  options: { num_predict: 60 },
})
seen.schema = JSON.parse(structured.message.content)
seen.vectors = [
  (await client.embed({ model: embedder, input: ['a', 'b'] })).embeddings[0].length,
  (await client.embeddings({ model: embedder, prompt: 'a' })).embedding.length,
]
seen.list = (await client.list()).models.map((entry) => entry.name)
seen.ps = (await client.ps()).models.map((entry) => entry.name)
seen.show = (await client.show({ model })).capabilities
seen.version = (await client.version()).version
seen.missing = await failure(client.chat({ model: 'nope', messages }))
seen.refused = await failure(client.generate({ ...prompt, options: { temperature: 'hot' } }))

const endless = await client.generate({
  model,
  prompt: 'hello',
  raw: true,
  stream: true,
  options: { num_predict: 900 },
})
seen.aborted = await failure(
  (async () => {
    for await (const part of endless) if (part) endless.abort()
  })(),
)
console.log(JSON.stringify(seen))
