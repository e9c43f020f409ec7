// Each device's memory, as a bar.

import { html } from "../vendor/htm-preact.js";
import { cards, colours, marks, parts } from "../js/bars.js";
import { size } from "../js/format.js";

export function Devices({ known }) {
  const { devices, host } = known.memory;
  const found = cards(devices);
  return html`<section class="devices" aria-labelledby="devices">
    <h2 id="devices">Devices</h2>
    ${found.length === 0 &&
    html`<p class="quiet">Which devices there are is known once a model is loaded.</p>`}
    ${found.map((card) => html`<${Card} key=${card.names[0]} card=${card} known=${known} />`)}
    ${host && html`<${Host} host=${host} />`}
  </section>`;
}

function Card({ card, known }) {
  const { names, device } = card;
  const name = names.join(", ");
  const bar = parts(card, known.backends);
  const colour = colours(known.memory.devices).get(device.name);
  const free = device.free_bytes == null ? "free: unknown" : `${size(device.free_bytes)} free`;
  return html`<article class="device">
    <h3>
      ${name} <small>${names.length > 1 ? "on one card" : device.description}</small>
      <span class="total">${free} of ${size(device.total_bytes)}</span>
    </h3>
    ${bar === null
      ? html`<p class="quiet">Nobody can read its memory; ours: ${size(device.ours_bytes)}.</p>`
      : html`<${Bar} parts=${bar} marks=${marks(device)} total=${device.total_bytes}
          colour=${colour} label=${`Memory of ${name}`} />`}
    ${device.problem && html`<p class="bad">${device.problem}</p>`}
  </article>`;
}

function Host({ host }) {
  const used = host.total_bytes - host.available_bytes;
  const bar = [
    { kind: "others", label: "in use", bytes: used },
    { kind: "free", label: "available", bytes: host.available_bytes },
  ];
  return html`<article class="device">
    <h3>
      CPU <small>main memory</small>
      <span class="total">${size(host.available_bytes)} available of ${size(host.total_bytes)}</span>
    </h3>
    <${Bar} parts=${bar} marks=${[]} total=${host.total_bytes} colour=${0} label="Main memory" />
  </article>`;
}

const MARKS = { limit: "limit of what is ours", low: "below this much free, experts leave" };

function Bar({ parts, marks, total, colour, label }) {
  const share = (bytes) => `${Math.max((100 * bytes) / total, 0)}%`;
  return html`<div class="bar" role="img"
      aria-label=${`${label}: ${parts.map((p) => `${p.label} ${size(p.bytes)}`).join(", ")}`}>
      ${parts.map(
        (part) => html`<span key=${part.label} class="part ${part.kind} c${colour}"
          title=${`${part.label}: ${size(part.bytes)}`} style=${{ width: share(part.bytes) }}></span>`,
      )}
      ${marks.map(
        (mark) => html`<span class="mark ${mark.kind}" style=${{ left: `${100 * mark.at}%` }}
          title=${`${MARKS[mark.kind]}: ${size(mark.bytes)}`}></span>`,
      )}
    </div>
    <ul class="legend">
      ${parts.map(
        (part) => html`<li key=${part.label}>
          <i class="${part.kind} c${colour}"></i>${part.label} <b>${size(part.bytes)}</b>
        </li>`,
      )}
      ${marks.map(
        (mark) => html`<li><i class="mark ${mark.kind}"></i>
          ${mark.kind === "limit" ? "limit" : "low mark"} <b>${size(mark.bytes)}</b></li>`,
      )}
    </ul>`;
}
