// Each model that is there: what is loaded with all there is to see and set, the others with a button.

import { html, useState } from "../vendor/htm-preact.js";
import { rate, seconds, since, size } from "../js/format.js";
import { ask, path } from "../js/http.js";
import { devicesOf, several } from "../js/nodes.js";
import { attempt, say } from "../js/notices.js";
import { movable, shrunk } from "../js/words.js";
import { ChooseNode } from "./choose-node.js";
import { ExpertMap } from "./expert-map.js";
import { Pull } from "./pull.js";
import { SplitSlider } from "./split-slider.js";

export function Models({ view, now }) {
  const { known, models } = view;
  const backends = Object.values(known.backends);
  const loaded = new Set(backends.filter((b) => b.state !== "gone").map((b) => b.model));
  const others = models.filter((m) => !loaded.has(m.meta.base ?? m.id));
  return html`<section class="models" aria-labelledby="models">
    <h2 id="models">Models <small>${loaded.size} of ${models.length} loaded</small></h2>
    ${backends.map((b) => html`<${Backend} key=${b.id} backend=${b} known=${known} now=${now} />`)}
    ${others.length > 0 && html`<${Others} models=${others} known=${known} />`}
    <${Pull} known=${known} />
  </section>`;
}

const STATES = {
  starting: "loading",
  ready: "ready",
  draining: "finishing",
  stopping: "unloading",
  gone: "failed",
};

function Backend({ backend, known, now }) {
  const busy = backend.in_flight > 0;
  const chip = shrunk(backend);
  const gone = backend.state === "gone";
  const where = several(known) ? backend.node : null;
  return html`<article class="card" aria-label=${where ? `${backend.model} on ${where}` : backend.model}>
    <h3>
      ${backend.model}
      ${where && html`<span class="chip where">on ${where}</span>`}
      <span class="chip ${backend.state}">${busy && backend.state === "ready" ? "answering" : STATES[backend.state]}</span>
      ${chip && html`<span class="chip shrunk">${chip}</span>`}
      ${backend.pinned && html`<span class="chip">pinned</span>`}
      <span class="buttons"><${Buttons} backend=${backend} gone=${gone} /></span>
    </h3>
    ${!gone && html`<${Facts} backend=${backend} now=${now} />`}
    ${backend.last_error && html`<p class="bad pre">${lastLines(backend.last_error)}</p>`}
    ${backend.retry_at && html`<p class="quiet">Requests try it again in ${seconds(since(now, backend.retry_at))}.</p>`}
    ${(backend.warnings ?? []).map((text) => html`<p class="warning">${text}</p>`)}
    ${backend.answers === false && html`<p class="bad">Its worker does not answer.</p>`}
    ${backend.state === "ready" &&
    html`<${ExpertMap} backend=${backend} devices=${devicesOf(known, backend.node)} />
      <${SplitSlider} backend=${backend} />`}
  </article>`;
}

function Facts({ backend, now }) {
  const held = Object.entries(backend.bytes ?? {}).filter(([name]) => name !== "CPU");
  const experts = held.reduce((sum, [, kinds]) => sum + (kinds.experts ?? 0), 0);
  return html`<dl class="facts">
    <div><dt>on devices</dt><dd>${size(held.reduce((sum, [, k]) => sum + total(k), 0))}${experts > 0 && html`<small>, ${size(experts)} of it ${movable(backend)}</small>`}</dd></div>
    <div><dt>context</dt><dd>${backend.ctx}<small> × ${backend.parallel}</small></dd></div>
    <div><dt>writes</dt><dd>${speed(backend.tokens_per_second)}</dd></div>
    <div><dt>reads prompts</dt><dd>${speed(backend.prompt_tokens_per_second)}</dd></div>
    <div><dt>requests</dt><dd>${backend.in_flight}<small> running, ${backend.waiting} waiting</small></dd></div>
    <div><dt>unloads</dt><dd>${unloads(backend, now)}</dd></div>
  </dl>`;
}

const speed = (value) =>
  value ? html`${rate(value)}<small> tokens/s</small>` : "–";
const total = (kinds) => Object.values(kinds).reduce((sum, bytes) => sum + bytes, 0);

/** When it is unloaded, and why. */
function unloads(backend, now) {
  if (backend.state === "starting") return "–";
  if (backend.state === "draining") return html`soon<small> when its answers are done</small>`;
  if (backend.pinned) return html`never<small> ${backend.pinned_by_policy ? "its policy pins it" : "you pinned it"}</small>`;
  if (backend.expires_at) {
    const left = seconds(Math.round(since(now, backend.expires_at)));
    return html`in ${left}<small> unless it is asked</small>`;
  }
  if (backend.keep_alive_s == null) return html`never<small> by its keep-alive</small>`;
  return html`not now<small> ${seconds(backend.keep_alive_s)} after the last request</small>`;
}

const lastLines = (text) => text.trim().split("\n").slice(-6).join("\n");

function Buttons({ backend, gone }) {
  const act = (verb, done) => () =>
    attempt(async () => {
      await ask("POST", path("admin", "models", backend.model, verb), { node: backend.node });
      say(done);
    });
  if (gone)
    return html`<button onClick=${act("load", `${backend.model} is loaded.`)}>Try again</button>
      <button class="plain" onClick=${act("unload", `${backend.model} is struck off.`)}>Forget</button>`;
  return html`<button aria-pressed=${String(!!backend.pinned)}
      title="A pinned model is not unloaded, neither when idle nor for another model"
      onClick=${act(backend.pinned ? "unpin" : "pin", `${backend.model} is ${backend.pinned ? "not pinned any more" : "pinned"}.`)}
      >Pin</button>
    <button onClick=${act("unload", `${backend.model} is unloaded.`)}>Unload</button>`;
}

function Others({ models, known }) {
  return html`<details class="others" open=${models.length < 9}>
    <summary>Not loaded: ${models.length}</summary>
    <ul class="rows">
      ${models.map((model) => html`<${Other} key=${model.id} model=${model} known=${known} />`)}
    </ul>
  </details>`;
}

function Other({ model, known }) {
  const [loading, setLoading] = useState(false);
  const [node, setNode] = useState(""); // empty: where it fits best
  const load = async () => {
    setLoading(true);
    const done = await attempt(() => ask("POST", path("admin", "models", model.id, "load"), { node }));
    setLoading(false);
    if (done) say(`${model.id} is loaded.`);
  };
  const { meta } = model;
  const where = several(known) ? (model.nodes ?? []) : [];
  return html`<li class="other">
    <span class="what"><b>${model.id}</b>
      <small>${meta.base ? `a variant of ${meta.base}` : size(meta.size_bytes)}, context ${meta.ctx}${where.length === 1 ? `, on ${where[0]}` : ""}</small></span>
    ${where.length > 1 &&
    html`<${ChooseNode} label=${`Where to load ${model.id}`} best="where it fits best" names=${where}
      node=${node} set=${setNode} />`}
    <button disabled=${loading} onClick=${load} aria-label=${`Load ${model.id}`}>${loading ? "Loading …" : "Load"}</button>
  </li>`;
}
