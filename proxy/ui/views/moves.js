// What happened lately, and why: moves with what they cost, and models that came and went.

import { html, useState } from "../vendor/htm-preact.js";
import { clock } from "../js/format.js";
import { several } from "../js/nodes.js";
import { cost, sentence, why } from "../js/words.js";

const SHOWN = 12;

export function Moves({ known, now }) {
  const [all, setAll] = useState(false);
  const many = several(known);
  const told = known.events.filter((event) => event.kind === "moved" || sentence(event));
  // What nodes tell when a front has just come to them is older than what others told before.
  if (many) told.sort((a, b) => b.at.localeCompare(a.at));
  const shown = all ? told : told.slice(0, SHOWN);
  return html`<section aria-labelledby="moves">
    <h2 id="moves">Moves</h2>
    ${told.length === 0 && html`<p class="quiet">Nothing has moved yet.</p>`}
    <ol class="rows moves" aria-live="polite" aria-relevant="additions">
      ${shown.map(
        (event) => html`<li key=${event.id}>
          <time datetime=${event.at}>${clock(event.at, now)}</time>
          <span>
            ${many && event.node && html`<span class="chip where">${event.node}</span> `}
            ${event.kind === "moved" ? html`<${Move} move=${event} />` : sentence(event)}
          </span>
        </li>`,
      )}
    </ol>
    ${told.length > SHOWN &&
    html`<button class="plain" aria-expanded=${String(all)} onClick=${() => setAll(!all)}>
      ${all ? "Fewer" : `All ${told.length}`}
    </button>`}
  </section>`;
}

function Move({ move }) {
  return html`<b>${move.model}</b>: <span class="number">${move.from} → ${move.to}</span> layers on the CPU,
    ${" "}${why(move)} <small>${cost(move)}</small>`;
}
