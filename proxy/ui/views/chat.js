// A small chat: to try a model, and to see its split change under a running answer.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { rate } from "../js/format.js";
import { ask, wordsOf } from "../js/http.js";
import { parser, texts } from "../js/sse.js";

/** What one event of the stream adds to an answer: its text and its thoughts. Pure. */
export function delta(data) {
  if (data === "[DONE]") return {};
  const event = JSON.parse(data);
  if (event.error) throw new Error(event.error.message ?? "the answer broke off");
  const { content, reasoning_content: thought } = event.choices?.[0]?.delta ?? {};
  return { text: content ?? "", thought: thought ?? "" };
}

/** A piece of text behind the pieces of an answer. Pure. */
export function added(pieces, piece) {
  const last = pieces.at(-1);
  if (last?.kind !== piece.kind) return [...pieces, piece];
  return [...pieces.slice(0, -1), { ...last, text: last.text + piece.text }];
}

/** A mark where the split began to change, {kind: "split", from, to}: one for a move, whatever many
 * layers it has. `last` is the mark of the move that goes on, null where none does. Pure. */
export function marked(pieces, from, to, last) {
  if (last === null) return [...pieces, { kind: "split", from, to }];
  return pieces.map((piece) => (piece === pieces.findLast((one) => one.kind === "split") ? { ...piece, to } : piece));
}

/** Whether a model is there to be talked to; one of which nothing is known may be. Pure. */
export function talks(model) {
  if ((model.meta?.mode ?? "generation") !== "generation") return false;
  return !model.capabilities?.length || model.capabilities.includes("completion");
}

const plain = (message) =>
  message.pieces.filter((piece) => piece.kind === "text").map((piece) => piece.text).join("");

export function Chat({ view }) {
  const [model, setModel] = useState("");
  const [text, setText] = useState("");
  const [messages, setMessages] = useState([]);
  const [running, setRunning] = useState(null); // { stop, tokens, since }
  const [early, setEarly] = useState(false); // sent before any model was known: goes out with the first one
  const { known } = view;
  const models = view.models.filter(talks);
  const loaded = Object.values(known.backends).filter((b) => b.state === "ready" && b.mode === "generation");
  const chosen = model || loaded.find((b) => models.some((m) => m.id === b.model))?.model || models[0]?.id || "";
  const backend = loaded.find((b) => b.id === running?.backend) ?? loaded.find((b) => b.model === chosen);
  const split = backend?.moe_cpu_layers;
  const list = useRef(null);

  const change = (what) =>
    setMessages((all) => [...all.slice(0, -1), { ...all.at(-1), pieces: what(all.at(-1).pieces) }]);
  const add = (piece) => change((pieces) => added(pieces, piece));
  const moving = !!backend?.layers.some((layer) => layer.to != null);
  useEffect(() => {
    if (!running || split == null) return;
    const { split: from = split, mark = null } = running;
    if (split !== from) {
      change((pieces) => marked(pieces, from, split, mark));
      running.mark = true;
    }
    running.split = split;
    if (!moving) running.mark = null;
  }, [split, moving]);
  useEffect(() => {
    const box = list.current;
    if (box && running) box.scrollTop = box.scrollHeight;
  }, [messages]);

  const send = async (event) => {
    event?.preventDefault();
    if (running || !text.trim()) return;
    if (!chosen) return setEarly(true);
    const history = [...messages, { role: "user", pieces: [{ kind: "text", text: text.trim() }] }];
    const stop = new AbortController();
    const run = { stop, split, tokens: 0, since: 0 };
    setMessages([...history, { role: "assistant", pieces: [] }]);
    setText("");
    setRunning(run);
    try {
      const from = (backend) => setRunning(Object.assign(run, { backend }));
      await stream(chosen, history, stop.signal, from, (piece) => {
        run.since ||= performance.now();
        run.tokens += 1;
        add(piece);
      });
    } catch (error) {
      if (error.name !== "AbortError") add({ kind: "error", text: wordsOf(error) });
    }
    setRunning(null);
  };
  useEffect(() => {
    if (!early || !chosen) return;
    setEarly(false);
    void send();
  }, [early, chosen]);
  const speed = running?.tokens > 5 ? (1000 * running.tokens) / (performance.now() - running.since) : null;
  return html`<section class="chat" aria-labelledby="chat">
    <h2 id="chat">Chat</h2>
    <div class="line">
      <label class="hidden" for="chat-model">Model</label>
      <select id="chat-model" value=${chosen} onChange=${(event) => setModel(event.target.value)}>
        ${models.map((m) => html`<option key=${m.id} value=${m.id} selected=${m.id === chosen}>${m.id}</option>`)}
      </select>
      ${split != null && html`<span class="chip">${split} of ${backend.block_count} on the CPU</span>`}
      ${speed && html`<span class="number quiet">${rate(speed)} tokens/s</span>`}
      ${messages.length > 0 && !running &&
      html`<button class="plain" onClick=${() => setMessages([])}>Clear</button>`}
    </div>
    ${models.length === 0 && html`<p class="quiet">There is no model to talk to.</p>`}
    ${messages.length > 0 &&
    html`<div class="messages" ref=${list} tabindex="0" role="log" aria-label="Conversation" aria-busy=${String(!!running)}>
      ${messages.map((message, at) => html`<${Message} key=${at} message=${message} />`)}
    </div>`}
    <form class="send" onSubmit=${send}>
      <label class="hidden" for="chat-text">What to ask</label>
      <textarea id="chat-text" rows="2" placeholder="Ask something; Enter sends" value=${text}
        onInput=${(event) => setText(event.target.value)}
        onKeyDown=${(event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event)}></textarea>
      ${running
        ? html`<button type="button" onClick=${() => running.stop.abort()}>Stop</button>`
        : html`<button class="main" type="submit" disabled=${!text.trim()}>Send</button>`}
    </form>
  </section>`;
}

/** `from` is told which backend answers, `take` gets the pieces. */
async function stream(model, history, signal, from, take) {
  const messages = history.map((message) => ({ role: message.role, content: plain(message) }));
  const json = { model, messages, stream: true };
  const answer = await ask("POST", "/v1/chat/completions", { json, signal });
  from(answer.headers.get("X-Moe-Proxy-Backend"));
  const feed = parser();
  for await (const part of texts(answer))
    for (const { data } of feed(part)) {
      const { text, thought } = delta(data);
      if (thought) take({ kind: "thought", text: thought });
      if (text) take({ kind: "text", text });
    }
}

function Message({ message }) {
  return html`<div class="message ${message.role}">
    <b class="hidden">${message.role === "user" ? "You:" : "Answer:"}</b>
    ${message.pieces.length === 0 && html`<span class="quiet">…</span>`}
    ${message.pieces.map((piece, at) =>
      piece.kind === "split"
        ? html`<span key=${at} class="mark" title="layers on the CPU">⇄ ${piece.from} → ${piece.to}</span>`
        : html`<span key=${at} class=${piece.kind}>${piece.text}</span>`,
    )}
  </div>`;
}
