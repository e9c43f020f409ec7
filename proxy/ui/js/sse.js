// Server-sent events over fetch: EventSource cannot send a key. The parser is pure.

import { ask } from "./http.js";

// The proxy says something every 15 s: a connection that is silent for longer is dead.
const SILENCE_MS = 40_000;

/** Splits text, as it comes, into events: `feed(text)` returns those that are complete. */
export function parser() {
  let rest = "";
  return (text) => {
    const parts = (rest + text).split("\n\n");
    rest = parts.pop();
    return parts.map(one).filter((event) => event.data !== null);
  };
}

function one(text) {
  const event = { kind: "message", data: null };
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) event.kind = line.slice(7);
    else if (line.startsWith("data: ")) event.data = (event.data ?? "") + line.slice(6);
  }
  return event;
}

/** Calls `take(kind, data)` for each event of a stream, until it ends or `signal` does. Throws what
 * went wrong. */
export async function follow(path, take, signal) {
  const ended = new AbortController();
  const end = () => ended.abort();
  const silent = () => ended.abort(new Error("it was silent for too long."));
  signal.addEventListener("abort", end);
  let timer = setTimeout(silent, SILENCE_MS);
  try {
    const answer = await ask("GET", path, { signal: ended.signal });
    const feed = parser();
    for await (const text of texts(answer)) {
      clearTimeout(timer);
      timer = setTimeout(silent, SILENCE_MS);
      for (const { kind, data } of feed(text)) take(kind, JSON.parse(data));
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
    end();
  }
}

/** The text of an answer as it comes. */
export async function* texts(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
