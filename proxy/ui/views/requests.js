// Who asks, who waits for what, and how far each is.

import { html } from "../vendor/htm-preact.js";
import { seconds, since } from "../js/format.js";
import { ask, path } from "../js/http.js";
import { several } from "../js/nodes.js";
import { attempt, say } from "../js/notices.js";
import { doing } from "../js/words.js";

export function Requests({ known, now }) {
  const found = Object.values(known.requests).sort((a, b) => a.at.localeCompare(b.at));
  const waiting = found.filter((request) => request.state === "waiting").length;
  return html`<section aria-labelledby="requests">
    <h2 id="requests">Requests <small>${found.length - waiting} running, ${waiting} waiting</small></h2>
    ${found.length === 0 && html`<p class="quiet">Nobody asks anything just now.</p>`}
    <ul class="rows">
      ${found.map((one) => html`<${Request} key=${one.id} request=${one} now=${now} where=${several(known) ? one.node : null} />`)}
    </ul>
  </section>`;
}

function Request({ request, now, where }) {
  const cancel = () =>
    attempt(async () => {
      await ask("POST", path("admin", "requests", request.id, "cancel"));
      say(`A request to ${request.model} was cancelled.`);
    });
  const about = request.expected_s == null ? "" : `, about ${seconds(request.expected_s)} more`;
  return html`<li class="request">
    <span class="what">
      <b>${request.model}</b> ${doing(request)}${about}
      <small>${where ? `on ${where} · ` : ""}${request.path}${request.key ? ` · key ${request.key}` : ""}</small>
    </span>
    <${Progress} request=${request} />
    <span class="number" title="since it came">${seconds(Math.round(since(request.at, now)))}</span>
    <button onClick=${cancel} aria-label=${`Cancel the request to ${request.model}`}>Cancel</button>
  </li>`;
}

function Progress({ request }) {
  const { prompt_tokens: all, prompt_tokens_read: read } = request;
  if (read != null) {
    return html`<span class="progress">
      ${all && html`<progress max=${all} value=${read} aria-label="Prompt"></progress>`}
      <span class="number">${read}${all ? ` of ${all}` : ""} tokens read</span>
    </span>`;
  }
  if (request.tokens == null) return html`<span></span>`;
  const most = request.max_tokens;
  return html`<span class="progress">
    ${most && html`<progress max=${most} value=${request.tokens} aria-label="Answer"></progress>`}
    <span class="number">${request.tokens}${most ? ` of at most ${most}` : ""} tokens</span>
  </span>`;
}
