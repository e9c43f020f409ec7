// Each device's memory, as a bar; in a fleet, node by node.

import { html } from "../vendor/htm-preact.js";
import { cards, colours, marks, parts } from "../js/bars.js";
import { clock, size } from "../js/format.js";
import { backendsOf, devicesOf, nodes, several } from "../js/nodes.js";

export function Devices({ known, now }) {
  const found = Object.keys(known.memory.devices).length;
  return html`<section class="devices" aria-labelledby="devices">
    <h2 id="devices">Devices</h2>
    ${found === 0 &&
    html`<p class="quiet">Which devices there are is known once a model is loaded.</p>`}
    ${several(known)
      ? nodes(known).map((node) => html`<${Node} key=${node.name} node=${node} known=${known} now=${now} />`)
      : html`<${Memory} node=${nodes(known)[0]?.name} host=${known.memory.host} known=${known} />`}
  </section>`;
}

const STATES = { ready: "ready", silent: "does not answer", draining: "is drained" };

function Node({ node, known, now }) {
  const { name, state, since, host } = node;
  return html`<div class="node" role="group" aria-label=${`Node ${name}`}>
    <p><b>${name}</b> <span class="chip ${state === "silent" ? "gone" : state}">${STATES[state] ?? state}</span>${" "}
      ${since && html`<small>since ${clock(since, now)}</small>`}</p>
    <${Memory} node=${name} host=${host} known=${known} />
  </div>`;
}

function Memory({ node, host, known }) {
  const devices = devicesOf(known, node);
  const backends = backendsOf(known, node);
  const of = several(known) ? ` of ${node}` : "";
  return html`${cards(devices).map(
      (card) => html`<${Card} key=${card.names[0]} card=${card} devices=${devices} backends=${backends} of=${of} />`,
    )}
    ${host?.total_bytes != null && html`<${Host} host=${host} of=${of} />`}`;
}

function Card({ card, devices, backends, of }) {
  const { names, device } = card;
  const name = names.join(", ");
  const bar = parts(card, backends);
  const colour = colours(devices).get(device.name);
  const free = device.free_bytes == null ? "free: unknown" : `${size(device.free_bytes)} free`;
  return html`<article class="device">
    <h3>
      ${name} <small>${names.length > 1 ? "on one card" : device.description}</small>
      <span class="total">${free} of ${size(device.total_bytes)}</span>
    </h3>
    ${bar === null
      ? html`<p class="quiet">Nobody can read its memory; ours: ${size(device.ours_bytes)}.</p>`
      : html`<${Bar} parts=${bar} marks=${marks(device)} total=${device.total_bytes}
          colour=${colour} label=${`Memory of ${name}${of}`} />`}
    ${device.problem && html`<p class="bad">${device.problem}</p>`}
  </article>`;
}

function Host({ host, of }) {
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
    <${Bar} parts=${bar} marks=${[]} total=${host.total_bytes} colour=${0} label=${`Main memory${of}`} />
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
